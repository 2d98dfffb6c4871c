"""Agents and files that the tests of the workflow package share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, JsonValue

from penstock.contracts import AgentType, Risk, Slot, sensitive
from penstock.workflow import AgentInfo, Catalog, CheckedWorkflow, Workflow, check_workflow, parse_workflow

HEAD = "apiVersion: penstock/v1\nkind: Workflow\nmetadata: {name: sample}\n"


class Finding(BaseModel):
    rule: str
    severity: Literal["critical", "warning", "info"]
    file: str = sensitive(Slot.PATH, description="File.")
    line: int


class Summary(BaseModel):
    critical: int
    total: int


class ScanInput(BaseModel):
    repository_path: str = sensitive(Slot.PATH, description="Repository.")
    severity: Literal["critical", "warning", "info"] = "info"
    depth: int = 3
    rules: list[str] = []


class ScanOutput(BaseModel):
    findings: list[Finding]
    summary: Summary
    passed: bool
    score: float
    note: str | None
    labels: dict[str, str]
    root: str = sensitive(Slot.PATH, description="Checked root.")


class Step(BaseModel):
    name: str
    command: str = sensitive(Slot.COMMAND, description="Command.")
    inside: list[Step] = []


class Other(BaseModel):
    command: list[str] = []


class RunInput(BaseModel):
    steps: list[Step] = []
    options: dict[str, int] = {}
    mode: Literal["fast", "slow"] | None = None
    timeout: float = Field(default=1.0, ge=0, le=60)
    text: str = ""
    either: Step | Other | None = None
    pair: tuple[int, Step] | None = None


class RunOutput(BaseModel):
    ok: bool


def _agent(
    name: str, takes: type[BaseModel], gives: type[BaseModel], *, kind: AgentType, risk: Risk, undo: bool
) -> AgentInfo:
    return AgentInfo(
        name=name,
        version="1",
        risk=risk,
        type=kind,
        input_schema=takes.model_json_schema(),
        output_schema=gives.model_json_schema(mode="serialization"),
        timeout_s=120.0,
        secrets=("github",),
        has_undo=undo,
    )


SCANNER = _agent("scanner", ScanInput, ScanOutput, kind=AgentType.ANALYSIS, risk=Risk.AUTO, undo=False)
RUNNER = _agent(
    "runner", RunInput, RunOutput, kind=AgentType.EXECUTION, risk=Risk.APPROVAL_REQUIRED, undo=True
)
SUB = parse_workflow(
    HEAD.replace("sample", "sub-scan")
    + """
inputs:
  where: {type: string}
  listed: {type: string, allow: repositories}
  depth: {type: integer, default: 1}
nodes:
  - {id: scan, agent: scanner, with: {repository_path: "{{ inputs.where }}", depth: "{{ inputs.depth }}"}}
outputs: {total: "{{ nodes.scan.output.summary.total }}"}
""",
    file="sub.yaml",
)
CATALOG = Catalog(
    agents={"scanner": SCANNER, "runner": RUNNER},
    workflows={"sub-scan": SUB},
    groups=frozenset({"sre", "security"}),
)


def parse(body: str) -> Workflow:
    """Parse a file that begins like every sample; its body starts in line 4."""
    return parse_workflow(HEAD + body, file="w.yaml")


def check(body: str, catalog: Catalog = CATALOG) -> CheckedWorkflow:
    return check_workflow(parse(body), catalog)


def finding(**more: JsonValue) -> dict[str, JsonValue]:
    return {"rule": "r", "severity": "info", "file": "a.py", "line": 1, **more}
