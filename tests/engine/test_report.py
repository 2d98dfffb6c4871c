from __future__ import annotations

import json

import pytest

from penstock.contracts import AgentType, Risk
from penstock.engine.report import headline, run_report
from penstock.engine.revisions import check_text
from penstock.engine.scheduler import NodeResult
from penstock.errors import SpecError
from penstock.store.states import NodeState, RunState
from penstock.workflow import AgentInfo, Catalog

ECHO = AgentInfo("echo", "1", Risk.AUTO, AgentType.ANALYSIS, {"type": "object"}, {"type": "object"})
CATALOG = Catalog(agents={"echo": ECHO})


def text(*nodes: str, **rest: object) -> str:
    listed = [{"id": name, "agent": "echo"} for name in nodes]
    head = {"apiVersion": "penstock/v1", "kind": "Workflow", "metadata": {"name": "w"}}
    return json.dumps({**head, "nodes": listed, **rest})


def test_headline_counts_or_names_what_failed() -> None:
    good = NodeResult(NodeState.SUCCEEDED)
    bad = NodeResult(NodeState.FAILED, error={"message": "no disk"})
    tolerated = NodeResult(NodeState.FAILED, tolerated=True)

    assert headline({"a": good, "b": good, "c": NodeResult(NodeState.SKIPPED)}) == "2 succeeded, 1 skipped"
    assert headline({"a": good, "b": bad}) == "node 'b' failed: no disk"
    assert headline({"a": good, "b": tolerated}) == "1 succeeded, 1 failed"


def test_report_keeps_text_from_outside_in_its_cell() -> None:
    checked = check_text(text("a"), file="w", catalog=CATALOG)
    hostile = NodeResult(
        NodeState.FAILED, error={"message": "x | y\n# head <img> [link](http://a) `code`"}, attempts=2
    )

    report = run_report(checked, RunState.FAILED, "failed", {"a": hostile})

    row = next(line for line in report.splitlines() if line.startswith("| a |"))
    assert row.count(" | ") == 4
    assert "<img>" not in report
    assert "[link]" not in report


def test_check_refuses_what_the_engine_would_pass_over() -> None:
    source = text("a", triggers=[{"type": "schedule", "cron": "0 6 * * *"}])

    with pytest.raises(SpecError) as caught:
        check_text(source, file="w", catalog=CATALOG)

    assert [problem.message for problem in caught.value.problems] == [
        "'triggers' is not available in this version",
    ]
