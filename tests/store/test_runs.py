from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from penstock.errors import InputInvalid, LeaseLost, NotFound, StoreError
from penstock.store.database import Database
from penstock.store.nodes import NodeChange, finish_node, nodes_of, start_node, write_nodes
from penstock.store.runs import (
    add_event,
    events_of,
    finish_run,
    get_run,
    list_runs,
    reopen_run,
    set_run_state,
)
from penstock.store.states import NodeState, RunState, Trust
from penstock.store.suspension import request_cancel
from penstock.store.tables import RUN_CHANNEL
from penstock.store.workflows import Revision, delete_workflow, save_revision, set_deployment
from store.entering import age, enter, register, types_of

S = NodeState


async def next_revision(database: Database) -> Revision:
    return await save_revision(
        database, workflow="fix", digest="d2", source="", spec={}, agents={}, created_by="bob"
    )


async def test_begin_run_pins_what_it_is_given(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)

    assert (entry.first, entry.nodes) == (True, ())
    assert entry.run == await get_run(database, entry.run.id)
    assert (entry.run.workflow, entry.run.revision_id, entry.run.state) == (
        "fix",
        revision.id,
        RunState.RUNNING,
    )
    assert (entry.run.inputs, entry.run.agents, entry.run.trust) == (
        {"host": "a"},
        {"patcher": "1"},
        Trust.AUTHENTICATED,
    )


async def test_begin_run_again_finds_the_pins_and_the_nodes(database: Database, revision: Revision) -> None:
    first = await enter(database, revision)
    await start_node(database, first.run.id, "scan", attempt=1)
    await finish_node(database, first.run.id, "scan", NodeState.SUCCEEDED, attempt=1, output={"n": 1})
    newer = await next_revision(database)

    again = await enter(
        database, newer, first.run.id, inputs={"host": "b"}, agents={"patcher": "2"}, claimed_by="w2"
    )

    assert (again.first, again.run.revision_id, again.run.claimed_by) == (False, revision.id, "w2")
    assert (again.run.inputs, again.run.agents) == (first.run.inputs, first.run.agents)
    assert [(node.node_id, node.output) for node in again.nodes] == [("scan", {"n": 1})]


async def test_begin_run_by_deployment_pins_the_current_revision(
    database: Database, revision: Revision
) -> None:
    deployment = uuid4()
    await set_deployment(database, "fix", deployment)

    entry = await enter(database, revision, revision_id=None, deployment_id=deployment)

    assert entry.run.revision_id == revision.id


async def test_begin_run_again_outlives_the_workflow(database: Database, revision: Revision) -> None:
    deployment = uuid4()
    await set_deployment(database, "fix", deployment)
    run_id = (await enter(database, revision)).run.id
    await delete_workflow(database, "fix")

    assert not (await enter(database, revision, run_id, revision_id=None, deployment_id=deployment)).first


@pytest.mark.parametrize("where", [{"revision_id": uuid4()}, {"revision_id": None, "deployment_id": uuid4()}])
async def test_begin_run_of_nothing_is_not_found(
    database: Database, revision: Revision, where: dict[str, Any]
) -> None:
    with pytest.raises(NotFound):
        await enter(database, revision, **where)


async def test_begin_run_by_many_at_once_is_first_for_one(database: Database, revision: Revision) -> None:
    run_id = uuid4()

    entries = await asyncio.gather(*(enter(database, revision, run_id) for _ in range(8)))

    assert sum(entry.first for entry in entries) == 1
    assert (await types_of(database, run_id)).count("run.started") == 1


async def test_begin_run_leaves_an_ended_run_alone(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id
    await finish_run(database, run_id, RunState.CANCELLED, message="by ann")

    again = await enter(database, revision, run_id, claimed_by="w2")

    assert (again.run.state, again.run.message, again.run.claimed_by) == (RunState.CANCELLED, "by ann", "w1")


async def test_suspended_run_goes_on_when_it_is_entered(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id
    assert await set_run_state(database, run_id, RunState.SUSPENDED, message="waits for ann")

    again = await enter(database, revision, run_id)

    assert (again.run.state, again.run.message) == (RunState.RUNNING, None)


async def test_finish_run_keeps_outputs_and_time(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id

    assert await finish_run(database, run_id, RunState.COMPLETED, outputs={"text": "a\x00b"})

    run = await get_run(database, run_id)
    assert (run.state, run.outputs) == (RunState.COMPLETED, {"text": "a\x00b"})
    assert run.ended_at is not None
    assert await types_of(database, run_id) == ["run.started", "run.completed"]


async def test_finish_run_twice_counts_once(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id
    for _ in range(2):
        assert await finish_run(database, run_id, RunState.FAILED, error={"code": "x"}, message="broke")

    assert not await finish_run(database, run_id, RunState.COMPLETED)
    assert not await set_run_state(database, run_id, RunState.RUNNING)
    assert (await get_run(database, run_id)).error == {"code": "x"}
    assert await types_of(database, run_id) == ["run.started", "run.failed"]


async def test_finish_run_with_a_message_that_no_column_takes(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id
    await finish_run(database, run_id, RunState.FAILED, message="bad \x00 byte")

    assert (await get_run(database, run_id)).message == "bad \ufffd byte"


async def test_states_are_for_their_functions(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id

    with pytest.raises(StoreError, match="set_run_state"):
        await finish_run(database, run_id, RunState.SUSPENDED)
    with pytest.raises(StoreError, match="finish_run"):
        await set_run_state(database, run_id, RunState.FAILED)


@pytest.mark.parametrize(
    ("state", "reopened"), [(RunState.FAILED, True), (RunState.CANCELLED, True), (RunState.COMPLETED, False)]
)
async def test_reopen_run_is_for_runs_without_success(
    database: Database, revision: Revision, state: RunState, *, reopened: bool
) -> None:
    run_id = (await enter(database, revision)).run.id
    await finish_run(database, run_id, state, message="over")

    assert await reopen_run(database, run_id) is reopened
    assert await reopen_run(database, run_id) is reopened

    run = await get_run(database, run_id)
    assert run.state is (RunState.RUNNING if reopened else state)
    assert (run.ended_at is None) is reopened


async def test_reopened_run_begins_a_new_epoch(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision, worker_id=await register(database))
    await request_cancel(database, entry.run.id, by="ann")
    await age(database, "run", entry.run.id, 100, "entered_at")
    await finish_run(database, entry.run.id, RunState.CANCELLED, token=entry.run.token)
    ended = await get_run(database, entry.run.id)
    assert (ended.worker_id, ended.active_s) == (None, pytest.approx(100, abs=30))
    assert await reopen_run(database, entry.run.id)

    run = await get_run(database, entry.run.id)
    assert (run.epoch, run.round, run.crashes, run.active_s) == (2, 0, 0, 0)
    assert (run.cancel_requested_at, run.cancelled_by, run.worker_id) == (None, None, None)
    assert run.token > entry.run.token
    assert await types_of(database, run.id) == [
        "run.started",
        "run.cancelling",
        "run.cancelled",
        "run.reopened",
    ]


async def test_reopen_run_resets_the_nodes_that_run_again(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id
    nodes = [("apply", ""), ("host", "a"), ("host", "b"), ("scan", "")]
    done = [NodeChange(name, S.SUCCEEDED, 2, item, output=1, task_run_id=uuid4()) for name, item in nodes]
    await write_nodes(database, run_id, done)
    await finish_run(database, run_id, RunState.COMPLETED)
    for _ in range(2):
        assert await reopen_run(database, run_id, reset=[*nodes[:2], ("none", "")], even_completed=True)

    apply, host_a, host_b, scan = await nodes_of(database, run_id)
    assert (host_b.state, scan.state) == (S.SUCCEEDED, S.SUCCEEDED)
    for node in (apply, host_a):
        assert (node.state, node.attempt, node.output) == (S.PENDING, 2, None)
        assert (node.task_run_id, node.started_at, node.ended_at) == (None, None, None)
    assert (await types_of(database, run_id)).count("node.reset") == 2
    assert await start_node(database, run_id, "host", attempt=3, item="a")


async def test_reopen_run_of_an_ending_that_is_over_is_late(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id
    await finish_run(database, run_id, RunState.FAILED)
    seen = (await get_run(database, run_id)).token
    assert await reopen_run(database, run_id, token=seen)
    assert await reopen_run(database, run_id, token=seen)
    await finish_run(database, run_id, RunState.FAILED)

    with pytest.raises(LeaseLost):
        await reopen_run(database, run_id, token=seen)
    assert (await get_run(database, run_id)).state is RunState.FAILED


async def test_reopen_run_by_many_at_once_begins_one_epoch(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id
    await finish_run(database, run_id, RunState.FAILED)

    assert all(await asyncio.gather(*(reopen_run(database, run_id) for _ in range(6))))
    assert (await get_run(database, run_id)).epoch == 2


async def test_entry_knows_the_number_of_its_revision(database: Database, revision: Revision) -> None:
    first = await enter(database, revision)
    newer = await enter(database, await next_revision(database))
    await finish_run(database, newer.run.id, RunState.COMPLETED)

    assert (first.revision_number, newer.revision_number) == (1, 2)
    for entry in (first, newer):
        again = await enter(database, revision, entry.run.id)
        assert (again.first, again.revision_number) == (False, entry.revision_number)


async def test_ended_run_is_not_taken(database: Database, revision: Revision) -> None:
    entry = await enter(database, revision)
    await finish_run(database, entry.run.id, RunState.INTERRUPTED, token=entry.run.token)

    again = await enter(database, revision, entry.run.id, worker_id=await register(database))

    assert again.run == await get_run(database, entry.run.id)
    assert (again.run.token, again.run.worker_id) == (entry.run.token, None)
    assert await types_of(database, entry.run.id) == ["run.started", "run.interrupted"]


async def test_unknown_run_is_not_found(database: Database) -> None:
    for call in (
        get_run(database, uuid4()),
        finish_run(database, uuid4(), RunState.FAILED),
        reopen_run(database, uuid4()),
        add_event(database, uuid4(), "note"),
    ):
        with pytest.raises(NotFound):
            await call


async def test_list_runs_pages_from_the_newest(database: Database, revision: Revision) -> None:
    begun = [(await enter(database, revision)).run.id for _ in range(5)]

    first = await list_runs(database, limit=2)
    second = await list_runs(database, limit=2, cursor=first.cursor)
    third = await list_runs(database, limit=2, cursor=second.cursor)

    assert [run.id for page in (first, second, third) for run in page.runs] == begun[::-1]
    assert third.cursor is None


async def test_list_runs_filters_by_workflow_and_state(database: Database, revision: Revision) -> None:
    failed, _running = [(await enter(database, revision)).run.id for _ in range(2)]
    await finish_run(database, failed, RunState.FAILED)

    page = await list_runs(database, workflow="fix", states=[RunState.FAILED, RunState.CRASHED])

    assert [run.id for run in page.runs] == [failed]
    assert (await list_runs(database, workflow="other")).runs == ()


@pytest.mark.parametrize("cursor", ["", "x", "é", "bnVsbA==", "WzEsMl0="])
async def test_list_runs_refuses_a_cursor_of_somebody_else(database: Database, cursor: str) -> None:
    with pytest.raises(InputInvalid, match="cursor"):
        await list_runs(database, cursor=cursor)


async def test_events_come_in_order_and_after_one(database: Database, revision: Revision) -> None:
    run_id = (await enter(database, revision)).run.id
    note = await add_event(database, run_id, "note", node_id="scan", data={"text": "hi"})
    await finish_run(database, run_id, RunState.COMPLETED)

    assert await types_of(database, run_id) == ["run.started", "note", "run.completed"]
    assert [event.type for event in await events_of(database, run_id, after_id=note)] == ["run.completed"]


async def test_events_reader_misses_none_of_concurrent_writers(
    database: Database, revision: Revision
) -> None:
    run_id = (await enter(database, revision)).run.id
    writers = asyncio.gather(*(start_node(database, run_id, f"n{index}", attempt=1) for index in range(60)))
    seen: list[int] = []
    while len(seen) < 61:
        seen += [event.id for event in await events_of(database, run_id, after_id=seen[-1] if seen else 0)]
    await writers

    assert seen == [event.id for event in await events_of(database, run_id)]


async def test_events_wake_listeners_once_per_transaction(database: Database, revision: Revision) -> None:
    async with database.listen(RUN_CHANNEL) as notices:
        assert (await anext(notices)).missed
        run_id = (await enter(database, revision)).run.id
        await finish_run(database, run_id, RunState.COMPLETED)
        await database.notify(RUN_CHANNEL, "end")

        woken = [(await anext(notices)).payload for _ in range(3)]

    assert woken == [str(run_id), str(run_id), "end"]
