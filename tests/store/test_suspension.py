from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from penstock.errors import LeaseLost, NotFound, StoreError
from penstock.store.approvals import decide
from penstock.store.database import Database
from penstock.store.nodes import NodeChange, finish_node, write_nodes
from penstock.store.requests import Parent, close_request, set_request_run
from penstock.store.runs import Entry, events_of, finish_run, get_run, reopen_run
from penstock.store.states import NodeState, RunState
from penstock.store.suspension import (
    has_news,
    leave_run,
    queued_runs,
    request_cancel,
    suspend_run,
    suspended_with_news,
)
from penstock.store.tables import SIGNAL_CHANNEL
from penstock.store.workflows import Revision
from store import asking
from store.entering import age, enter, register, request, types_of


async def suspend(database: Database, entry: Entry) -> int:
    run = entry.run
    return await suspend_run(database, run.id, run.token, "waits", after_round=run.round)


async def wait_for_child(database: Database, entry: Entry, key: str) -> UUID:
    """Have the node `call` of a run wait for a child and give the id of the child's request."""
    made = await request(database, key=key, parent=Parent(entry.run.id, "call"))
    await write_nodes(database, entry.run.id, [NodeChange("call", NodeState.WAITING, entry.run.epoch)])
    return made.id


async def ask(database: Database, entry: Entry, *, expires_in_s: float | None = None) -> UUID:
    """Have the node `apply` of a run wait for approval and give the id of the request."""
    await write_nodes(
        database, entry.run.id, [NodeChange("apply", NodeState.WAITING_APPROVAL, entry.run.epoch)]
    )
    return (await asking.ask(database, entry, expires_in_s=expires_in_s)).id


async def say(database: Database, asked: UUID, decision: str) -> None:
    await decide(database, asked, asking.words(decision=decision), judge=asking.ONE)


@pytest.mark.parametrize(
    ("state", "event"), [(RunState.RUNNING, "run.left"), (RunState.QUEUED, "run.queued")]
)
async def test_left_run_is_for_anybody(
    database: Database, revision: Revision, state: RunState, event: str
) -> None:
    entry = await enter(database, revision, worker_id=await register(database))
    await age(database, "run", entry.run.id, 100, "entered_at")
    for _ in range(2):
        await leave_run(database, entry.run.id, entry.run.token, state, message="no place")

    run = await get_run(database, entry.run.id)
    assert (run.state, run.worker_id, run.entered_at) == (state, None, None)
    assert (run.token, run.message) == (entry.run.token + 1, "no place")
    assert run.active_s == pytest.approx(100, abs=30)
    assert await types_of(database, run.id) == ["run.started", event]
    assert (await enter(database, revision, run.id)).run.state is RunState.RUNNING


async def test_run_is_left_only_to_go_on(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)

    with pytest.raises(StoreError, match="does not leave"):
        await leave_run(database, entry.run.id, entry.run.token, RunState.FAILED)


async def test_run_that_has_ended_is_neither_left_nor_suspended(
    database: Database, revision: Revision
) -> None:
    entry = await enter(database, revision)
    await finish_run(database, entry.run.id, RunState.COMPLETED, token=entry.run.token)

    with pytest.raises(StoreError, match="completed"):
        await leave_run(database, entry.run.id, entry.run.token, RunState.RUNNING)
    with pytest.raises(StoreError, match="completed"):
        await suspend(database, entry)


async def test_suspend_run_gives_the_next_round(database: Database, revision: Revision) -> None:
    run_id = uuid4()
    rounds: list[int] = []
    for _ in range(3):
        entry = await enter(database, revision, run_id, worker_id=await register(database))
        rounds += [await suspend(database, entry) for _ in range(2)]

    run = await get_run(database, run_id)
    assert rounds == [1, 1, 2, 2, 3, 3]
    assert (run.state, run.round, run.worker_id, run.message) == (RunState.SUSPENDED, 3, None, "waits")
    assert (await types_of(database, run_id)).count("run.suspended") == 3


async def test_suspend_run_after_somebody_entered_is_late(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)
    await suspend(database, entry)
    await enter(database, revision, entry.run.id)

    with pytest.raises(LeaseLost):
        await suspend(database, entry)


async def test_time_counts_while_a_worker_holds_the_run(database: Database, revision: Revision) -> None:
    run_id = uuid4()
    for _ in range(3):
        entry = await enter(database, revision, run_id)
        await age(database, "run", run_id, 100, "entered_at")
        await suspend(database, entry)
    await enter(database, revision, run_id)
    await age(database, "run", run_id, 100, "entered_at")
    last = await enter(database, revision, run_id, claimed_by="w2")

    assert last.run.active_s == pytest.approx(400, abs=60)


@pytest.mark.parametrize("decision", ["approve", "reject", "send_back"])
async def test_news_of_a_decision(database: Database, revision: Revision, decision: str) -> None:
    entry = await enter(database, revision)
    asked = await ask(database, entry)
    await suspend(database, entry)
    assert not await has_news(database, entry.run.id)

    await say(database, asked, decision)

    assert await has_news(database, entry.run.id)
    assert await suspended_with_news(database, older_than_s=0) == [entry.run.id]


async def test_news_of_an_approval_whose_time_ran_out(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)
    asked = await ask(database, entry, expires_in_s=60)
    assert not await has_news(database, entry.run.id)

    await age(database, "approval_request", asked, 61, "expires_at")

    assert await has_news(database, entry.run.id)


async def test_decision_is_no_news_once_its_node_went_on(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)
    await say(database, await ask(database, entry), "approve")
    await finish_node(database, entry.run.id, "apply", NodeState.SUCCEEDED, attempt=1)

    assert not await has_news(database, entry.run.id)


async def test_decision_of_an_earlier_epoch_is_no_news(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)
    await say(database, await ask(database, entry), "reject")
    await finish_run(database, entry.run.id, RunState.REJECTED)
    await reopen_run(database, entry.run.id)
    await enter(database, revision, entry.run.id)

    await write_nodes(database, entry.run.id, [NodeChange("apply", NodeState.WAITING_APPROVAL, 2)])

    assert not await has_news(database, entry.run.id)


async def test_news_of_a_child_that_ended(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)
    asked = await wait_for_child(database, entry, "k1")
    assert not await has_news(database, entry.run.id)
    child = await enter(database, revision, request_id=asked)
    assert not await has_news(database, entry.run.id)

    await finish_run(database, child.run.id, RunState.FAILED)

    assert await has_news(database, entry.run.id)


async def test_news_of_a_child_that_never_started(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)
    asked = await wait_for_child(database, entry, "k1")

    await close_request(database, asked)

    assert await has_news(database, entry.run.id)


async def test_only_the_newest_child_is_news(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)
    first = await enter(database, revision, request_id=await wait_for_child(database, entry, "k1"))
    await finish_run(database, first.run.id, RunState.FAILED)
    await wait_for_child(database, entry, "k2")

    assert not await has_news(database, entry.run.id)


async def test_cancel_is_news(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)
    await suspend(database, entry)
    await request_cancel(database, entry.run.id, by="ann")

    assert await has_news(database, entry.run.id)
    await finish_run(database, entry.run.id, RunState.CANCELLED)
    assert not await has_news(database, entry.run.id)
    assert not await has_news(database, uuid4())


async def test_sweeps_find_what_waits(database: Database, revision: Revision) -> None:
    suspended, again, queued, running = [await enter(database, revision) for _ in range(4)]
    for entry in (suspended, again):
        await suspend(database, entry)
        await request_cancel(database, entry.run.id, by="ann")
    await leave_run(database, queued.run.id, queued.run.token, RunState.QUEUED)
    await request_cancel(database, running.run.id, by="ann")
    await age(database, "run", again.run.id, 61, "updated_at")

    assert await suspended_with_news(database, older_than_s=60) == [again.run.id]
    assert await queued_runs(database) == [queued.run.id]


async def test_request_cancel_tells_who_must_act(database: Database, revision: Revision) -> None:
    worker = await register(database)
    entry = await enter(database, revision, worker_id=worker)
    ended, open_, unseen = [
        await request(database, key=key, parent=Parent(entry.run.id, "call", key)) for key in "abc"
    ]
    over = await enter(database, revision, request_id=ended.id)
    await finish_run(database, over.run.id, RunState.COMPLETED)
    child = await enter(database, revision, request_id=open_.id)
    await set_request_run(database, unseen.id, unentered := uuid4())

    found = await request_cancel(database, entry.run.id, by="ann")

    assert (found.state, found.worker_id) == (RunState.RUNNING, worker)
    assert found.children == (child.run.id, unentered)


async def test_request_cancel_counts_once(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id
    await asyncio.gather(*(request_cancel(database, run_id, by=f"p{index}") for index in range(6)))
    first = await get_run(database, run_id)
    await request_cancel(database, run_id, by="late")

    assert first.cancel_requested_at is not None
    assert await get_run(database, run_id) == first
    events = [event for event in await events_of(database, run_id) if event.type == "run.cancelling"]
    assert [event.data for event in events] == [{"by": first.cancelled_by}]


async def test_request_cancel_leaves_an_ended_run(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id
    await finish_run(database, run_id, RunState.COMPLETED)

    assert (await request_cancel(database, run_id, by="ann")).state is RunState.COMPLETED
    assert (await get_run(database, run_id)).cancel_requested_at is None
    with pytest.raises(NotFound):
        await request_cancel(database, uuid4(), by="ann")


async def test_signals_name_the_run_that_can_go_on(database: Database, revision: Revision) -> None:
    parent = await enter(database, revision)
    child = await enter(database, revision, request_id=await wait_for_child(database, parent, "k"))
    gated = await enter(database, revision)
    asked = await ask(database, gated)
    alone = await enter(database, revision)
    async with database.listen(SIGNAL_CHANNEL) as notices:
        assert (await anext(notices)).missed
        await request_cancel(database, alone.run.id, by="ann")
        await finish_run(database, alone.run.id, RunState.CANCELLED)
        await say(database, asked, "approve")
        await finish_run(database, child.run.id, RunState.COMPLETED)

        told = [(await anext(notices)).payload for _ in range(3)]

    assert told == [str(alone.run.id), str(gated.run.id), str(parent.run.id)]
