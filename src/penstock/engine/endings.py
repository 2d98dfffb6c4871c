"""How runs end: what is said of them, and everybody who is told."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Crashed, Failed

from penstock.engine import failures
from penstock.engine.facts import RunFacts
from penstock.engine.nodes import RunKit
from penstock.engine.report import headline, run_report
from penstock.engine.scheduler import NodeResult
from penstock.engine.undo import Undone
from penstock.errors import PenstockError
from penstock.store.nodes import Node
from penstock.store.runs import Run
from penstock.store.states import NodeState, RunState
from penstock.telemetry.redaction import Redactor

__all__ = [
    "RUN_TIMED_OUT",
    "Ending",
    "as_recorded",
    "cancelled",
    "crashed",
    "failed",
    "leave_report",
    "of_results",
]

log = logging.getLogger(__name__)

RUN_TIMED_OUT = "run_timed_out"
"""Code of the error of a run that ran longer than its timeout."""

_NAMES = {
    RunState.REJECTED: "Rejected",
    RunState.INTERRUPTED: "Interrupted",
    RunState.WITHDRAWN: "Withdrawn",
}
_WORST = (
    NodeState.INTERRUPTED,
    NodeState.REJECTED,
    NodeState.FAILED,
    NodeState.UNDONE,
    NodeState.WITHDRAWN,
    NodeState.CANCELLED,
)
_AS_RUN = {
    NodeState.INTERRUPTED: RunState.INTERRUPTED,
    NodeState.REJECTED: RunState.REJECTED,
    NodeState.WITHDRAWN: RunState.WITHDRAWN,
}


@dataclass(frozen=True)
class Ending:
    """How a run ends, before anybody has been told."""

    state: RunState
    message: str
    outputs: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None

    @property
    def undoes(self) -> bool:
        """Whether the run failed, so that its changes are undone.

        Not when a change was cut off: nobody knows what there is to undo.
        """
        return self.state in {RunState.FAILED, RunState.REJECTED}

    def with_undone(self, undone: Sequence[Undone]) -> Ending:
        """Say what was undone, and what could not be."""
        well = ", ".join(one.label for one in undone if not one.error)
        words = [self.message, f"undone: {well}" if well else ""]
        words += [f"undo of {one.label} failed: {one.error}" for one in undone if one.error]
        return replace(self, message="; ".join(word for word in words if word))

    def prefect_state(self) -> State[Any]:
        """Give the state that Prefect shows."""
        if self.state in {RunState.COMPLETED, RunState.SIMULATED}:
            name = "Simulated" if self.state is RunState.SIMULATED else None
            return Completed(name=name, message=self.message)
        if self.state in {RunState.CANCELLED, RunState.WITHDRAWN}:
            return Cancelled(name=_NAMES.get(self.state), message=self.message)
        if self.state is RunState.CRASHED:
            return Crashed(message=self.message)
        timed_out = (self.error or {}).get("code") == RUN_TIMED_OUT
        name = "TimedOut" if timed_out else _NAMES.get(self.state, "Failed")
        return Failed(name=name, message=self.message)


def of_results(kit: RunKit, results: Mapping[str, NodeResult]) -> Ending:
    """Say how a run ends whose nodes have all ended."""
    ordered = kit.run.course.in_order(results)
    message = headline(ordered)
    for state in _WORST:
        bad = [item for item in ordered.values() if item.state is state and not item.tolerated]
        if bad:
            return Ending(_AS_RUN.get(state, RunState.FAILED), message, error=bad[0].error)
    try:
        outputs = kit.run.workflow.render_outputs(kit.run.scope(results))
    except PenstockError as error:
        return failed(error, kit.engine.redactor)
    return Ending(RunState.COMPLETED, message, outputs=outputs)


def failed(error: PenstockError, redactor: Redactor) -> Ending:
    """Say that a run failed, with the reason."""
    told = failures.describe(error, None, redactor)
    return Ending(RunState.FAILED, told["message"], error=told)


def cancelled(by: str) -> Ending:
    """Say that a run was cancelled."""
    return Ending(RunState.CANCELLED, f"cancelled by {by}" if by else "cancelled")


def crashed(times: int, nodes: Sequence[Node]) -> Ending:
    """Say that worker after worker was lost with a run, or could not carry it out."""
    running = [node.node_id for node in nodes if node.state is NodeState.RUNNING]
    about = f" while it ran {', '.join(running)}" if running else ""
    words = f"given up after {times} tries without a node that came to its end"
    return Ending(RunState.CRASHED, f"{words}; the last worker was lost{about}")


def as_recorded(run: Run) -> Ending:
    """Give the ending that stands in the store."""
    return Ending(run.state, run.message or "", run.outputs, run.error)


async def leave_report(
    client: PrefectClient, facts: RunFacts, ending: Ending, results: Mapping[str, NodeResult]
) -> None:
    """Leave the table of nodes with the run in Prefect; a run does not fail for want of it."""
    workflow = facts.workflow
    report = ArtifactCreate(
        key=f"run-{workflow.workflow.name.replace('/', '-')}",
        type="markdown",
        description="How the nodes of the run ended.",
        data=run_report(workflow, ending.state, ending.message, facts.course.in_order(results)),
        flow_run_id=facts.id,
    )
    try:
        await client.create_artifact(report)
    except httpx.HTTPError:
        log.exception("the report of run %s could not be left", facts.id)
