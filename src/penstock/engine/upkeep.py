"""What every worker does now and then, so that nothing is lost.

Runs of workers that are gone are scheduled again, requests that were accepted but never started
are started, approvals whose time is over expire, and what Prefect and the store say of a run is
brought together. Every step may be done by any number of workers at once and be cut off anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State

from penstock.engine.closing import Closing
from penstock.engine.endings import as_recorded
from penstock.engine.judging import RuleJudge
from penstock.engine.lease import has_ended
from penstock.engine.notices import Notifier
from penstock.engine.noting import RulesNoter
from penstock.engine.prefect_api import hand_over, states_of, unfinished_runs
from penstock.engine.starting import RunStarter
from penstock.errors import NotFound
from penstock.store.approval_ends import due_requests, expire_requests, fire_timers
from penstock.store.audit import record
from penstock.store.cache import forget_expired
from penstock.store.database import Database
from penstock.store.leases import free_runs, peers, reap
from penstock.store.requests import unstarted
from penstock.store.runs import get_run
from penstock.store.suspension import queued_runs, suspended_with_news
from penstock.store.upkeep import free_run, held_by, waiting_runs

__all__ = ["Upkeep"]

_LOOK_S = 1.0
"""Seconds between looks at the other workers; one query."""
_SWEEP_S = 10.0
"""Seconds between sweeps through the store; a handful of queries."""
_TELL_S = 2.0
"""Seconds between looks at the outbox of notices; two queries."""
_COMPARE_S = 60.0
"""Seconds between comparisons of all waiting runs with Prefect."""
_SETTLED_S = 15.0
"""What changed longer ago than this is not in the middle of something, in seconds."""
_LOST = "Its worker was lost; another one goes on after the last completed node."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upkeep:
    """The upkeep of one pool, as one worker does it.

    Args:
        in_flight: Gives the runs that this worker has.
    """

    database: Database
    client: PrefectClient
    starter: RunStarter
    closing: Closing
    judge: RuleJudge
    notifier: Notifier
    noter: RulesNoter
    worker_id: UUID
    in_flight: Callable[[], Collection[UUID]]

    async def run(self) -> None:
        """Go on until cancelled."""
        await asyncio.gather(
            _every(_LOOK_S, self.take_from_the_dead),
            _every(_SWEEP_S, self.sweep),
            _every(_COMPARE_S, self.compare_waiting),
            _every(_TELL_S, self.notifier.send_due),
        )

    async def take_from_the_dead(self) -> None:
        """Schedule the runs of workers that have ended or cannot be heard of."""
        others = [peer for peer in await peers(self.database, self.starter.pool) if peer.id != self.worker_id]
        dead = [peer.id for peer in others if has_ended(peer.process)]
        if not dead and not any(peer.expired for peer in others):
            return
        for lost in await reap(self.database, by=self.worker_id, dead=dead):
            log.warning("run %s lost its worker", lost.run_id)
            await self._schedule(lost.run_id)

    async def sweep(self) -> None:
        """Bring along everything that a process which ended in the middle has left."""
        await self._drop_forgotten()
        for request in await unstarted(self.database, older_than_s=_SETTLED_S):
            try:
                await self.starter.launch(request)
            except NotFound as error:
                log.warning("request %s cannot be started: %s", request.id, error.message)
        await self.noter.note()
        await self.see_to_requests()
        for run_id in await suspended_with_news(self.database, older_than_s=0.0):
            await self.starter.wake_for_news(run_id)  # it may have gone on and wait anew by now
        await self._call_queued()
        await self._mend_unfinished()
        await self._mend_free()
        await forget_expired(self.database)

    async def see_to_requests(self) -> None:
        """Remind, escalate, end freezes and expire, wherever it is time for that."""
        for request_id in await due_requests(self.database):
            await fire_timers(self.database, request_id, self.judge)
        await expire_requests(self.database)

    async def _call_queued(self) -> None:
        """Call the runs for which a place has come free, each line of them once."""
        lines = {
            (run.revision_id, run.concurrency_key): run
            for run in [
                await get_run(self.database, run_id) for run_id in await queued_runs(self.database, limit=100)
            ]
        }
        for run in lines.values():
            await self.closing.call_next(run)

    async def _drop_forgotten(self) -> None:
        """Let go of runs that the store says are ours and that we gave up, as when it was away too long."""
        mine = set(self.in_flight())
        for run_id in await held_by(self.database, self.worker_id, older_than_s=_SETTLED_S):
            given_up = run_id not in mine and run_id not in self.in_flight()
            if given_up and await free_run(self.database, run_id, self.worker_id):
                await self._schedule(run_id)

    async def _schedule(self, run_id: UUID) -> None:
        await hand_over(self.client, run_id, _LOST)
        await self.starter.call_workers()

    async def _mend_unfinished(self) -> None:
        """Go through the runs that Prefect believes to be in a worker's hands."""
        settled = datetime.now(UTC) - timedelta(seconds=_SETTLED_S)
        for flow_run in await unfinished_runs(self.client, self.starter.pool):
            state = flow_run.state
            if state is not None and state.timestamp < settled and flow_run.id not in self.in_flight():
                await self._mend(flow_run, state)

    async def _mend(self, flow_run: FlowRun, state: State[object]) -> None:
        try:
            run = await get_run(self.database, flow_run.id)
        except NotFound:  # claimed, and its worker was gone before it entered it
            await (
                self.closing.cancel(flow_run.id, by="") if _cancelling(state) else self._schedule(flow_run.id)
            )
            return
        if run.worker_id is not None:
            return
        if run.state.terminal:
            await self.closing.tell_prefect(run.id, as_recorded(run))
        elif _cancelling(state):
            await self.closing.cancelled(run.id)
        elif run.updated_at < datetime.now(UTC) - timedelta(seconds=_SETTLED_S):
            await self._schedule(run.id)

    async def _mend_free(self) -> None:
        """Schedule runs that no worker has, where Prefect knows nothing of that."""
        free = [run.id for run in await free_runs(self.database, older_than_s=_SETTLED_S)][:200]
        states = await states_of(self.client, free) if free else {}
        for run_id in free:
            state = states.get(run_id)
            if state is None:
                await self.closing.cancelled(run_id, by="somebody in Prefect")
            elif state.is_final() or state.is_paused():
                await self._schedule(run_id)

    async def compare_waiting(self) -> None:
        """Find waiting runs that were ended or deleted in Prefect while no worker heard of it."""
        after: UUID | None = None
        while page := await waiting_runs(self.database, limit=200, after=after):
            states = await states_of(self.client, page)
            for run_id in page:
                state = states.get(run_id)
                if state is None or state.is_final():
                    await self._end_in_prefect(run_id, state)
            after = page[-1]

    async def _end_in_prefect(self, run_id: UUID, state: State[object] | None) -> None:
        """End a waiting run as Prefect has it ended; that was no way past a gate, and is noted as one."""
        if state is not None and not state.is_cancelled():
            facts = {"because": f"it was set to {state.name} in Prefect"}
            await record(self.database, kind="gate.bypass", run_id=run_id, facts=facts)
        await self.closing.cancelled(run_id, by="somebody in Prefect")


def _cancelling(state: State[object]) -> bool:
    return state.is_cancelling() or state.is_cancelled()


async def _every(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await step()
        except Exception:  # the database or Prefect may be away; the next turn tries again
            log.exception("upkeep: %s failed; it is tried again in %g s", step.__name__, seconds)
        await asyncio.sleep(seconds)
