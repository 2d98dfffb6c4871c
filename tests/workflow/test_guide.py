import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, JsonValue

from penstock.contracts import AgentType, Risk, Slot, sensitive
from penstock.workflow import AgentInfo, Catalog, Template, check_workflow, digest, parse_workflow
from penstock.workflow.filters import FILTERS
from workflow.samples import Summary

GUIDE = (Path(__file__).parents[2] / "docs" / "WORKFLOW_GUIDE.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
SCOPE: dict[str, JsonValue] = {"inputs": {"count": 3, "hosts": ["db:9100", "web"], "owner": None}}


class Found(BaseModel):
    rule: str


class ScanInput(BaseModel):
    repository_path: str = sensitive(Slot.PATH, description="Repository.")
    min_severity: str = "info"


class FullSummary(Summary):
    warning: int
    info: int


class ScanOutput(BaseModel):
    findings: list[Found]
    summary: FullSummary
    passed: bool


class TellInput(BaseModel):
    targets: list[str] = ["log"]
    title: str
    body: str
    level: str = "info"


class TellOutput(BaseModel):
    delivered: list[str]
    failed: list[str]


def _info(name: str, takes: type[BaseModel], gives: type[BaseModel]) -> AgentInfo:
    output = gives.model_json_schema(mode="serialization")
    return AgentInfo(name, "1", Risk.AUTO, AgentType.ANALYSIS, takes.model_json_schema(), output)


CATALOG = Catalog(
    {
        "security-scanner": _info("security-scanner", ScanInput, ScanOutput),
        "notifier": _info("notifier", TellInput, TellOutput),
    }
)


@pytest.mark.parametrize("text", EXAMPLES)
def test_guide_examples_are_workflows(text: str) -> None:
    assert check_workflow(parse_workflow(text, file="guide.yaml"), CATALOG).nodes


def test_guide_shows_values() -> None:
    rows = re.findall(r"^\| `(\{\{.*)` \| `(.*)` \|$", GUIDE, re.MULTILINE)

    assert len(rows) == 6
    for expression, value in rows:
        assert Template.parse(expression.replace("\\|", "|")).render(SCOPE) == json.loads(value)


def test_guide_lists_every_filter() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.*) \|$", GUIDE.partition("| filter |")[2], re.MULTILINE))

    assert rows == {name: known.does for name, known in FILTERS.items()}


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
