"""Nodes that run another workflow: a run of its own deployment, which the parent waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from penstock.engine.facts import RunFacts, Unit
from penstock.engine.revisions import Revisions
from penstock.engine.scheduler import NodeResult
from penstock.engine.starting import RunStarter
from penstock.store.database import Database
from penstock.store.requests import Child, Parent, RunRequest, accept, children_of, get_request
from penstock.store.states import NodeState, RunState, Trust
from penstock.workflow import Trust as InputTrust
from penstock.workflow import validate_inputs

__all__ = ["StoreChildren"]

_WELL = frozenset({RunState.COMPLETED, RunState.SIMULATED})


@dataclass(frozen=True)
class StoreChildren:
    """The sub-workflows of one run."""

    database: Database
    starter: RunStarter
    revisions: Revisions
    run_facts: RunFacts
    revision_id: UUID
    """The parent's revision."""

    async def run(self, unit: Unit, inputs: Mapping[str, Any]) -> NodeResult:
        """Start the run that a unit stands for, or say how far it has come.

        Raises:
            SpecError: The other workflow has changed so that this one does not fit it any more.
            InputInvalid: The inputs do not fit.
        """
        key = f"{self.run_facts.id}:{unit.label}:{self.run_facts.epoch}"
        known = await children_of(self.database, self.run_facts.id)
        child = next((child for child in known if child.key == key), None)
        if child is None:
            run_id = await self._start(unit, inputs, key)
            return _waiting(unit, run_id)
        if child.run_id is None:  # its start was cut off
            request = await get_request(self.database, child.request_id)
            return _waiting(unit, (await self.starter.launch(request)).id)
        if child.state is None or not child.state.terminal:
            return _waiting(unit, child.run_id)
        return _ended(unit, child)

    async def _start(self, unit: Unit, inputs: Mapping[str, Any], key: str) -> UUID:
        name = unit.node.spec.workflow or ""
        child = await self.revisions.child(self.revision_id, name)
        # Which outputs may reach which slot of the child was checked against this very revision;
        # what an outsider filled in was checked when the parent was entered.
        values = validate_inputs(
            child.workflow.workflow,
            inputs,
            allow=self.revisions.allow,
            trust=InputTrust.AUTHENTICATED,
            exposed=child.workflow.exposed,
        )
        request = RunRequest(
            id=uuid4(),
            workflow=name,
            key=key,
            inputs=values,
            trigger={},
            trigger_type="workflow",
            trust=Trust.AUTHENTICATED,
            requester=self.run_facts.requester,
            parent=Parent(self.run_facts.id, unit.node.id, unit.item),
        )
        accepted = await accept(self.database, request)
        return accepted.request.run_id or (await self.starter.launch(accepted.request)).id


def _waiting(unit: Unit, run_id: UUID) -> NodeResult:
    return NodeResult(
        NodeState.WAITING, reason=f"waits for run {run_id} of workflow {unit.node.spec.workflow}"
    )


def _ended(unit: Unit, child: Child) -> NodeResult:
    about = f"run {child.run_id} of workflow {unit.node.spec.workflow}"
    if child.state in _WELL:
        return NodeResult(NodeState.SUCCEEDED, output=dict(child.outputs or {}), reason=about, attempts=1)
    state = child.state.value if child.state else ""
    withdrawn = child.state is RunState.WITHDRAWN
    return NodeResult(
        NodeState.WITHDRAWN if withdrawn else NodeState.FAILED,
        error={
            "code": "child_failed",
            "message": f"{about} was {state}: {child.message or ''}".rstrip(": "),
            "details": {"run_id": str(child.run_id), "state": state},
            "retryable": False,
        },
        attempts=1,
        tolerated=not withdrawn and unit.node.spec.on_error == "continue",
    )
