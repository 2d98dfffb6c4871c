from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from penstock.errors import LeaseLost, NotFound
from penstock.store.approvals import open_request
from penstock.store.budgets import reserve
from penstock.store.database import Database
from penstock.store.nodes import finish_node, nodes_of, skip_node, start_node
from penstock.store.runs import add_event, finish_run, get_run, set_run_state
from penstock.store.slots import take_slot
from penstock.store.states import NodeState, RunState
from penstock.store.suspension import leave_run, suspend_run
from penstock.store.workflows import Revision
from store.asking import ONE, asked_for
from store.entering import enter, register, types_of

Write = Callable[[Database, UUID, int], Awaitable[Any]]

WRITES: dict[str, Write] = {
    "start_node": lambda database, run, token: start_node(database, run, "scan", attempt=1, token=token),
    "finish_node": lambda database, run, token: finish_node(
        database, run, "scan", NodeState.SUCCEEDED, attempt=1, token=token
    ),
    "skip_node": lambda database, run, token: skip_node(database, run, "scan", reason="x", token=token),
    "add_event": lambda database, run, token: add_event(database, run, "note", token=token),
    "set_run_state": lambda database, run, token: set_run_state(database, run, RunState.PENDING, token=token),
    "finish_run": lambda database, run, token: finish_run(database, run, RunState.FAILED, token=token),
    "leave_run": lambda database, run, token: leave_run(database, run, token, RunState.QUEUED),
    "suspend_run": lambda database, run, token: suspend_run(database, run, token, "waits", after_round=0),
    "open_request": lambda database, run, token: open_request(
        database, asked_for(), run_id=run, token=token, epoch=1, judge=ONE
    ),
    "take_slot": lambda database, run, token: take_slot(
        database, run, token, workflow="fix", key="a", limit=1, release_while_waiting=False
    ),
    "reserve": lambda database, run, token: reserve(
        database,
        run_id=run,
        token=token,
        node_id="apply",
        item="",
        epoch=1,
        workflow="fix",
        targets=["a"],
        per_target=True,
        limit=1,
        window_s=60,
    ),
}


@pytest.fixture(params=WRITES.values(), ids=list(WRITES))
def write(request: pytest.FixtureRequest) -> Write:
    return request.param


async def test_write_with_the_newest_token_counts(
    database: Database, revision: Revision, write: Write
) -> None:
    await enter(database, revision, run_id := uuid4())
    entry = await enter(database, revision, run_id)

    await write(database, run_id, entry.run.token)


async def test_late_write_changes_nothing(database: Database, revision: Revision, write: Write) -> None:
    entry = await enter(database, revision)
    await enter(database, revision, entry.run.id, claimed_by="w2")
    before = await get_run(database, entry.run.id), await types_of(database, entry.run.id)

    with pytest.raises(LeaseLost, match=f"{entry.run.id}.* was taken over by another worker"):
        await write(database, entry.run.id, entry.run.token)

    assert (await get_run(database, entry.run.id), await types_of(database, entry.run.id)) == before
    assert await nodes_of(database, entry.run.id) == []


async def test_write_to_an_unknown_run_is_not_found(database: Database, write: Write) -> None:
    with pytest.raises(NotFound):
        await write(database, uuid4(), 1)


async def test_every_entry_gives_a_new_token(database: Database, revision: Revision) -> None:
    run_id = uuid4()
    entries = await asyncio.gather(*(enter(database, revision, run_id) for _ in range(8)))

    assert sorted(entry.run.token for entry in entries) == list(range(1, 9))


async def test_entry_while_another_worker_writes_has_one_winner(
    database: Database, revision: Revision
) -> None:
    """Either the old worker's end stands and nobody enters, or the new one holds the run."""
    for _ in range(20):
        old = await enter(database, revision, worker_id=await register(database))
        late, new = await asyncio.gather(
            finish_run(database, old.run.id, RunState.COMPLETED, token=old.run.token),
            enter(database, revision, old.run.id, claimed_by="w2"),
            return_exceptions=True,
        )

        assert not isinstance(new, BaseException)
        if late is True:
            assert (new.run.state, new.run.token) == (RunState.COMPLETED, old.run.token)
        else:
            assert isinstance(late, LeaseLost)
            assert (new.run.state, new.run.token) == (RunState.RUNNING, old.run.token + 1)


async def test_without_a_token_a_held_run_is_not_ended(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision, worker_id=await register(database))

    assert not await finish_run(database, entry.run.id, RunState.CANCELLED)
    assert not await set_run_state(database, entry.run.id, RunState.SUSPENDED)

    await suspend_run(database, entry.run.id, entry.run.token, "waits", after_round=0)
    assert await finish_run(database, entry.run.id, RunState.CANCELLED)


async def test_end_without_a_token_shuts_out_who_held_it(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)
    for _ in range(2):
        assert await finish_run(database, entry.run.id, RunState.CANCELLED)

    with pytest.raises(LeaseLost):
        await start_node(database, entry.run.id, "scan", attempt=1, token=entry.run.token)
