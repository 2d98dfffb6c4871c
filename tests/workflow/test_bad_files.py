"""One mistake per file: the exact place and the hint."""

import pytest

from penstock.errors import SpecError
from penstock.workflow import check_workflow, parse_workflow
from workflow.samples import CATALOG, HEAD, check

_SCAN = '  - {id: scan, agent: scanner, with: {repository_path: "/r"}}\n'
_NODES = f"nodes:\n{_SCAN}"
_OPEN = "inputs: {repo: {type: string}}\n"
_ALERT = 'triggers: [{type: alertmanager, inputs: {repo: "{{ trigger.groupKey }}"}}]\n'

SHAPE = {
    "key of a list": (
        "inputs: {a: {type: array, items: {x: 1}, enum: 5}}\n" + _NODES,
        "4:48",
        "must be a list",
    ),
    "block name": ("nodes:\n  - {id: a, agent: x, blocks: {' ': b}}\n", "5:32", "must match"),
    "unknown key": ("nods: []\n" + _NODES, "4:1", "unknown key 'nods'; did you mean 'nodes'?"),
    "unknown key of a node": (
        "nodes:\n  - {id: a, agnt: scanner, agent: scanner}\n",
        "5:13",
        "unknown key 'agnt'; did you mean 'agent'?",
    ),
    "missing": ("inputs: {}\n", "1:1", "'nodes' is missing"),
    "neither": ("nodes:\n  - {id: a}\n", "5:5", "give either agent or workflow"),
    "id": ("nodes:\n  - {id: a-b, agent: x}\n", "5:10", "lower-case letters, digits and underscores"),
    "duration": (_NODES + "timeout: 5\n", "6:10", "a duration is a number and a unit"),
    "duration too long": (_NODES + "timeout: 999d\n", "6:10", "at most 366d"),
    "choice": (
        "nodes:\n  - {id: a, agent: x, run: allways}\n",
        "5:28",
        "'allways' is not known here; did you mean 'always'?",
    ),
    "choice of a wrong type": (
        "nodes:\n  - {id: a, agent: x, run: 1}\n",
        "5:28",
        "1 is not known here; known:",
    ),
    "trigger type": (
        _NODES + "triggers: [{type: alertmanger}]\n",
        "6:12",
        "did you mean 'alertmanager'?",
    ),
    "trigger without type": (_NODES + "triggers: [{key: a}]\n", "6:12", "'type' is missing"),
    "trigger key": (
        _NODES + "triggers: [{type: schedule, every: 1h, filtr: x}]\n",
        "6:40",
        "unknown key 'filtr'",
    ),
    "schedule": (_NODES + "triggers: [{type: schedule}]\n", "6:12", "give either cron or every"),
    "cron": (_NODES + 'triggers: [{type: schedule, cron: "* *"}]\n', "6:35", "five fields"),
    "redis": (_NODES + "triggers: [{type: redis}]\n", "6:12", "give either list or channel"),
    "escalate": (
        "nodes:\n  - {id: a, agent: x, approval: {on_timeout: escalate}}\n",
        "5:33",
        "on_timeout: escalate needs escalate",
    ),
    "approver": (
        "nodes:\n  - {id: a, agent: x, approval: {require: {from: [sre]}}}\n",
        "5:51",
        "write user:name or group:name",
    ),
    "list": ("nodes:\n  - {id: a, agent: x, needs: b}\n", "5:30", "must be a list"),
    "number": ("nodes:\n  - {id: a, agent: x, retry: {max: '3'}}\n", "5:36", "must be a whole number"),
    "input name": ("inputs: {a-b: {type: string}}\n" + _NODES, "4:10", "letters, digits and underscores"),
    "input key": ("inputs: {a: {type: string, enm: [b]}}\n" + _NODES, "4:28", "did you mean 'enum'?"),
    "foreach": (
        "nodes:\n  - {id: a, agent: x, foreach: {in: 3, as: i}}\n",
        "5:37",
        "must be a list, or an expression",
    ),
    "branch": (_NODES + "error_branches: {b: [{id: c, agent: x, whn: y}]}\n", "6:40", "did you mean 'when'?"),
    "long name": (
        f"nodes:\n  - {{id: {'a' * 61}, agent: x}}\n",
        "5:10",
        "at most 60 characters",
    ),
}


@pytest.mark.parametrize(("body", "place", "hint"), SHAPE.values(), ids=SHAPE.keys())
def test_parse_refuses_shape(body: str, place: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_workflow(HEAD + body, file="w.yaml")

    _has_only(caught.value, place, hint)


def _node(text: str, head: str = "") -> str:
    return f"{head}nodes:\n{_SCAN}  - {{id: x, {text}}}\n"


def _with(text: str, head: str = "") -> str:
    return _node(f"agent: scanner, with: {{repository_path: /r, {text}}}", head)


def _runner(text: str, head: str = "") -> str:
    return _node(f"agent: runner, with: {{{text}}}", head)


CHECKS = {
    "agent": (_node("agent: scaner"), "6:20", "unknown agent 'scaner'; did you mean 'scanner'?"),
    "node in needs": (_node("agent: runner, needs: [scna]"), "6:36", "did you mean 'scan'?"),
    "self in needs": (_node("agent: runner, needs: [x]"), "6:36", "node 'x' needs itself"),
    "duplicate id": (f"nodes:\n{_SCAN}{_SCAN}", "6:10", "node 'scan' is already given in line 5"),
    "cycle": (
        "nodes:\n  - {id: a, agent: runner, needs: [b]}\n  - {id: b, agent: runner, needs: [a]}\n",
        "5:10",
        "nodes wait for each other: a -> b -> a",
    ),
    "reference to node": (
        _with('severity: "{{ nodes.scna.output.note }}"'),
        "6:71",
        "unknown node 'scna'; did you mean 'scan'?",
    ),
    "reference to itself": (_runner('text: "{{ nodes.x.output.ok }}"'), "6:45", "reads its own output"),
    "reference to output": (
        _runner('text: "{{ nodes.scan.output.nte }}"'),
        "6:45",
        "nodes.scan.output has no 'nte'; did you mean 'note'?",
    ),
    "reference below a number": (
        _runner('text: "{{ nodes.scan.output.score.x }}"'),
        "6:45",
        "nodes.scan.output.score has no 'x'",
    ),
    "reference to node alone": (_runner('text: "{{ nodes.scan }}"'), "6:45", "read .output or .status"),
    "reference to input": (
        _runner('text: "{{ inputs.rep }}"', _OPEN),
        "7:45",
        "unknown input 'rep'; did you mean 'repo'?",
    ),
    "reference to name": (_runner('text: "{{ input.repo }}"', _OPEN), "7:45", "did you mean 'inputs'?"),
    "reference to run": (_runner('text: "{{ run.nam }}"'), "6:45", "did you mean 'name'?"),
    "trigger without default": (_runner('text: "{{ trigger.a }}"'), "6:45", "a run need not have a trigger"),
    "filter": (_runner('text: "{{ 1 | strng }}"'), "6:49", "unknown filter 'strng'; did you mean 'string'?"),
    "syntax": (_runner('text: "ab {{ 1 1 }}"'), "6:50", "expected token"),
    "filter on wrong type": (
        _runner('text: "{{ nodes.scan.output.score | upper }}"'),
        "6:71",
        "upper takes text, not a number",
    ),
    "comparison": (
        _node('agent: runner, when: "{{ nodes.scan.output.passed == 1 }}"'),
        "6:38",
        "== cannot compare true or false with a whole number",
    ),
    "order": (
        _node('agent: runner, when: "{{ nodes.scan.output.passed < 1 }}"'),
        "6:38",
        "< cannot compare",
    ),
    "in": (_node('agent: runner, when: "{{ 1 in 2 }}"'), "6:38", "in cannot compare"),
    "never equal": (
        _node(
            "agent: runner, when: \"{{ inputs.s == 'c' }}\"", "inputs: {s: {type: string, enum: [a, b]}}\n"
        ),
        "7:38",
        "'c' is never equal: the value is one of 'a', 'b'",
    ),
    "condition of wrong type": (
        _node('agent: runner, when: "{{ nodes.scan.output.score }}"'),
        "6:34",
        "a condition gives true or false, not a number",
    ),
    "condition with text": (_node('agent: runner, when: "a {{ 1 }}"'), "6:35", "nothing around it"),
    "condition never true": (_node('agent: runner, when: "{{ false }}"'), "6:34", "never true"),
    "input of an agent": (
        _with("sevrity: info"),
        "6:57",
        "agent 'scanner' has no input 'sevrity'; did you mean 'severity'?",
    ),
    "missing input": (_node("agent: scanner, with: {depth: 1}"), "6:35", "needs the input 'repository_path'"),
    "missing input without with": (_node("agent: scanner"), "6:5", "needs the input 'repository_path'"),
    "literal type": (_with("depth: deep"), "6:64", "must be a whole number, not text"),
    "literal choice": (_with("severity: warn"), "6:67", "'warn' is not allowed; did you mean 'warning'?"),
    "literal limit": (_runner("timeout: 61"), "6:44", "must be at most 60"),
    "text for a number": (
        _with('depth: "a {{ nodes.scan.output.score }}"'),
        "6:64",
        "must be a whole number, but the expression gives text",
    ),
    "strange choice": (
        _with('severity: "{{ inputs.s }}"', "inputs: {s: {type: string, enum: [info, loud]}}\n"),
        "7:67",
        "may be 'loud', which is not allowed here; known: critical, info, warning",
    ),
    "nested key": (
        _runner('steps: [{name: "{{ run.name }}", command: x, insde: []}]'),
        "6:80",
        "unknown key 'insde'; did you mean 'inside'?",
    ),
    "nested missing": (_runner('steps: [{name: "{{ run.name }}"}]'), "6:43", "'command' is missing"),
    "nested list": (_runner('steps: {a: "{{ run.name }}"}'), "6:42", "must be a list, not a mapping"),
    "nested mapping": (_runner('options: ["{{ run.name }}"]'), "6:44", "must be a mapping, not a list"),
    "optional choice": (_runner("mode: quick"), "6:41", "fits none of the allowed forms"),
    "input default": (
        "inputs: {n: {type: integer, default: x}}\n" + _NODES,
        "4:38",
        "must be a whole number",
    ),
    "input schema": ("inputs: {n: {type: string, pattern: '['}}\n" + _NODES, "4:13", "not a JSON Schema"),
    "input allow": ("inputs: {n: {type: integer, allow: l}}\n" + _NODES, "4:36", "allow is for a text"),
    "trigger input": (
        _OPEN.replace("string", "string, default: a")
        + "triggers: [{type: alertmanager, inputs: {rep: a}}]\n"
        + _NODES,
        "5:42",
        "workflow 'sample' has no input 'rep'; did you mean 'repo'?",
    ),
    "trigger field": (
        'inputs: {repo: {type: string}}\ntriggers: [{type: alertmanager, inputs: {repo: "{{'
        ' trigger.comonLabels.a }}"}}]\n' + _NODES,
        "5:52",
        "trigger has no 'comonLabels'; did you mean 'commonLabels'?",
    ),
    "trigger filter": (
        "triggers: [{type: alertmanager, filter: \"{{ trigger.status == 'fire' }}\"}]\n" + _NODES,
        "4:45",
        "'fire' is never equal",
    ),
    "trigger key": (
        "triggers: [{type: webhook, name: w, signature: hmac, secret: a/b, key: '{{ inputs.a }}'}]\n"
        + _NODES,
        "4:76",
        "unknown name 'inputs'; known: trigger",
    ),
    "always": (
        _node('agent: runner, run: always, with: {text: "{{ nodes.scan.output.note }}"}'),
        "6:58",
        "node 'scan' may have failed or been skipped when this node runs; add | default(…)",
    ),
    "continue": (
        (
            "nodes:\n  - {id: a, agent: runner, on_error: continue}\n  - {id: b, agent: runner, with:"
            ' {text: "x {{ nodes.a.output.ok }}"}}\n'
        ),
        "6:47",
        "node 'a' may fail and the run goes on (on_error: continue)",
    ),
    "output of a skipped node": (
        (
            'nodes:\n  - {id: a, agent: runner, when: "{{ run.name == \'\' }}"}\noutputs: {ok: "{{'
            ' nodes.a.output.ok }}"}\n'
        ),
        "6:19",
        "node 'a' may have been skipped when the run completes",
    ),
    "error branch": (_node("agent: runner, on_error: clean"), "6:38", "unknown error branch 'clean'"),
    "unused branch": (
        _NODES + "error_branches: {b: [{id: c, agent: runner}]}\n",
        "6:18",
        "no node has on_error: b",
    ),
    "branch name": (
        _NODES + "error_branches: {fail: [{id: c, agent: runner}]}\n",
        "6:18",
        "has a meaning already",
    ),
    "branch in branch": (
        _node("agent: runner, on_error: b") + "error_branches: {b: [{id: c, agent: runner, on_error: b}]}\n",
        "7:55",
        "can only fail or continue",
    ),
    "need across branches": (
        _node("agent: runner, on_error: b")
        + "error_branches: {b: [{id: c, agent: runner, needs: [scan]}]}\n",
        "7:53",
        "node 'scan' is not in the same branch",
    ),
    "branch reads main": (
        _node("agent: runner, on_error: b")
        + 'error_branches: {b: [{id: c, agent: runner, with: {text: "{{ nodes.scan.output.note }}"}}]}\n',
        "7:62",
        "node 'scan' may have no output when this branch starts",
    ),
    "error outside a branch": (_runner('text: "{{ error.message }}"'), "6:45", "unknown name 'error'"),
    "group": (
        _node('agent: runner, approval: {require: {from: ["group:sra"]}}'),
        "6:56",
        "unknown group 'sra'; did you mean 'sre'?",
    ),
    "group of escalation": (
        _node('agent: runner, approval: {escalate: {after: 1h, to: ["user:a", "group:x"]}}'),
        "6:76",
        "unknown group 'x'",
    ),
    "all inputs": (
        _runner('text: "{{ inputs | tojson }}"', _OPEN),
        "7:45",
        "read one value of inputs, as in inputs.name",
    ),
    "title": (_node('agent: runner, approval: {title: "{{ x }}"}'), "6:50", "unknown name 'x'"),
    "block": (
        _node("agent: runner, blocks: {gitlab: a}"),
        "6:37",
        "takes no block 'gitlab'; did you mean 'github'?",
    ),
    "undo": (_with("depth: 1}, undo: automatic, blocks: {github: a"), "6:74", "agent 'scanner' has no undo"),
    "cache": (_node("agent: runner, cache: {ttl: 1m}"), "6:35", "its output is not cached"),
    "foreach name": (
        _node("agent: runner, foreach: {in: [1], as: run}"),
        "6:51",
        "'run' has a meaning already",
    ),
    "foreach text": (
        _node('agent: runner, foreach: {in: "a {{ run.name }}", as: i}'),
        "6:42",
        "must be a list, or one",
    ),
    "foreach type": (
        _node('agent: runner, foreach: {in: "{{ run.name }}", as: i}'),
        "6:42",
        "the expression gives text",
    ),
    "foreach reference": (
        _node('agent: runner, foreach: {in: "{{ nodes.scan.output.nope }}", as: i}, with: {text: "{{ i }}"}'),
        "6:46",
        "nodes.scan.output has no 'nope'",
    ),
    "foreach length": (_node("agent: runner, foreach: {in: [1, 2], as: i, max_items: 1}"), "6:42", "2 items"),
    "item in when": (
        _node('agent: runner, foreach: {in: [1], as: i}, when: "{{ i == 1 }}"'),
        "6:65",
        "unknown name 'i'",
    ),
    "verify agent": (_node("agent: runner, verify: {agent: runner}"), "6:44", "needs an approval"),
    "verify input": (
        _node("agent: runner, verify: {agent: scanner, with: {repository_path: /r, dpth: 1}}"),
        "6:81",
        "did you mean 'depth'?",
    ),
    "workflow": (
        _node("workflow: sub-scam"),
        "6:23",
        "unknown workflow 'sub-scam'; did you mean 'sub-scan'?",
    ),
    "workflow itself": (_node("workflow: sample"), "6:23", "workflow 'sample' runs itself"),
    "workflow input": (
        _node("workflow: sub-scan, with: {where: /r, listed: a, dept: 1}"),
        "6:62",
        "workflow 'sub-scan' has no input 'dept'; did you mean 'depth'?",
    ),
    "workflow output": (
        _node("workflow: sub-scan, with: {where: /r, listed: a}")
        + 'outputs: {n: "{{ nodes.x.output.totl }}"}\n',
        "7:18",
        "did you mean 'total'?",
    ),
    "concurrency": (
        _NODES + 'concurrency: {key: "{{ nodes.scan.output.note }}"}\n',
        "6:24",
        "unknown name 'nodes'",
    ),
    "failure of nothing": (_node("agent: runner, run: on_failure"), "6:10", "needs no node that could fail"),
    "never": (
        _node("agent: runner, run: on_failure, needs: [scan]")
        + "  - {id: y, agent: runner, needs: [x, scan]}\n",
        "7:10",
        "node 'y' never runs: it needs 'x'",
    ),
    "taint through an input": (
        _OPEN + _ALERT + _node('agent: scanner, with: {repository_path: "{{ inputs.repo }}"}'),
        "8:57",
        (
            "a trigger fills input 'repo' with untrusted data, which reaches a path here; give input"
            " 'repo' an enum"
        ),
    ),
    "taint of the trigger": (
        _node("agent: scanner, with: {repository_path: \"{{ trigger.x | default('') }}\"}"),
        "6:57",
        "trigger.x is untrusted and reaches a path; pass it through an input with enum or allow",
    ),
    "taint of an output": (
        _node('agent: scanner, with: {repository_path: "{{ nodes.scan.output.note }}"}'),
        "6:57",
        "nodes.scan.output.note is untrusted and reaches a path",
    ),
    "taint of another slot": (
        _runner('steps: [{name: a, command: "{{ nodes.scan.output.root }}"}]'),
        "6:66",
        "reaches a command",
    ),
    "taint of an item": (
        _node(
            'agent: scanner, foreach: {in: "{{ nodes.scan.output.findings }}", as: f}, with:'
            ' {repository_path: "{{ f.rule }}"}'
        ),
        "6:115",
        "f.rule is untrusted",
    ),
    "taint of one alternative": (
        _runner("either: {command: \"{{ trigger.x | default('') }}\"}"),
        "6:57",
        "reaches a command",
    ),
    "taint of a fixed item": (
        _runner('pair: [1, "{{ trigger.x | default([]) }}"]'),
        "6:49",
        "reaches a command",
    ),
    "taint of the run's name": (
        _node('agent: scanner, with: {repository_path: "{{ run.name }}"}'),
        "6:57",
        "run.name is untrusted",
    ),
    "taint below": (
        _runner('steps: "{{ trigger.steps | default([]) }}"'),
        "6:46",
        "reaches a command",
    ),
    "taint of a sub-workflow": (
        _node('workflow: sub-scan, with: {where: "{{ nodes.scan.output.note }}", listed: a}'),
        "6:51",
        "reaches a path",
    ),
    "taint of verify": (
        _node('agent: runner, verify: {agent: scanner, with: {repository_path: "{{ run.requester }}"}}'),
        "6:81",
        "run.requester is untrusted",
    ),
    "taint of the error": (
        _node("agent: runner, on_error: b")
        + 'error_branches: {b: [{id: c, agent: scanner, with: {repository_path: "{{ error.message }}"}}]}\n',
        "7:74",
        "error.message is untrusted",
    ),
}


@pytest.mark.parametrize(("body", "place", "hint"), CHECKS.values(), ids=CHECKS.keys())
def test_check_refuses(body: str, place: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        check(body)

    _has_only(caught.value, place, hint)


def _has_only(error: SpecError, place: str, hint: str) -> None:
    found = str(error)
    assert f"w.yaml:{place}: " in found
    assert hint in found
    assert len(error.problems) == 1, found


def test_check_reports_everything_at_once() -> None:
    body = _node("agent: scaner, needs: [scna], when: '{{ 1 | nope }}'") + "timeout: 1h\n"

    with pytest.raises(SpecError) as caught:
        check(body)

    assert [problem.column for problem in caught.value.problems] == [20, 36, 57]


def test_check_refuses_too_many_nodes() -> None:
    branch = "".join(f"    - {{id: c{number}, agent: runner}}\n" for number in range(500))
    body = _node("agent: runner, on_error: b") + f"error_branches:\n  b:\n{branch}"

    with pytest.raises(SpecError, match="at most 500 nodes, not 502"):
        check(body)


def test_parse_refuses_what_is_no_mapping() -> None:
    with pytest.raises(SpecError, match=r"w\.yaml:1:1: a workflow file is a mapping"):
        parse_workflow("- a", file="w.yaml")


def test_check_refuses_workflows_in_a_ring() -> None:
    other = parse_workflow(
        HEAD.replace("sample", "other") + "nodes: [{id: a, workflow: sample}]\n", file="other.yaml"
    )
    workflow = parse_workflow(HEAD + "nodes: [{id: a, workflow: other}]\n", file="w.yaml")
    catalog = type(CATALOG)(CATALOG.agents, {"other": other, "sample": workflow})

    with pytest.raises(SpecError, match="workflows run each other: sample -> other -> sample"):
        check_workflow(workflow, catalog)
