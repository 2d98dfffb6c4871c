import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, JsonValue

from penstock.contracts import AgentType, Risk, Slot, sensitive
from penstock.engine.endings import RUN_TIMED_OUT, Ending
from penstock.engine.support import refuse_unsupported
from penstock.errors import SpecError
from penstock.store.states import RunState
from penstock.workflow import (
    AgentInfo,
    Catalog,
    Outcome,
    Template,
    Workflow,
    check_workflow,
    digest,
    parse_workflow,
)
from penstock.workflow.filters import FILTERS
from penstock_agents.notifier import notify
from penstock_agents.patcher import patch
from penstock_agents.security_scanner import scan
from workflow.samples import HEAD

GUIDE = (Path(__file__).parents[2] / "docs" / "WORKFLOW_GUIDE.md").read_text(encoding="utf-8")
EXAMPLES = {
    parse_workflow(text, file="guide.yaml").name: text
    for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
}
SCOPE: dict[str, JsonValue] = {"inputs": {"count": 3, "hosts": ["db:9100", "web"], "owner": None}}


class CheckInput(BaseModel):
    repository_path: str = sensitive(Slot.PATH, description="Repository.")
    commit: str


class CheckOutput(BaseModel):
    passed: int


RUNNER = AgentInfo(
    name="test-runner",
    version="1",
    risk=Risk.AUTO,
    type=AgentType.ANALYSIS,
    input_schema=CheckInput.model_json_schema(),
    output_schema=CheckOutput.model_json_schema(mode="serialization"),
)
"""The guide calls it an agent of the reader's own."""
AGENTS = {**{agent.name: AgentInfo.of(agent) for agent in (scan, notify, patch)}, "test-runner": RUNNER}
CATALOG = Catalog(AGENTS, {"scan-only": parse_workflow(EXAMPLES["scan-only"], file="scan-only.yaml")})

NOT_YET = {
    "triggers": "triggers: [{type: schedule, every: 10m}]\nnodes: [{id: a, agent: notifier}]",
    "pool": "nodes: [{id: a, agent: notifier, pool: x}]",
    "requires": "nodes: [{id: a, agent: notifier, requires: [x]}]",
    "secrets": "nodes: [{id: a, agent: notifier, secrets: {token: block/field}}]",
}
"""For each key that the guide calls not available, a workflow that has it."""
LEFT_TO_THE_CHILD = {
    "approval": "{}",
    "undo": "automatic",
    "verify": "{agent: notifier}",
    "cache": "{ttl: 1m}",
    "retry": "{max: 2}",
    "timeout": "1m",
    "blocks": "{github: mine}",
}


def rows(section: str, *, cells: int) -> list[tuple[str, ...]]:
    """Give the cells of the first table under a headline, without its head."""
    table = GUIDE.partition(f"\n## {section}\n")[2].partition("\n|---")[2].partition("\n\n")[0]
    found = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in table.splitlines()[1:]]
    assert found
    assert all(len(row) == cells for row in found), f"the table of {section!r} has another form"
    return found


def short(body: str) -> Workflow:
    return parse_workflow(HEAD + body, file="guide.yaml")


def test_guide_has_an_example_for_every_name() -> None:
    assert len(EXAMPLES) == GUIDE.count("```yaml")


@pytest.mark.parametrize("name", EXAMPLES)
def test_guide_examples_are_workflows(name: str) -> None:
    assert check_workflow(parse_workflow(EXAMPLES[name], file="guide.yaml"), CATALOG).nodes


@pytest.mark.parametrize("name", EXAMPLES)
def test_guide_examples_can_be_run_but_for_triggers(name: str) -> None:
    parsed = parse_workflow(EXAMPLES[name], file="guide.yaml")

    if parsed.triggers:
        with pytest.raises(SpecError, match="'triggers' is not available"):
            refuse_unsupported(parsed)
    else:
        refuse_unsupported(parsed)


def test_guide_lists_what_is_not_available() -> None:
    named = [row[0].strip("`") for row in rows("Not available yet", cells=2)]

    assert named == list(NOT_YET)


@pytest.mark.parametrize("key", NOT_YET)
def test_what_the_guide_calls_not_available_is_refused(key: str) -> None:
    with pytest.raises(SpecError, match=f"'{key.rpartition('.')[2]}' is not available"):
        refuse_unsupported(short(NOT_YET[key]))


@pytest.mark.parametrize("key", LEFT_TO_THE_CHILD)
def test_what_a_node_leaves_to_another_workflow_is_refused(key: str) -> None:
    with pytest.raises(SpecError, match=f"'{key}' is not available"):
        refuse_unsupported(short(f"nodes: [{{id: a, workflow: b, {key}: {LEFT_TO_THE_CHILD[key]}}}]"))


def test_guide_lists_what_a_node_leaves_to_another_workflow() -> None:
    (sentence,) = re.findall(r"^- (.*?) are refused on such a node", GUIDE, re.MULTILINE)

    assert re.findall(r"`(\w+)`", sentence) == list(LEFT_TO_THE_CHILD)


def test_guide_names_the_states_of_runs_as_prefect_shows_them() -> None:
    table = rows("How runs end", cells=3)

    for state, shown, _ in table:
        error = {"code": RUN_TIMED_OUT} if shown == "TimedOut" else None
        ending = Ending(RunState(state.strip("`")), "", error=error)
        assert ending.prefect_state().name == shown
    not_reached = {RunState.SIMULATED, RunState.WITHDRAWN}
    ends = {state for state in RunState if state.terminal} - not_reached
    assert {state.strip("`") for state, *_ in table} == {state.value for state in ends}


def test_guide_names_every_status_of_a_node() -> None:
    (sentence,) = re.findall(r"A `status` is (.*?)\.\n", GUIDE, re.DOTALL)

    assert re.findall(r"`(\w+)`", sentence) == [outcome.value for outcome in Outcome]


def test_guide_shows_values() -> None:
    found = re.findall(r"^\| `(\{\{.*)` \| `(.*)` \|$", GUIDE, re.MULTILINE)

    assert len(found) == 6
    for expression, value in found:
        assert Template.parse(expression.replace("\\|", "|")).render(SCOPE) == json.loads(value)


def test_guide_lists_every_filter() -> None:
    table = GUIDE.partition("| filter |")[2].partition("\n\n")[0]
    listed = dict(re.findall(r"^\| `([a-z_]+)` \| (.*) \|$", table, re.MULTILINE))

    assert listed == {name: known.does for name, known in FILTERS.items()}


def test_library_scan_is_a_workflow(library_text: str) -> None:
    checked = check_workflow(parse_workflow(library_text, file="security-scan.yaml"), CATALOG)

    assert checked.graph.order == ("scan", "notify")
    assert checked.exposed == {}
    assert len(digest(checked.workflow)) == 64
    summary: JsonValue = {"total": 3, "critical": 1, "warning": 2, "info": 0}
    scope: dict[str, JsonValue] = {
        "inputs": {"repository": "/r", "targets": ["log"]},
        "nodes": {"scan": {"output": {"summary": summary}}},
    }
    assert checked.nodes["notify"].render_inputs(scope) == {
        "targets": ["log"],
        "title": "Security scan of /r",
        "body": "3 findings: 1 critical, 2 warnings, 0 of information.",
        "level": "info",
    }
