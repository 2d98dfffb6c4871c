from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from penstock.store.database import Database
from penstock.store.runs import Entry, finish_run, get_run
from penstock.store.slots import Slot, next_in_line, take_slot
from penstock.store.states import RunState
from penstock.store.suspension import leave_run, suspend_run
from penstock.store.workflows import Revision
from store.entering import enter, request


async def want(
    database: Database, entry: Entry, *, limit: int = 1, key: str = "a", released: bool = False
) -> Slot:
    return await take_slot(
        database,
        entry.run.id,
        entry.run.token,
        workflow="fix",
        key=key,
        limit=limit,
        release_while_waiting=released,
    )


async def queue(database: Database, entry: Entry) -> None:
    await leave_run(database, entry.run.id, entry.run.token, RunState.QUEUED)


async def suspend(database: Database, entry: Entry) -> None:
    await suspend_run(database, entry.run.id, entry.run.token, "waits", after_round=entry.run.round)


async def line(database: Database, *, limit: int = 1, released: bool = False) -> list[UUID]:
    return await next_in_line(database, "fix", "a", limit, released)


async def test_slot_is_taken_while_there_is_one(database: Database, revision: Revision) -> None:
    first, second, third = [await enter(database, revision) for _ in range(3)]

    assert await want(database, first, limit=2) == Slot(taken=True)
    assert (await want(database, second, limit=2)).taken
    refused = await want(database, third, limit=2)

    assert refused == Slot(taken=False, holders=(first.run.id, second.run.id), ahead=0)
    assert (await get_run(database, first.run.id)).holds_slot
    assert not (await get_run(database, third.run.id)).holds_slot


async def test_slots_of_other_keys_are_apart(database: Database, revision: Revision) -> None:
    first, second = [await enter(database, revision) for _ in range(2)]

    assert (await want(database, first, key="a")).taken
    assert (await want(database, second, key="b")).taken


async def test_slot_is_kept_by_whoever_enters_the_run_next(database: Database, revision: Revision) -> None:
    first = await enter(database, revision)
    for _ in range(2):
        assert (await want(database, first)).taken
    await leave_run(database, first.run.id, first.run.token, RunState.RUNNING)
    other, again = await enter(database, revision), await enter(database, revision, first.run.id)

    assert not (await want(database, other)).taken
    assert (await want(database, again)).taken


async def test_end_of_the_run_frees_the_slot(database: Database, revision: Revision) -> None:
    first, second = [await enter(database, revision) for _ in range(2)]
    await want(database, first)
    await finish_run(database, first.run.id, RunState.COMPLETED)

    assert not (await get_run(database, first.run.id)).holds_slot
    assert (await want(database, second)).taken


async def test_older_runs_in_the_line_come_first(database: Database, revision: Revision) -> None:
    holder, waiting, young = [await enter(database, revision) for _ in range(3)]
    await want(database, holder)
    assert not (await want(database, waiting)).taken
    await queue(database, waiting)
    await finish_run(database, holder.run.id, RunState.COMPLETED)

    assert await want(database, young) == Slot(taken=False, holders=(), ahead=1)
    called = await enter(database, revision, waiting.run.id)
    assert await want(database, young) == Slot(taken=False, holders=(waiting.run.id,), ahead=0)
    assert (await want(database, called)).taken


async def test_run_of_a_request_stands_in_line_before_it_asks(database: Database, revision: Revision) -> None:
    asked = await request(database, concurrency_key="a")
    old = await enter(database, revision, request_id=asked.id)
    young = await enter(database, revision)

    assert await want(database, young) == Slot(taken=False, holders=(old.run.id,))
    assert (await want(database, old)).taken


async def test_many_at_once_take_as_many_slots_as_there_are(database: Database, revision: Revision) -> None:
    entries = [await enter(database, revision) for _ in range(12)]

    slots = await asyncio.gather(*(want(database, entry, limit=3) for entry in entries))

    assert sum(slot.taken for slot in slots) <= 3
    holding = [(await get_run(database, entry.run.id)).holds_slot for entry in entries]
    assert holding == [slot.taken for slot in slots]
    assert slots[0].taken or slots[0].ahead == 0


async def test_suspended_run_keeps_its_slot(database: Database, revision: Revision) -> None:
    first, second = [await enter(database, revision) for _ in range(2)]
    await want(database, first)
    await suspend(database, first)

    assert (await want(database, second)).holders == (first.run.id,)
    again = await enter(database, revision, first.run.id)
    assert (await want(database, again)).taken


async def test_suspended_run_may_give_its_slot_away(database: Database, revision: Revision) -> None:
    first, second = [await enter(database, revision) for _ in range(2)]
    assert (await want(database, first, released=True)).taken
    await suspend(database, first)
    assert (await want(database, second, released=True)).taken

    again = await enter(database, revision, first.run.id)
    assert await want(database, again, released=True) == Slot(taken=False, holders=(second.run.id,))
    await queue(database, again)
    await finish_run(database, second.run.id, RunState.COMPLETED)
    last = await enter(database, revision, first.run.id)
    assert (await want(database, last, released=True)).taken


async def test_next_in_line_are_the_oldest_that_fit(database: Database, revision: Revision) -> None:
    holder, *waiting = [await enter(database, revision) for _ in range(5)]
    await want(database, holder, limit=1)
    for entry in waiting:
        assert not (await want(database, entry, limit=1)).taken
        await queue(database, entry)
    ids = [entry.run.id for entry in waiting]

    assert await line(database, limit=1) == []
    assert await line(database, limit=3) == ids[:2]
    await suspend(database, holder)
    assert await line(database, limit=1) == []
    assert await line(database, limit=1, released=True) == ids[:1]
    await finish_run(database, holder.run.id, RunState.COMPLETED)
    assert await line(database, limit=3) == ids[:3]
    assert await line(database, limit=9) == ids
    assert await next_in_line(database, "fix", str(uuid4()), 9, release_while_waiting=False) == []


@pytest.mark.parametrize("limit", [1, 3])
async def test_line_moves_until_all_had_their_turn(
    database: Database, revision: Revision, limit: int
) -> None:
    """Runs come, queue, are called and end, with never more than the limit at work."""
    busy: set[UUID] = set()
    most = 0
    order: list[UUID] = []

    async def turn(run_id: UUID) -> None:
        nonlocal most
        entry = await enter(database, revision, run_id)
        if not (await want(database, entry, limit=limit)).taken:
            await queue(database, entry)
            return
        busy.add(run_id)
        order.append(run_id)
        most = max(most, len(busy))
        await asyncio.sleep(0)
        busy.remove(run_id)
        await finish_run(database, run_id, RunState.COMPLETED, token=entry.run.token)

    runs = [uuid4() for _ in range(12)]
    await asyncio.gather(*(turn(run_id) for run_id in runs))
    while called := await line(database, limit=limit):
        await asyncio.gather(*(turn(run_id) for run_id in called))

    assert sorted(order) == sorted(runs)
    assert most <= limit
