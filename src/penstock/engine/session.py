"""All that stands behind a worker while it works: its lease, the executor of its runs, its upkeep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient

from penstock import registry
from penstock.approvals.rules import RuleBook
from penstock.engine.closing import Closing
from penstock.engine.facts import Engine
from penstock.engine.judging import RuleJudge
from penstock.engine.lease import LeaseKeeper, Registration
from penstock.engine.links import Links
from penstock.engine.notices import Notifier
from penstock.engine.noting import RulesNoter
from penstock.engine.outputs import OutputStore
from penstock.engine.prefect_api import result_store
from penstock.engine.revisions import Revisions
from penstock.engine.runs import RunExecutor
from penstock.engine.starting import RunStarter
from penstock.engine.upkeep import Upkeep
from penstock.errors import NotFound, StoreError
from penstock.sandbox import select
from penstock.settings import Settings
from penstock.store.database import Database
from penstock.store.leases import retire_worker
from penstock.store.runs import get_run
from penstock.store.upkeep import free_run
from penstock.telemetry.redaction import Redactor, secrets_of_environment

__all__ = ["WorkerSession", "open_session"]

_FAREWELL_S = 3.0


@dataclass(frozen=True)
class WorkerSession:
    """What a worker works with from its start to its end."""

    worker_id: UUID
    database: Database
    executor: RunExecutor
    closing: Closing
    upkeep: Upkeep

    async def cancelled_by(self, run_id: UUID) -> str | None:
        """Say who cancelled a run; None when nobody did."""
        try:
            run = await get_run(self.database, run_id)
        except NotFound:
            return None
        return None if run.cancel_requested_at is None else run.cancelled_by or ""

    async def free(self, run_id: UUID, *, failed: bool = False) -> None:
        """Let go of a run, so that another worker may have it at once.

        Args:
            failed: It could not be carried out; a few times of that end it.
        """
        await free_run(self.database, run_id, self.worker_id, failed=failed)


@asynccontextmanager
async def open_session(
    settings: Settings,
    database: Database,
    client: PrefectClient,
    *,
    name: str,
    pool: str,
    in_flight: Callable[[], Collection[UUID]],
    on_lost: Callable[[], None],
) -> AsyncGenerator[WorkerSession]:
    """Take a lease and make ready to run.

    Args:
        in_flight: Gives the runs that the worker has.
        on_lost: Called when somebody took the worker's runs away.
    """
    worker_id = uuid4()
    worker = Registration(worker_id, name, pool, settings.worker.lease_seconds)
    await worker.register(database)
    keeper = LeaseKeeper(database.url, worker, on_lost)
    keeper.start()
    try:
        starter = RunStarter(database, client, pool)
        closing = Closing(database, client, starter)
        judge = RuleJudge(RuleBook(settings.people, settings.policies))
        executor = _executor(settings, database, closing, judge, name=name, worker_id=worker_id)
        upkeep = Upkeep(
            database,
            client,
            starter,
            closing,
            judge,
            Notifier(database, judge, Links(settings), settings.approvals.notify),
            RulesNoter(database, judge.rules, name),
            worker_id,
            in_flight,
        )
        yield WorkerSession(worker_id, database, executor, closing, upkeep)
    finally:
        await keeper.close()
        # Without the database the lease just runs out; nobody waits for that here.
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await retire_worker(database, worker_id)


def _executor(
    settings: Settings,
    database: Database,
    closing: Closing,
    judge: RuleJudge,
    *,
    name: str,
    worker_id: UUID,
) -> RunExecutor:
    store = result_store(settings.home_dir / "results")
    if store.result_storage is None:
        raise StoreError("Prefect gave no result storage")
    agents = registry.build(settings.plugins)
    engine = Engine(
        settings=settings,
        registry=agents,
        redactor=Redactor(secrets_of_environment()),
        outputs=OutputStore(store.result_storage, settings.limits.inline_output_bytes),
        make_sandbox=lambda: select(settings),
        rules=judge.rules,
    )
    revisions = Revisions(database, agents, settings.allow)
    return RunExecutor(
        engine,
        database,
        revisions,
        closing.client,
        store,
        closing.starter,
        closing,
        judge,
        worker_name=name,
        worker_id=worker_id,
    )
