# Every recipe is a step of scripts/tooling/check.py; without just, call that or scripts/local/run-tests.sh.

check := ".venv/bin/python scripts/tooling/check.py"

[private]
default:
    @just --list

# Make or refresh .venv, the scanners and the sandbox
setup:
    bash -c '. scripts/local/python.sh && "$(find_python)" scripts/local/prepare.py --dev'

# Start everything, scan this repository, stay up
serve:
    scripts/local/run.sh

# Format, and mend what can be mended
fmt:
    {{check}} fmt

# Lint, without changing anything
lint:
    {{check}} lint

# Check the types
types:
    {{check}} types

# Check the direction of imports
imports:
    {{check}} imports

# Check the length of files and functions
size:
    {{check}} size

# Run tests: all but the slow ones, or what is named
test *arguments:
    {{ if arguments == "" { check + " test" } else { ".venv/bin/pytest " + arguments } }}

# Run the tests and hold their coverage against the gates
cov:
    {{check}} cov

# Write the reference pages that follow from the code
docs:
    {{check}} docs

# Resolve requirements/*.txt again after a change of pyproject.toml (needs uv)
pins:
    {{check}} pins

# What must pass before a change lands
all:
    {{check}}

# The same and the slow tests
full:
    {{check}} --full
