"""The worker of type `penstock`: one warm process that runs many flow runs in its event loop.

PostgreSQL's NOTIFY only wakes it. It then asks Prefect once for as many due runs as it has
free slots (there Prefect applies queues, priorities and limits) and claims each by moving it
from Scheduled to Pending, which Prefect accepts from one worker only. A slow poll finds what
nobody announced: runs started, resumed or retried in the Prefect UI.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import anyio.abc
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from penstock.engine.control import RunControl, Stop
from penstock.engine.prefect_api import (
    Watched,
    claim,
    hand_over,
    scheduled_runs,
    shared_client,
    states_of,
    watch_runs,
)
from penstock.engine.session import WorkerSession, open_session
from penstock.engine.starting import WAKE_CHANNEL
from penstock.engine.watchdog import LoopWatchdog
from penstock.errors import StoreError
from penstock.lifeline import report_ready
from penstock.settings import Settings, load_settings
from penstock.store.database import Database
from penstock.store.opening import open_database
from penstock.store.tables import SIGNAL_CHANNEL

__all__ = ["WORKER_TYPE", "PenstockWorker", "serve"]

WORKER_TYPE = "penstock"
_PATIENCE_S = 120.0
_REMEMBERED = 1000
_MOMENT_S = 0.3
_ENDING = frozenset({"Cancelling", "Cancelled"})
_SUSPENDED = "Suspended"
_WATCHED = (*_ENDING, _SUSPENDED, "Scheduled", "AwaitingRetry", "Resuming")


@dataclass(frozen=True)
class _Flight:
    task: asyncio.Task[None]
    control: RunControl


class JobConfiguration(BaseJobConfiguration):
    """Nothing to configure: runs share the worker's process."""


class JobVariables(BaseVariables):
    """No variables."""


class WorkerResult(BaseWorkerResult):
    """How a run left the worker."""


class PenstockWorker(BaseWorker[JobConfiguration, JobVariables, WorkerResult]):
    """Runs workflows in process, as many at once as its limit says."""

    type = WORKER_TYPE
    job_configuration = JobConfiguration
    job_configuration_variables = JobVariables
    _display_name = "Penstock"
    _description = "Runs Penstock workflows in one warm process."
    _logo_url = ""
    _documentation_url = ""

    def __init__(self, *args: Any, settings: Settings | None = None, **options: Any) -> None:
        self._settings = settings or load_settings()
        options.setdefault("limit", None)
        options["limit"] = options["limit"] or self._settings.worker.concurrency
        super().__init__(*args, **options)
        self._asking = asyncio.Lock()
        self._again = False
        self._draining = False
        self._session: WorkerSession | None = None
        self._in_flight: dict[UUID, _Flight] = {}
        self._seen: OrderedDict[UUID, None] = OrderedDict()
        """Runs that this worker has had lately: news of them in Prefect is our own doing."""
        self._heard: set[Watched] = set()
        self._listening: list[asyncio.Task[None]] = []
        self._asking_again: set[asyncio.Task[None]] = set()

    async def setup(self) -> None:
        """Open the database and the shared client, take a lease, then start listening."""
        await self._exit_stack.enter_async_context(shared_client(patience_s=_PATIENCE_S))
        await super().setup()
        database = await self._exit_stack.enter_async_context(open_database(self._settings))
        await self._exit_stack.enter_async_context(LoopWatchdog())
        self._session = await self._exit_stack.enter_async_context(
            open_session(
                self._settings,
                database,
                self.client,
                name=self.name,
                pool=self._work_pool_name,
                in_flight=lambda: self._in_flight,
                on_lost=self._lose_all,
            )
        )
        steps = (self._listen(database), self._watch(), self._session.upkeep.run())
        self._listening = [asyncio.create_task(step) for step in steps]
        for task in self._listening:
            task.add_done_callback(self._tell_of_end)
        report_ready()

    def _tell_of_end(self, task: asyncio.Task[None]) -> None:
        """Say so when something that goes on for ever has ended; the slow poll still finds runs."""
        if not task.cancelled() and (error := task.exception()):
            self._logger.error("The worker hears no news any more: %s", error)

    async def teardown(self, *exc_info: Any) -> None:
        """Stop taking runs, let nodes come to an end, hand the rest to another worker, close everything."""
        self._draining = True
        flights = list(self._in_flight.values())
        for flight in flights:
            flight.control.drain()
        if flights:
            await asyncio.wait([f.task for f in flights], timeout=self._settings.worker.drain_seconds)
        for flight in flights:
            flight.control.stop(Stop.LEAVE)
        tasks = [*(flight.task for flight in flights), *self._asking_again, *self._listening]
        for task in (*self._asking_again, *self._listening):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().teardown(*exc_info)

    def _lose_all(self) -> None:
        """Stop all runs: another worker has them, for we could not be heard of for too long."""
        self._logger.error("the lease was lost; other workers go on with %s runs", len(self._in_flight))
        for flight in self._in_flight.values():
            flight.control.stop(Stop.LOST)

    async def _listen(self, database: Database) -> None:
        """Hear of runs that were scheduled, and of news about those in flight."""
        async with database.listen(WAKE_CHANNEL, SIGNAL_CHANNEL) as notices:
            async for notice in notices:
                if notice.missed or notice.channel == SIGNAL_CHANNEL:
                    await self._tell_flights(notice.payload)
                if notice.missed or notice.payload in {"", self._work_pool_name}:
                    await self._ask_quietly()

    async def _tell_flights(self, run_id: str) -> None:
        """Pass a signal on; without an id it may concern every run in flight."""
        for flight_id, flight in list(self._in_flight.items()):
            if run_id in {"", str(flight_id)} and self._session is not None:
                cancelled_by = await self._session.cancelled_by(flight_id)
                if cancelled_by is None:
                    flight.control.nudge()
                else:
                    flight.control.stop(Stop.CANCEL, by=cancelled_by)

    async def _watch(self) -> None:
        """Hear of what people do in the Prefect UI: cancel, start, resume, retry."""
        async for change in watch_runs(*_WATCHED):
            if change is None:
                await self._ask_quietly()
                continue
            try:
                await self._hear_of(change)
            except Exception:  # the sweeps find what was missed
                self._logger.exception("News of run %s could not be taken in", change.flow_run_id)

    async def _hear_of(self, change: Watched) -> None:
        if change.state in _ENDING:
            await self._hear_of_cancel(change.flow_run_id)
        elif change.state == _SUSPENDED:
            await self._hear_of_suspension(change.flow_run_id)
        elif change.flow_run_id not in self._in_flight:
            self._ask_soon(change)

    async def _hear_of_cancel(self, run_id: UUID) -> None:
        flight = self._in_flight.get(run_id)
        if flight is not None:
            flight.control.stop(Stop.CANCEL, by=await self._canceller(run_id))
        elif self._session is not None and await self._is_cancelled(run_id):
            await self._session.closing.cancelled(run_id, by="somebody in Prefect")

    async def _is_cancelled(self, run_id: UUID) -> bool:
        """Ask whether the news still holds: the run may have been tried again since."""
        state = (await states_of(self.client, [run_id])).get(run_id)
        return state is None or state.is_cancelling() or state.is_cancelled()

    async def _hear_of_suspension(self, run_id: UUID) -> None:
        """Let go of a run in flight that somebody suspended; the engine's own suspensions are over by now."""
        flight = self._in_flight.get(run_id)
        if flight is not None:
            state = (await states_of(self.client, [run_id])).get(run_id)
            if state is not None and state.is_paused():
                flight.control.pause()

    async def _canceller(self, run_id: UUID) -> str:
        """Say who cancelled a run of which Prefect says that it is cancelled."""
        try:
            by = await self._session.cancelled_by(run_id) if self._session else None
        except StoreError:  # it stops all the same
            by = None
        return by or "somebody in Prefect"

    def _ask_soon(self, change: Watched) -> None:
        """Ask once for all that is heard of in a moment, unless somebody has announced it as well."""
        if change.state == "Scheduled" and change.flow_run_id in self._seen:
            return
        self._heard.add(change)
        if len(self._heard) == 1:
            self._in_background(self._ask_after_a_moment())

    async def _ask_after_a_moment(self) -> None:
        await asyncio.sleep(_MOMENT_S)
        heard, self._heard = self._heard, set()
        if any(one.state != "Scheduled" or one.flow_run_id not in self._seen for one in heard):
            await self._ask_quietly()

    def _in_background(self, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(step)
        self._asking_again.add(task)
        task.add_done_callback(self._asking_again.discard)

    async def _ask_quietly(self) -> None:
        try:
            await self.get_and_submit_flow_runs()
        except Exception:  # the slow poll asks again; a worker must not stop listening
            self._logger.exception("Asking Prefect for runs failed")

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take as many due runs as there are free slots; calls that overlap become one."""
        if self._asking.locked():
            self._again = True
            return []
        async with self._asking:
            taken = await self._take()
            while self._again:
                self._again = False
                taken += await self._take()
            return taken

    async def _take(self) -> list[FlowRun]:
        free = int(self.limiter.available_tokens)
        if free <= 0 or self._draining or not self._has_successfully_synced:
            return []
        try:
            due = await scheduled_runs(
                self.client,
                self._work_pool_name,
                sorted(self._work_queues),
                limit=free,
                prefetch_s=self._prefetch_seconds,
            )
        except ObjectNotFound:  # the pool is made at the next heartbeat
            return []
        taken = [flow_run for flow_run in due if flow_run.id not in self._in_flight]
        for flow_run in taken:
            self._take_off(flow_run)
        return taken

    def _take_off(self, flow_run: FlowRun) -> None:
        self.limiter.acquire_on_behalf_of_nowait(flow_run.id)
        control = RunControl()
        task = asyncio.create_task(self._carry(flow_run, control), name=f"run-{flow_run.id}")
        control.attach(task)
        self._in_flight[flow_run.id] = _Flight(task, control)
        self._seen[flow_run.id] = None
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    async def _carry(self, flow_run: FlowRun, control: RunControl) -> None:
        claimed = False  # until Prefect says so it may be another worker's; the sweep finds a lost answer
        try:
            claimed = await claim(self.client, flow_run.id)
            if claimed:
                await self._execute(flow_run, control)
        except asyncio.CancelledError:
            if control.reason is Stop.LEAVE and claimed:
                await self._leave(flow_run.id)
            if control.reason is None:
                raise
        except Exception:  # not the run's failure: it is tried again, a few times, and the worker goes on
            self._logger.exception("Run %s could not be carried out; it is taken again", flow_run.id)
            if claimed:
                await self._give_up(flow_run.id)
        finally:
            self._land(flow_run.id)

    def _land(self, run_id: UUID) -> None:
        self._in_flight.pop(run_id, None)
        self.limiter.release_on_behalf_of(run_id)
        if self.limiter.available_tokens == 1 and self.is_setup:  # it was full: more may be waiting
            self._in_background(self._ask_quietly())

    async def _leave(self, run_id: UUID) -> None:
        if self._session is not None:
            await self._session.free(run_id)
        await hand_over(self.client, run_id)

    async def _give_up(self, run_id: UUID) -> None:
        try:
            if self._session is not None:
                await self._session.free(run_id, failed=True)
            await hand_over(self.client, run_id, "Its worker could not carry it out; it is tried again.")
        except Exception:  # what it needs is away: the upkeep finds the run later
            self._logger.exception("Run %s could not be handed over", run_id)

    async def _execute(self, flow_run: FlowRun, control: RunControl) -> None:
        if self._session is None:
            raise RuntimeError("the worker is not set up")
        await self._session.executor.execute(flow_run, control)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: JobConfiguration,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> WorkerResult:
        """Run one claimed flow run here and now."""
        del configuration
        if task_status is not None:
            task_status.started(self.name)
        await self._execute(flow_run, RunControl())
        return WorkerResult(status_code=0, identifier=self.name)


class _NoEmptyTraceback(logging.Filter):
    """Prefect logs a failed state with `exc_info` although there is no exception."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info == (None, None, None):
            record.exc_info = None
        return True


logging.getLogger("prefect.task_runs").addFilter(_NoEmptyTraceback())


async def serve(settings: Settings, *, name: str | None = None, limit: int | None = None) -> None:
    """Run a worker on the settings' pool until cancelled."""
    worker = PenstockWorker(
        settings.prefect.pool,
        name=name or f"{socket.gethostname()}-{os.getpid()}",
        limit=limit,
        settings=settings,
    )
    await worker.start(printer=logging.getLogger(__name__).info)
