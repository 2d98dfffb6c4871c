"""Writes what happens to a run's nodes into the store, and reads it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from penstock.engine.facts import Unit
from penstock.engine.nodes import Past
from penstock.engine.outputs import OutputStore
from penstock.engine.scheduler import NodeResult
from penstock.errors import BudgetExceeded, StoreError
from penstock.store.budgets import reserve
from penstock.store.database import Database
from penstock.store.nodes import Node, NodeChange, write_nodes
from penstock.store.states import NodeState
from penstock.workflow import CheckedWorkflow

__all__ = ["StoreBudget", "StoreJournal", "past_of", "results_of"]

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class StoreJournal:
    """The journal of one run, written under the token that the run was entered with."""

    database: Database
    run_id: UUID
    token: int
    outputs: OutputStore

    async def started(self, unit: Unit, attempt: int, task_run_id: UUID) -> None:
        """Record that an attempt starts."""
        await self._write(unit, NodeState.RUNNING, attempt, task_run_id=task_run_id)

    async def waits(self, unit: Unit, state: NodeState, attempt: int, reason: str) -> None:
        """Record that a unit waits for something outside."""
        await self._write(unit, state, attempt, reason=reason)

    async def verifying(self, unit: Unit, attempt: int, output: Any, task_run_id: UUID) -> None:
        """Record that the agent is done and that its check comes next."""
        inline, reference = await self._put(unit, output)
        await self._write(
            unit,
            NodeState.VERIFYING,
            attempt,
            output=inline,
            output_ref=reference,
            task_run_id=task_run_id,
        )

    async def ended(self, unit: Unit, result: NodeResult, task_run_id: UUID | None) -> None:
        """Record how a unit ended, with its output."""
        inline, reference = (None, None) if result.output is None else await self._put(unit, result.output)
        await self._write(
            unit,
            result.state,
            result.attempts,
            output=inline,
            output_ref=reference,
            error=result.error,
            reason=result.reason or None,
            task_run_id=task_run_id,
        )

    async def _put(self, unit: Unit, output: Any) -> tuple[Any, str | None]:
        return await self.outputs.put(str(self.run_id), unit.label, output)

    async def _write(self, unit: Unit, state: NodeState, attempt: int, **columns: Any) -> None:
        change = NodeChange(unit.node.id, state, attempt, unit.item, **columns)
        if not await write_nodes(self.database, self.run_id, [change], token=self.token):
            raise StoreError(
                f"node {unit.label!r} cannot be recorded as {state.value!r} (attempt {attempt}):"
                " another end or a newer attempt stands"
            )


@dataclass(frozen=True)
class StoreBudget:
    """The budget of a workflow, as one run meets it."""

    database: Database
    run_id: UUID
    token: int
    epoch: int
    workflow: CheckedWorkflow

    async def spend(self, unit: Unit, targets: Sequence[str]) -> None:
        """Count a change, once however often it is tried."""
        budget = self.workflow.workflow.budget
        if budget is None:
            return
        over = await reserve(
            self.database,
            run_id=self.run_id,
            token=self.token,
            node_id=unit.node.id,
            item=unit.item,
            epoch=self.epoch,
            workflow=self.workflow.workflow.name,
            targets=targets,
            per_target=budget.per == "target",
            limit=budget.max_mutations,
            window_s=budget.window,
        )
        if over:
            raise BudgetExceeded(
                f"{', '.join(over)}: {budget.max_mutations} changes in {budget.window:g} s are the budget,"
                " and they have been made"
            )


async def past_of(nodes: Sequence[Node], workflow: CheckedWorkflow, outputs: OutputStore) -> Past:
    """Read what earlier workers left of a run."""
    ended: dict[str, NodeResult] = {}
    items: dict[str, dict[str, NodeResult]] = {}
    unverified: dict[tuple[str, str], dict[str, Any]] = {}
    known = [node for node in nodes if node.node_id in workflow.nodes]
    for node in sorted(known, key=lambda node: node.ended_at or _LONG_AGO):
        key = (node.node_id, node.item)
        if node.state is NodeState.VERIFYING:
            unverified[key] = await _output(node, outputs)
        elif node.state.terminal:
            result = await _result(node, workflow, outputs)
            if node.item:
                items.setdefault(node.node_id, {})[node.item] = result
            else:
                ended[node.node_id] = result
    for node_id in ended.keys() & items.keys():
        ended[node_id] = replace(ended[node_id], items=_in_order(items[node_id]))
    return Past(
        nodes=ended,
        items=items,
        attempts={(node.node_id, node.item): node.attempt for node in known},
        task_runs={(node.node_id, node.item): node.task_run_id for node in known if node.task_run_id},
        cut_off=frozenset((n.node_id, n.item) for n in known if n.state is NodeState.RUNNING),
        unverified=unverified,
        waiting=frozenset((n.node_id, n.item) for n in known if n.state is NodeState.WAITING),
    )


def results_of(past: Past) -> dict[str, NodeResult]:
    """Give the results of a run that was cut off; a `foreach` that was not through has the items it has."""
    begun = {
        node_id: NodeResult(NodeState.CANCELLED, items=_in_order(items))
        for node_id, items in past.items.items()
        if node_id not in past.nodes
    }
    return {**past.nodes, **begun}


def _in_order(items: Mapping[str, NodeResult]) -> tuple[NodeResult, ...]:
    """Sort items by their keys, which count from 0; one that never ran counts as cancelled."""
    count = max(int(key) for key in items) + 1
    return tuple(items.get(str(number), NodeResult(NodeState.CANCELLED)) for number in range(count))


async def _result(node: Node, workflow: CheckedWorkflow, outputs: OutputStore) -> NodeResult:
    on_error = workflow.nodes[node.node_id].spec.on_error
    return NodeResult(
        node.state,
        output=await _output(node, outputs),
        error=node.error,
        reason=node.reason or "",
        attempts=node.attempt,
        tolerated=node.state is NodeState.FAILED and on_error == "continue",
    )


async def _output(node: Node, outputs: OutputStore) -> Any:
    return await outputs.get(node.output_ref) if node.output_ref else node.output
