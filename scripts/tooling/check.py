"""Run the checks of this repository, one after the other, and sum them up.

Every step is a list of commands; `just`, `run-tests.sh` and build machines all come through here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

COVERAGE_PCT = 93
"""Least coverage of lines and branches together, over everything: what was measured; only to be raised."""
COVERAGE_PURE_PCT = 99
"""The same for `penstock.workflow`, which needs nothing around it."""

_PYTEST = ("pytest", "--quiet", "-n", "2", "--dist", "loadscope", "--durations", "10")
_MEASURED = ("--cov", "--cov-report", "", "--no-cov-on-fail")
_PURE = "*/penstock/workflow/*"

COMMANDS: Mapping[str, Sequence[Sequence[str]]] = {
    "fmt": (("ruff", "check", "--fix", "--quiet", "."), ("ruff", "format", ".")),
    "lint": (("ruff", "format", "--check", "."), ("ruff", "check", ".")),
    "types": (("pyright",),),
    "imports": (("lint-imports",),),
    "size": (("python", "scripts/tooling/size.py"),),
    "docs": (("python", "scripts/tooling/reference.py"),),
    "docs-fresh": (("python", "scripts/tooling/reference.py", "--check"),),
    "pins": (("python", "scripts/tooling/pins.py"),),
    "test": ((*_PYTEST, "-m", "not slow"),),
    "test-all": (_PYTEST,),
    "cov": (
        (*_PYTEST, "-m", "not slow", *_MEASURED),
        ("coverage", "report", "--fail-under", str(COVERAGE_PCT)),
        ("coverage", "report", "--include", _PURE, "--fail-under", str(COVERAGE_PURE_PCT)),
    ),
    "slow": ((*_PYTEST, "-m", "slow"),),
}

LANDING = ("lint", "types", "imports", "size", "docs-fresh", "cov")
FULL = (*LANDING, "slow")


@dataclass(frozen=True)
class Outcome:
    """How one step ended."""

    name: str
    ok: bool
    seconds: float


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description="Run the checks of this repository.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help="steps to run; none means the landing set")
    parser.add_argument("--full", action="store_true", help="the landing set and the slow tests")
    parser.add_argument("--list", action="store_true", help="name the steps and what they run")
    options = parser.parse_args()
    if options.list:
        for name, commands in COMMANDS.items():
            print(f"{name:12}{'; '.join(' '.join(command) for command in commands)}")
        return 0
    if unknown := [name for name in options.steps if name not in COMMANDS]:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(COMMANDS)}")
    chosen = options.steps or (FULL if options.full else LANDING)
    return _conclude([run_step(name) for name in chosen])


def run_step(name: str) -> Outcome:
    """Run the commands of a step until one fails."""
    began = time.monotonic()
    print(f"\n== {name}", flush=True)
    ok = all(_run(command) for command in COMMANDS[name])
    return Outcome(name, ok, time.monotonic() - began)


def _run(command: Sequence[str]) -> bool:
    print("$", *command, flush=True)
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, check=False, env={**os.environ, "PATH": path}
    )
    return done.returncode == 0


def _conclude(outcomes: Sequence[Outcome]) -> int:
    print("\n== summary")
    for outcome in outcomes:
        print(f"{'ok  ' if outcome.ok else 'FAIL'} {outcome.name:12}{outcome.seconds:7.1f} s")
    print(f"     {'all':12}{sum(outcome.seconds for outcome in outcomes):7.1f} s")
    return 0 if all(outcome.ok for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
