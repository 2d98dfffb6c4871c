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
from typing import Any
from uuid import UUID

import anyio.abc
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

from penstock import registry
from penstock.approvals.gate import ClosedGate
from penstock.engine.nodes import Engine
from penstock.engine.outputs import OutputStore
from penstock.engine.prefect_api import claim, hand_over, result_store, scheduled_runs, shared_client
from penstock.engine.revisions import Revisions
from penstock.engine.runs import RunExecutor
from penstock.engine.watchdog import LoopWatchdog
from penstock.errors import StoreError
from penstock.lifeline import report_ready
from penstock.sandbox import select
from penstock.settings import Settings, load_settings
from penstock.store.database import Database
from penstock.store.opening import open_database
from penstock.telemetry.redaction import Redactor, secrets_of_environment

__all__ = ["WAKE_CHANNEL", "WORKER_TYPE", "PenstockWorker", "serve"]

WORKER_TYPE = "penstock"
WAKE_CHANNEL = "penstock_wake"
"""Notified with a pool's name when a run was scheduled in it."""
_PATIENCE_S = 120.0


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
        self._database: Database | None = None
        self._executor: RunExecutor | None = None
        self._in_flight: dict[UUID, asyncio.Task[None]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._asking_again: set[asyncio.Task[None]] = set()

    async def setup(self) -> None:
        """Open the database and the shared client, then start listening."""
        await self._exit_stack.enter_async_context(shared_client(patience_s=_PATIENCE_S))
        await super().setup()
        self._database = await self._exit_stack.enter_async_context(open_database(self._settings))
        await self._exit_stack.enter_async_context(LoopWatchdog())
        self._executor = self._make_executor(self._database)
        self._listening = asyncio.create_task(self._listen(self._database), name="penstock-wake")
        report_ready()

    async def teardown(self, *exc_info: Any) -> None:
        """Stop taking runs, hand those in flight to another worker, close everything."""
        tasks = [*self._in_flight.values(), *self._asking_again]
        if self._listening is not None:
            tasks.append(self._listening)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().teardown(*exc_info)

    def _make_executor(self, database: Database) -> RunExecutor:
        settings = self._settings
        store = result_store(settings.home_dir / "results")
        if store.result_storage is None:
            raise StoreError("Prefect gave no result storage")
        agents = registry.build(settings.plugins)
        engine = Engine(
            settings=settings,
            registry=agents,
            gate=ClosedGate(),
            redactor=Redactor(secrets_of_environment()),
            outputs=OutputStore(store.result_storage, settings.limits.inline_output_bytes),
            make_sandbox=lambda: select(settings),
        )
        return RunExecutor(
            engine, database, Revisions(database, agents), self.client, store, worker_name=self.name
        )

    async def _listen(self, database: Database) -> None:
        async with database.listen(WAKE_CHANNEL) as notices:
            async for notice in notices:
                if notice.missed or notice.payload in {"", self._work_pool_name}:
                    await self._ask_quietly()

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
        if free <= 0 or not self._has_successfully_synced:
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
            self.limiter.acquire_on_behalf_of_nowait(flow_run.id)
            task = asyncio.create_task(self._carry(flow_run), name=f"run-{flow_run.id}")
            self._in_flight[flow_run.id] = task
        return taken

    async def _carry(self, flow_run: FlowRun) -> None:
        try:
            if await claim(self.client, flow_run.id):
                await self._execute(flow_run)
        except asyncio.CancelledError:
            await hand_over(self.client, flow_run.id)
            raise
        except Exception as error:  # told to Prefect, which shows it; the worker goes on
            self._logger.exception("Run %s could not be carried out", flow_run.id)
            await self._propose_crashed_state(flow_run, f"The worker could not carry it out: {error}")
        finally:
            self._in_flight.pop(flow_run.id, None)
            self.limiter.release_on_behalf_of(flow_run.id)
            if self.limiter.available_tokens == 1 and self.is_setup:  # it was full: more may be waiting
                task = asyncio.create_task(self._ask_quietly())
                self._asking_again.add(task)
                task.add_done_callback(self._asking_again.discard)

    async def _execute(self, flow_run: FlowRun) -> None:
        if self._executor is None:
            raise RuntimeError("the worker is not set up")
        await self._executor.execute(flow_run)

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
        await self._execute(flow_run)
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
