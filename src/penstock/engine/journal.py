"""Writes what happens to a run's nodes into the store."""

from __future__ import annotations

from uuid import UUID

from penstock.engine.outputs import OutputStore
from penstock.engine.scheduler import NodeResult
from penstock.errors import RunError
from penstock.store.database import Database
from penstock.store.nodes import Node, finish_node, start_node
from penstock.store.states import NodeState

__all__ = ["StoreJournal", "restored"]


class StoreJournal:
    """The journal of one run."""

    def __init__(self, database: Database, run_id: UUID, outputs: OutputStore) -> None:
        self._database = database
        self._run_id = run_id
        self._outputs = outputs

    async def started(self, node_id: str, attempt: int, task_run_id: UUID) -> None:
        """Record that an attempt starts."""
        stands = await start_node(
            self._database, self._run_id, node_id, attempt=attempt, task_run_id=task_run_id
        )
        if not stands:
            raise RunError(f"attempt {attempt} of node {node_id!r} must not run: another one stands")

    async def ended(self, node_id: str, result: NodeResult, task_run_id: UUID | None) -> None:
        """Record how a node ended, with its output."""
        inline, reference = result.output, None
        if result.state is NodeState.SUCCEEDED:
            inline, reference = await self._outputs.put(str(self._run_id), node_id, result.output)
        stands = await finish_node(
            self._database,
            self._run_id,
            node_id,
            result.state,
            attempt=result.attempts,
            output=inline,
            output_ref=reference,
            error=result.error,
            reason=result.reason or None,
            task_run_id=task_run_id,
        )
        if not stands:
            raise RunError(f"the end of node {node_id!r} was not recorded: another attempt stands")


async def restored(nodes: tuple[Node, ...], outputs: OutputStore) -> dict[str, NodeResult]:
    """Give the results that an earlier worker stored; only what succeeded counts as done."""
    return {
        node.node_id: NodeResult(
            NodeState.SUCCEEDED,
            output=await outputs.get(node.output_ref) if node.output_ref else node.output,
            attempts=node.attempt,
        )
        for node in nodes
        if node.state is NodeState.SUCCEEDED
    }
