from penstock.workflow import Workflow, canonical_json, diff, digest, parse_workflow
from penstock.workflow.fields import format_duration, parse_duration
from workflow.samples import HEAD, parse

BODY = """
inputs: {a: {type: string}, b: {type: integer, default: 1}}
timeout: 1h
nodes:
  - {id: scan, agent: scanner, with: {repository_path: "{{ inputs.a }}"}, retry: {max: 3}}
  - {id: tell, agent: runner, needs: [scan], on_error: clean}
error_branches: {clean: [{id: tidy, agent: runner}]}
"""


def test_digest_ignores_form() -> None:
    other = parse_workflow(
        """
# a comment
kind: Workflow
nodes:
- with: {"repository_path": '{{ inputs.a }}'}
  agent: scanner
  id: scan
  retry: {base: 2000ms}
- {agent: runner, id: tell, on_error: clean, needs: [scan], run: on_success}
timeout: 60m
error_branches:
  clean: [{agent: runner, id: tidy}]
inputs:
  b: {default: 1, type: integer}
  a: {type: string}
metadata: {name: sample}
apiVersion: penstock/v1
""",
        file="other.yaml",
    )

    assert digest(other) == digest(parse(BODY))
    assert len(digest(other)) == 64


def test_digest_follows_meaning() -> None:
    assert digest(parse(BODY)) != digest(parse(BODY.replace("max: 3", "max: 4")))
    assert digest(parse(BODY)) != digest(parse(BODY.replace("default: 1", "default: 2")))


def test_canonical_text_is_a_workflow_file() -> None:
    text = canonical_json(parse(BODY))

    again = parse_workflow(text, file="again.json")

    assert canonical_json(again) == text
    assert diff(again, parse(BODY)) == []


def test_diff_lists_changes_by_path() -> None:
    new = (
        BODY.replace("timeout: 1h\n", "concurrency: {key: k}\n")
        .replace("retry: {max: 3}", "retry: {max: 5}")
        .replace("inputs.a }}", "inputs.a | trim }}")
        .replace("id: tidy", "id: sweep")
        .replace("default: 1", "default: '" + "x" * 300 + "'")
    )

    lines = [str(change) for change in diff(parse(BODY), parse(new))]

    assert lines == [
        '+ concurrency: {"key": "k"}',
        '+ error_branches.clean.sweep: {"agent": "runner", "id": "sweep"}',
        '- error_branches.clean.tidy: {"agent": "runner", "id": "tidy"}',
        f'~ inputs.b.default: 1 -> "{"x" * 198}…',
        '+ nodes.scan.retry: {"max": 5}',
        '~ nodes.scan.with.repository_path: "{{ inputs.a }}" -> "{{ inputs.a | trim }}"',
        '- timeout: "1h"',
    ]


def test_diff_without_branches() -> None:
    old = parse("nodes: [{id: a, agent: runner, needs: []}]\n")
    new = parse("nodes: [{id: a, agent: runner, needs: [b]}, {id: b, agent: runner}]\n")

    assert [change.path for change in diff(old, new)] == ["nodes.a.needs", "nodes.b"]


def test_durations_round_trip() -> None:
    written = {"90s": "90s", "60m": "1h", "1h30m": "90m", "36h": "36h", "2d": "2d", "1.5s": "1500ms"}

    for text, expected in written.items():
        seconds = parse_duration(text)
        assert isinstance(seconds, float)
        assert format_duration(seconds) == expected
        assert parse_duration(expected) == seconds


def test_workflow_remembers_its_file() -> None:
    workflow = parse(BODY)

    assert isinstance(workflow, Workflow)
    assert workflow.source is not None
    assert workflow.source.text.startswith(HEAD)
