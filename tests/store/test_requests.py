from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from penstock.errors import NotFound, StoreError
from penstock.store.database import Database
from penstock.store.requests import (
    Parent,
    RunRequest,
    accept,
    children_of,
    close_request,
    get_request,
    set_request_run,
    unstarted,
)
from penstock.store.runs import finish_run, get_run, reopen_run
from penstock.store.states import RunState, Trust
from penstock.store.workflows import Revision
from store.entering import age, enter, request


async def test_accept_records_everything(database: Database) -> None:
    wanted = RunRequest(
        uuid4(),
        "fix",
        key="alert-1",
        inputs={"host": "a\x00b"},
        trigger={"status": "firing"},
        trigger_type="alertmanager",
        trust=Trust.OPERATOR,
        requester="ann",
        parent=Parent(uuid4(), "call", "a"),
        concurrency_key="host-a",
        queue="urgent",
    )
    accepted = await accept(database, wanted)

    found = await get_request(database, wanted.id)
    assert (accepted.new, accepted.active, accepted.request) == (True, (), found)
    assert found.created_at is not None
    assert found == replace(wanted, created_at=found.created_at)


async def test_accept_trusts_nobody_unless_told(database: Database) -> None:
    assert (await request(database)).trust is Trust.UNTRUSTED


async def test_accept_again_is_safe(database: Database) -> None:
    wanted = RunRequest(uuid4(), "fix", key="k")

    first, again = await accept(database, wanted), await accept(database, wanted)

    assert (first.new, again.new) == (True, True)
    assert first.request == again.request


async def test_accept_with_a_known_key_attaches(database: Database) -> None:
    earlier = await request(database, key="k", inputs={"n": 1})

    accepted = await accept(database, RunRequest(uuid4(), "fix", key="k", inputs={"n": 2}))

    assert (accepted.new, accepted.request) == (False, earlier)
    assert (await accept(database, RunRequest(uuid4(), "other", key="k"))).new
    assert (await accept(database, RunRequest(uuid4(), "fix"))).new
    assert (await accept(database, RunRequest(uuid4(), "fix"))).new


@pytest.mark.parametrize("limit", [None, 100])
async def test_accept_by_many_at_once_makes_one_request_per_key(
    database: Database, limit: int | None
) -> None:
    wanted = [RunRequest(uuid4(), "fix", key=f"k{index % 3}", concurrency_key="a") for index in range(24)]

    accepted = await asyncio.gather(*(accept(database, one, active_limit=limit) for one in wanted))

    assert sum(answer.new for answer in accepted) == 3
    assert len({answer.request.id for answer in accepted}) == 3


async def test_accept_within_a_limit_by_many_at_once(database: Database) -> None:
    wanted = [RunRequest(uuid4(), "fix", concurrency_key="a") for _ in range(20)]

    accepted = await asyncio.gather(*(accept(database, one, active_limit=3) for one in wanted))

    new = [answer.request.id for answer in accepted if answer.new]
    refused = [answer for answer in accepted if not answer.new]
    assert len(new) == 3
    assert {frozenset(answer.active) for answer in refused} == {frozenset(new)}
    assert {answer.request.id for answer in refused} == {refused[0].active[0]}


async def test_accept_counts_open_requests_of_its_key_alone(database: Database) -> None:
    await request(database, concurrency_key="b")
    await request(database)
    await accept(database, RunRequest(uuid4(), "other", concurrency_key="a"))
    await close_request(database, (await request(database, concurrency_key="a")).id)

    assert (await accept(database, RunRequest(uuid4(), "fix", concurrency_key="a"), active_limit=1)).new


async def test_accept_within_a_limit_again_is_safe(database: Database) -> None:
    wanted = RunRequest(uuid4(), "fix", concurrency_key="a")
    for _ in range(2):
        assert (await accept(database, wanted, active_limit=1)).new


async def test_end_of_a_run_closes_its_request(database: Database, revision: Revision) -> None:
    made = await request(database, concurrency_key="a")
    entry = await enter(database, revision, request_id=made.id)
    another = RunRequest(uuid4(), "fix", concurrency_key="a")
    assert (await accept(database, another, active_limit=1)).active == (made.id,)

    await finish_run(database, entry.run.id, RunState.FAILED)

    assert (await get_request(database, made.id)).closed_at is not None
    await reopen_run(database, entry.run.id)
    assert (await accept(database, another, active_limit=1)).active == (made.id,)


async def test_run_takes_what_its_request_says(database: Database, revision: Revision) -> None:
    parent = Parent((await enter(database, revision)).run.id, "call")
    made = await request(
        database,
        trigger={"status": "firing"},
        trigger_type="alertmanager",
        trust=Trust.UNTRUSTED,
        requester="ann",
        parent=parent,
        concurrency_key="a",
    )

    run = (await enter(database, revision, request_id=made.id, trust=Trust.OPERATOR)).run

    assert (run.trust, run.trigger, run.trigger_type) == (
        Trust.UNTRUSTED,
        {"status": "firing"},
        "alertmanager",
    )
    assert (run.requester, run.parent, run.concurrency_key) == ("ann", parent, "a")
    assert (run.request_id, (await get_request(database, made.id)).run_id) == (made.id, run.id)
    assert await get_run(database, run.id) == run


async def test_run_without_its_request_takes_what_it_is_given(database: Database, revision: Revision) -> None:
    run = (await enter(database, revision, request_id=uuid4())).run

    assert (run.trust, run.trigger, run.request_id) == (Trust.AUTHENTICATED, {"type": "cli"}, None)
    assert (run.requester, run.trigger_type, run.parent) == ("unknown", "manual", None)


async def test_run_gets_nothing_of_a_request_that_is_not_its_own(
    database: Database, revision: Revision
) -> None:
    others = [
        await request(database, trust=Trust.OPERATOR, requester="ann"),
        (await accept(database, RunRequest(uuid4(), "other", trust=Trust.OPERATOR))).request,
    ]
    await set_request_run(database, others[0].id, uuid4())

    for other in others:
        run = (await enter(database, revision, request_id=other.id)).run
        assert (run.trust, run.requester, run.request_id) == (Trust.AUTHENTICATED, "unknown", None)


async def test_run_takes_the_inputs_that_were_accepted(database: Database, revision: Revision) -> None:
    made = await request(database, inputs={"host": "asked for"})

    run = (await enter(database, revision, request_id=made.id, inputs={"host": "slipped in"})).run

    assert run.inputs == {"host": "asked for"}


async def test_set_request_run_is_for_one_run(database: Database, revision: Revision) -> None:
    made, run_id = await request(database), uuid4()
    for _ in range(2):
        await set_request_run(database, made.id, run_id)
    await enter(database, revision, run_id, request_id=made.id)

    with pytest.raises(StoreError, match=str(run_id)):
        await set_request_run(database, made.id, uuid4())
    assert (await get_request(database, made.id)).run_id == run_id


async def test_unstarted_are_open_requests_without_a_run(database: Database) -> None:
    waiting, started, closed, fresh = [await request(database) for _ in range(4)]
    for made in (waiting, started, closed):
        await age(database, "run_request", made.id, 61, "created_at")
    await set_request_run(database, started.id, uuid4())
    await close_request(database, closed.id)

    assert [found.id for found in await unstarted(database, 60)] == [waiting.id]
    assert [found.id for found in await unstarted(database, 0)] == [waiting.id, fresh.id]


async def test_children_are_found_with_how_they_ended(database: Database, revision: Revision) -> None:
    parent = (await enter(database, revision)).run.id
    asked = [await request(database, key=f"k{item}", parent=Parent(parent, "call", item)) for item in "ab"]
    child = (await enter(database, revision, request_id=asked[0].id)).run.id
    await finish_run(database, child, RunState.COMPLETED, outputs={"n": 1}, message="done")

    children = await children_of(database, parent)

    assert [(found.request_id, found.run_id, found.node_id, found.item, found.key) for found in children] == [
        (asked[0].id, child, "call", "a", "ka"),
        (asked[1].id, None, "call", "b", "kb"),
    ]
    assert [(found.state, found.outputs, found.message) for found in children] == [
        (RunState.COMPLETED, {"n": 1}, "done"),
        (None, None, None),
    ]
    assert await children_of(database, child) == []


async def test_unknown_request_is_not_found(database: Database) -> None:
    for call in (
        get_request(database, uuid4()),
        set_request_run(database, uuid4(), uuid4()),
        close_request(database, uuid4()),
    ):
        with pytest.raises(NotFound):
            await call
