from __future__ import annotations

from uuid import uuid4

import pytest

from penstock.errors import LeaseLost
from penstock.store.database import Database
from penstock.store.nodes import start_node
from penstock.store.requests import get_request, set_request_run
from penstock.store.runs import finish_run, get_run
from penstock.store.states import RunState
from penstock.store.suspension import leave_run, suspend_run
from penstock.store.upkeep import close_request_of, free_run, held_by, waiting_runs
from penstock.store.workflows import Revision
from store.entering import age, enter, register, request, types_of


async def test_held_runs_are_those_entered_a_while_ago(database: Database, revision: Revision) -> None:
    mine, other = await register(database, "w1"), await register(database, "w2")
    held, fresh, ended = [await enter(database, revision, worker_id=mine) for _ in range(3)]
    foreign = await enter(database, revision, worker_id=other)
    for entry in (held, ended, foreign):
        await age(database, "run", entry.run.id, 61, "entered_at")
    await finish_run(database, ended.run.id, RunState.COMPLETED, token=ended.run.token)

    assert await held_by(database, mine, older_than_s=60) == [held.run.id]
    assert await held_by(database, mine, older_than_s=0) == [held.run.id, fresh.run.id]


async def test_freed_run_is_for_anybody(database: Database, revision: Revision) -> None:
    worker = await register(database)
    entry = await enter(database, revision, worker_id=worker)

    assert not await free_run(database, entry.run.id, await register(database, "w2"))
    assert await free_run(database, entry.run.id, worker)
    assert not await free_run(database, entry.run.id, worker)

    run = await get_run(database, entry.run.id)
    assert (run.state, run.worker_id, run.entered_at) == (RunState.RUNNING, None, None)
    assert await types_of(database, run.id) == ["run.started", "run.left"]
    with pytest.raises(LeaseLost):
        await start_node(database, run.id, "scan", attempt=1, token=entry.run.token)


async def test_waiting_runs_come_in_pages(database: Database, revision: Revision) -> None:
    entries = [await enter(database, revision) for _ in range(5)]
    for index, entry in enumerate(entries[:4]):
        if index % 2:
            await leave_run(database, entry.run.id, entry.run.token, RunState.QUEUED)
        else:
            await suspend_run(database, entry.run.id, entry.run.token, None, after_round=0)

    first = await waiting_runs(database, limit=3)
    rest = await waiting_runs(database, limit=3, after=first[-1])

    assert [*first, *rest] == sorted(entry.run.id for entry in entries[:4])


async def test_request_of_a_run_is_closed_unless_the_run_goes_on(
    database: Database, revision: Revision
) -> None:
    never, going = [await request(database) for _ in range(2)]
    await set_request_run(database, never.id, unentered := uuid4())
    entry = await enter(database, revision, request_id=going.id)
    for run_id in (unentered, entry.run.id, uuid4()):
        await close_request_of(database, run_id)

    assert (await get_request(database, never.id)).closed_at is not None
    assert (await get_request(database, going.id)).closed_at is None
