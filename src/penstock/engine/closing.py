"""End and cancel runs, and tell everybody who waits for it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import Abort, ObjectNotFound

from penstock.engine.endings import Ending, cancelled
from penstock.engine.prefect_api import cancel, propose_state
from penstock.engine.starting import RunStarter
from penstock.errors import NotFound
from penstock.store.approval_ends import withdraw_requests
from penstock.store.database import Database
from penstock.store.nodes import NodeChange, nodes_of, write_nodes
from penstock.store.requests import children_of
from penstock.store.runs import Run, finish_run, get_run
from penstock.store.slots import next_in_line
from penstock.store.states import NodeState
from penstock.store.suspension import request_cancel
from penstock.store.upkeep import close_request_of
from penstock.store.workflows import get_revision
from penstock.workflow import parse_workflow

__all__ = ["Closing"]


@dataclass(frozen=True)
class Closing:
    """Ends runs."""

    database: Database
    client: PrefectClient
    starter: RunStarter

    async def end(self, run_id: UUID, ending: Ending, *, token: int | None, alone: bool = False) -> None:
        """Record how a run ended, then tell Prefect, its parent, its children and who waits for its place.

        Args:
            token: What the worker entered the run with; None for a run that no worker has.
            alone: It has no parent, no children and no concurrency key, so nobody else is told.
        Raises:
            LeaseLost: Another worker has the run.
        """
        with contextlib.suppress(NotFound):  # it was never entered; Prefect alone says why
            await finish_run(
                self.database,
                run_id,
                ending.state,
                outputs=ending.outputs,
                error=ending.error,
                message=ending.message,
                token=token,
            )
        await self.tell_prefect(run_id, ending)
        if not alone:
            await self._tell_others(run_id)

    async def tell_prefect(self, run_id: UUID, ending: Ending) -> None:
        """Show in Prefect how a run ended."""
        wanted = ending.prefect_state()
        try:
            state = await propose_state(self.client, wanted, run_id)
            if not state.is_final():  # somebody cancelled it when it was over already
                await self.client.set_flow_run_state(run_id, wanted, force=True)
        except (Abort, ObjectNotFound):  # ended or deleted in Prefect meanwhile; our row says how it went
            return

    async def cancel(self, run_id: UUID, *, by: str) -> None:
        """Cancel a run: the worker that has it stops it; one that no worker has ends here and now.

        Raises:
            NotFound: There is no such run.
        """
        try:
            told = await request_cancel(self.database, run_id, by=by)
        except NotFound:
            told = None
        if told is not None and told.state.terminal:
            return
        state = await cancel(self.client, run_id)
        if told is None:
            if state is None:
                raise NotFound(f"there is no run {str(run_id)!r}")
            await close_request_of(self.database, run_id)
        elif told.worker_id is None:
            await self.cancelled(run_id, by=by)

    async def withdraw(self, run_id: UUID, reason: str) -> int:
        """Withdraw what a run and the runs of its sub-workflows ask for; what they do already goes on.

        Returns:
            How many requests for approval were withdrawn.
        """
        withdrawn = await withdraw_requests(self.database, run_id, reason)
        for child in await children_of(self.database, run_id):
            if child.run_id is not None and not (child.state and child.state.terminal):
                withdrawn += await self.withdraw(child.run_id, reason)
        await self.starter.wake_for_news(run_id)
        return withdrawn

    async def cancelled(self, run_id: UUID, *, by: str = "") -> None:
        """Record that a run which no worker has was cancelled; one that has ended stays as it is."""
        try:
            run = await get_run(self.database, run_id)
        except NotFound:
            await close_request_of(self.database, run_id)
            return
        if run.state.terminal or run.worker_id is not None:
            return
        await self.close_nodes(run_id, "the run was cancelled")
        await self.end(run_id, cancelled(run.cancelled_by or by), token=None)

    async def close_nodes(self, run_id: UUID, reason: str, *, token: int | None = None) -> None:
        """Record that the nodes of a run that ends have ended too.

        A change whose check was still to come has failed: it was made and nobody confirmed it.

        Args:
            token: What the worker entered the run with; None for a run that no worker has.
        """
        changes = [
            NodeChange(
                node.node_id,
                NodeState.FAILED if node.state is NodeState.VERIFYING else NodeState.CANCELLED,
                node.attempt,
                node.item,
                reason=reason,
            )
            for node in await nodes_of(self.database, run_id)
            if not node.state.terminal
        ]
        await write_nodes(self.database, run_id, changes, token=token)

    async def _tell_others(self, run_id: UUID) -> None:
        try:
            run = await get_run(self.database, run_id)
        except NotFound:
            return
        for child in await children_of(self.database, run_id):
            if child.run_id is not None and not (child.state and child.state.terminal):
                await self.cancel(child.run_id, by=f"the end of run {run_id}")
        if run.parent is not None:
            await self.starter.wake_for_news(run.parent.run_id)
        await self.call_next(run)

    async def call_next(self, run: Run) -> None:
        """Wake the runs that may go on because one with their concurrency key has ended or waits."""
        if run.concurrency_key is None:
            return
        revision = await get_revision(self.database, run.revision_id)
        limits = parse_workflow(revision.source, file=revision.workflow).concurrency
        if limits is None:
            return
        for waiting in await next_in_line(
            self.database, run.workflow, run.concurrency_key, limits.limit, limits.release_while_waiting
        ):
            await self.starter.wake(waiting)
