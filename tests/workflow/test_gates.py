"""What a file may say of a gate: who, until when, what may be changed, and what people said before."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from penstock.errors import SpecError
from penstock.workflow import canonical_json, check_workflow, parse_workflow, workflow_json_schema
from penstock.workflow.spec import Approval
from workflow.samples import CATALOG, HEAD, check, parse

NEW = "\n"
GATE = """
nodes:
  - id: fix
    agent: runner
    foreach: {in: [a, b], as: name}
    with: {text: "{{ approval.note | default('none') }}", timeout: 5}
    approval:
      title: "Round {{ approval.round }} of {{ name }}"
      require: {count: 2, from: ["group:sre", "group:security"], distinct_groups: true}
      forbid: [requester, last_editor]
      timeout: 2h
      on_timeout: escalate
      remind: [30m]
      escalate: {to: ["user:boss"]}
      editable:
        timeout: {type: integer, minimum: 1, maximum: 60}
        mode: {enum: [fast, slow]}
      valid: 4h
      per: node
"""
FIRST: dict[str, JsonValue] = {"approval": {"round": 1}, "name": "a"}
AGAIN: dict[str, JsonValue] = {"approval": {"round": 2, "note": "smaller"}, "name": "a"}


def gate(text: str) -> Approval:
    approval = parse(f"nodes:\n  - {{id: a, agent: runner, approval: {text}}}\n").nodes[0].approval
    assert approval is not None
    return approval


def refused(marked: str) -> str:
    """Check a file with one mistake, at the place that `§` marks; give the message."""
    before = marked.partition("§")[0]
    place = f"w.yaml:{before.count(NEW) + 4}:{len(before) - before.rfind(NEW)}: "
    with pytest.raises(SpecError) as caught:
        check(marked.replace("§", ""))
    (problem,) = caught.value.problems
    assert str(problem).startswith(place)
    return problem.message


def node(text: str) -> str:
    return f"nodes:\n  - {{id: a, {text}}}\n"


def test_a_gate_says_who_until_when_and_what_may_be_changed() -> None:
    approval = check(GATE).nodes["fix"].spec.approval

    assert approval is not None
    assert approval.require.distinct_groups
    assert approval.forbid == ["requester", "last_editor"]
    assert (approval.timeout, approval.on_timeout, approval.remind) == (7200.0, "escalate", [1800.0])
    assert approval.escalate is not None
    assert (approval.escalate.after, approval.escalate.to) == (None, ["user:boss"])
    assert approval.editable["mode"] == {"enum": ["fast", "slow"]}
    assert (approval.valid, approval.per) == (14_400.0, "node")


def test_a_gate_says_nothing_of_what_is_left_to_the_defaults() -> None:
    approval = gate("{}")

    assert (approval.on_timeout, approval.valid, approval.per) == ("reject", 86_400.0, "item")
    assert (approval.timeout, approval.escalate, approval.editable) == (None, None, {})
    assert not approval.require.distinct_groups


def test_a_gate_keeps_its_meaning_in_the_canonical_text() -> None:
    workflow = parse(GATE)
    again = parse_workflow(canonical_json(workflow), file="again.json")

    assert again.nodes == workflow.nodes
    stated = parse(
        "nodes:\n  - {id: a, agent: runner, approval: {valid: 24h, per: item, on_timeout: reject}}\n"
    )
    assert canonical_json(stated) == canonical_json(
        parse("nodes:\n  - {id: a, agent: runner, approval: {}}\n")
    )


def test_the_schema_for_editors_knows_the_gate() -> None:
    definitions = workflow_json_schema()["$defs"]

    assert isinstance(definitions, dict)
    assert {"editable", "valid", "per"} <= set(definitions["Approval"]["properties"])  # type: ignore[index,call-overload,arg-type]


@pytest.mark.parametrize(("scope", "text", "title"), [(FIRST, "none", 1), (AGAIN, "smaller", 2)])
def test_inputs_and_title_know_what_people_said(scope: dict[str, JsonValue], text: str, title: int) -> None:
    node = check(GATE).nodes["fix"]

    assert node.render_inputs(scope) == {"text": text, "timeout": 5}
    assert node.render_title(scope) == f"Round {title} of a"


def test_a_policy_may_gate_any_agent_so_all_of_them_may_read_what_people_said() -> None:
    check('nodes:\n  - {id: a, agent: scanner, with: {repository_path: /r, depth: "{{ approval.round }}"}}\n')


def test_a_note_may_fill_a_slot_for_its_writer_has_signed_in() -> None:
    path = "{{ approval.note | default('/r') }}"

    checked = check(f'nodes:\n  - {{id: a, agent: scanner, with: {{repository_path: "{path}"}}}}\n')

    assert checked.exposed == {}
    assert checked.nodes["a"].render_inputs(AGAIN) == {"repository_path": "smaller"}


SHAPE = {
    "fail without timeout": ("§{on_timeout: fail}", "on_timeout: fail needs timeout"),
    "escalate without timeout": (
        "§{on_timeout: escalate, escalate: {to: ['user:a']}}",
        "on_timeout: escalate needs timeout",
    ),
    "escalate to nobody": (
        "§{on_timeout: escalate, timeout: 1h}",
        "on_timeout: escalate needs escalate: {to}",
    ),
    "empty escalation": ("{escalate: {after: 1h, to: §[]}}", "value should have at least 1 item"),
    "escalate at no time": (
        "§{escalate: {to: ['user:a']}}",
        "escalate needs after, or on_timeout: escalate",
    ),
    "escalate too late": (
        "§{timeout: 1h, escalate: {after: 60m, to: ['user:a']}}",
        "escalate.after must be shorter than timeout",
    ),
    "distinct groups of nothing": (
        "{require: §{distinct_groups: true}}",
        "distinct_groups needs from: [group:…]",
    ),
    "forbidden": ("{forbid: [§editor]}", "'editor' is not known here; did you mean 'last_editor'?"),
    "on_timeout": (
        "{timeout: 1h, on_timeout: §fial}",
        "'fial' is not known here; did you mean 'fail'?",
    ),
    "per": ("{per: §items}", "'items' is not known here; did you mean 'item'?"),
    "valid": ("{valid: §3}", "a duration is a number and a unit"),
    "editable": ("{editable: §[a]}", "must be a mapping"),
    "editable without schema": ("{editable: {text: §string}}", "must be a mapping"),
    "editable name": (
        "{editable: {§a-b: {}}}",
        "'a-b': a name here is letters, digits and underscores",
    ),
    "key": ("{§editabel: {}}", "unknown key 'editabel'; did you mean 'editable'?"),
    "key of require": (
        "{require: {§distinct: true}}",
        "unknown key 'distinct'; did you mean 'distinct_groups'?",
    ),
}
EDITABLE = {
    "unknown input": ("{§txt: {}}", "agent 'runner' has no input 'txt'; did you mean 'text'?"),
    "no schema": ("{text: §{type: txt}}", "not a JSON Schema: type: "),
    "pattern": ("{text: §{pattern: '['}}", "not a JSON Schema: pattern: "),
    "another type": (
        "{text: §{type: integer}}",
        "input 'text' must be text, but the schema asks for a whole number",
    ),
    "reference": (
        "{text: §{$ref: 'http://127.0.0.1/x'}}",
        "$ref is not taken here; write the schema out",
    ),
    "reference inside": ("{text: §{anyOf: [{$dynamicRef: '#x'}]}}", "$dynamicRef is not taken here"),
    "slot": (
        "{steps: §{type: array}}",
        "input 'steps' holds a command; give an enum of what it may be",
    ),
    "slot that is closed when it is a list": (
        "{steps: §{items: {enum: [a]}}}",
        "input 'steps' holds a command",
    ),
}


@pytest.mark.parametrize(("text", "message"), SHAPE.values(), ids=SHAPE.keys())
def test_a_mistake_of_shape_is_told_with_its_place(text: str, message: str) -> None:
    assert refused(node(f"agent: runner, approval: {text}")).startswith(message)


@pytest.mark.parametrize(("text", "message"), EDITABLE.values(), ids=EDITABLE.keys())
def test_what_cannot_be_changed_is_told_with_its_place(text: str, message: str) -> None:
    assert refused(node(f"agent: runner, approval: {{editable: {text}}}")).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "{text: {}}",
        "{text: {type: string, maxLength: 20}, mode: {enum: [fast, slow]}}",
        "{timeout: {type: integer}, options: {type: object}}",
        "{either: {enum: [{command: [ls]}]}}",
        "{steps: {type: array, items: {enum: [{name: a, command: ls}]}}}",
        "{text: {enum: ['$ref'], properties: {$ref: {}}}}",
    ],
)
def test_what_can_be_changed_is_taken(text: str) -> None:
    check(f"nodes:\n  - {{id: a, agent: runner, approval: {{editable: {text}}}}}\n")


def test_a_gate_of_an_unknown_agent_has_one_mistake() -> None:
    assert "unknown agent" in refused(node("agent: §runer, approval: {editable: {x: {}}}"))


def test_inputs_of_another_workflow_are_known_as_well() -> None:
    inputs = "workflow: sub-scan, with: {where: /r, listed: a}"

    check(node(f"{inputs}, approval: {{editable: {{depth: {{type: integer}}}}}}"))
    unknown = refused(node(f"{inputs}, approval: {{editable: {{§dept: {{}}}}}}"))
    assert unknown == "workflow 'sub-scan' has no input 'dept'; did you mean 'depth'?"
    slot = refused(node(f"{inputs}, approval: {{editable: {{where: §{{type: string}}}}}}"))
    assert slot.startswith("input 'where' holds a path")


NOT_KNOWN = "unknown name 'approval'; known: inputs, nodes, run, trigger"
PLACES = {
    "per node": ("agent: runner, approval: {per: §node}", "per: node is for a node with foreach"),
    "note without default": (
        'agent: runner, with: {text: "{{ §approval.note }}"}',
        "nobody need have sent it back with a note; add | default(…)",
    ),
    "unknown part": (
        'agent: runner, with: {text: "{{ §approval.rond }}"}',
        "approval has no 'rond'; did you mean 'round'?",
    ),
    "below a part": (
        'agent: runner, with: {text: "{{ §approval.round.x }}"}',
        "approval.round has no 'x'",
    ),
    "all of it": (
        'agent: runner, with: {text: "{{ §approval | tojson }}"}',
        "read one value of approval, as in approval.round",
    ),
    "wrong type": (
        "agent: runner, with: {timeout: §\"{{ approval.note | default('') }}\"}",
        "must be a number, but the expression gives text",
    ),
    "before the gate": ('agent: runner, when: "{{ §approval.round == 1 }}"', NOT_KNOWN),
    "in the list of items": (
        'agent: runner, foreach: {in: ["{{ §approval.round }}"], as: i}',
        NOT_KNOWN,
    ),
    "after the node": (
        'agent: runner, verify: {agent: scanner, with: {repository_path: "{{ §approval.round }}"}}',
        NOT_KNOWN,
    ),
    "without an agent": (
        "workflow: sub-scan, with: {where: /r, listed: \"{{ §approval.note | default('') }}\"}",
        NOT_KNOWN,
    ),
    "name of an item": (
        "agent: runner, foreach: {in: [1], as: §approval}",
        "'approval' has a meaning already",
    ),
    "unknown group": (
        'agent: runner, approval: {escalate: {after: 1h, to: [§"group:sra"]}}',
        "unknown group 'sra'; did you mean 'sre'?",
    ),
}


@pytest.mark.parametrize(("text", "message"), PLACES.values(), ids=PLACES.keys())
def test_a_mistake_of_meaning_is_told_with_its_place(text: str, message: str) -> None:
    assert refused(node(text)) == message


def test_outputs_know_nothing_of_what_people_said() -> None:
    message = refused(node("agent: runner") + 'outputs: {n: "{{ §approval.round }}"}\n')

    assert message.startswith("unknown name 'approval'")


def test_a_gate_without_a_file_has_its_mistakes_as_well() -> None:
    workflow = parse_workflow(
        HEAD + "nodes: [{id: a, agent: runner, approval: {per: node}}]\n", file="w.yaml"
    )

    with pytest.raises(SpecError, match="per: node is for a node with foreach"):
        check_workflow(
            type(workflow).model_validate(workflow.model_dump(by_alias=True, mode="json")), CATALOG
        )
