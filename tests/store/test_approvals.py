from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from penstock.errors import AlreadyDecided, ApprovalClosed, InputInvalid, LeaseLost, NotFound, PenstockError
from penstock.store.approvals import (
    ApprovalRequest,
    decide,
    expire_requests,
    get_approval,
    latest_request,
    list_requests,
    open_request,
    set_code,
    take_code,
    use_grant,
    withdraw_requests,
)
from penstock.store.database import Database
from penstock.store.listening import Listener
from penstock.store.runs import Entry, finish_run, reopen_run
from penstock.store.states import ApprovalState, RunState, Verdict
from penstock.store.tables import SIGNAL_CHANNEL
from penstock.store.workflows import Revision
from store.entering import age, enter, types_of

S = ApprovalState

LOCK = text("SELECT id FROM penstock.approval_request WHERE id = :id FOR UPDATE")
WAITERS = text("""
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
""")


@pytest.fixture
async def entry(database: Database, revision: Revision) -> Entry:
    return await enter(database, revision)


@pytest.fixture
async def signals(database: Database) -> AsyncGenerator[Listener]:
    async with database.listen(SIGNAL_CHANNEL) as listener:
        assert (await anext(listener)).missed
        yield listener


async def ask(database: Database, entry: Entry, **changes: Any) -> ApprovalRequest:
    values: dict[str, Any] = {
        "run_id": entry.run.id,
        "token": entry.run.token,
        "node_id": "apply",
        "item": "",
        "epoch": entry.run.epoch,
        "digest": "d1",
        "title": "Patch the host",
        "card": {"changes": ["a\x00b"]},
        "required": 1,
        "expires_in_s": None,
        **changes,
    }
    return await open_request(database, **values)


async def say(
    database: Database, request: ApprovalRequest, person: str = "ann", decision: str = "approve"
) -> ApprovalRequest:
    return await decide(database, request.id, person=person, decision=decision, comment="ok", via="cli")


async def use(database: Database, entry: Entry, request: ApprovalRequest, **changes: Any) -> bool:
    values: dict[str, Any] = {
        "digest": "d1",
        "epoch": entry.run.epoch,
        "token": entry.run.token,
        **changes,
    }
    return await use_grant(database, request.id, **values)


async def again(database: Database, revision: Revision, entry: Entry) -> Entry:
    """Have the run fail, be opened again and entered."""
    await finish_run(database, entry.run.id, RunState.FAILED)
    await reopen_run(database, entry.run.id)
    return await enter(database, revision, entry.run.id)


async def all_wait(database: Database, number: int) -> None:
    """Wait until so many statements wait for a lock."""
    for _ in range(1000):
        if (await database.fetch(WAITERS))[0]["count"] >= number:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{number} statements should wait for a lock")


async def latest(database: Database, entry: Entry) -> ApprovalRequest | None:
    return await latest_request(database, entry.run.id, "apply", "", entry.run.epoch)


async def test_request_holds_what_was_asked(database: Database, entry: Entry) -> None:
    assert await latest(database, entry) is None
    request = await ask(database, entry, required=2, expires_in_s=60)

    assert request == await get_approval(database, request.id) == await latest(database, entry)
    assert (request.state, request.round, request.required, request.decisions) == (S.OPEN, 1, 2, ())
    assert request.card == {"changes": ["a\x00b"]}
    assert request.expires_at is not None
    assert (request.expires_at - request.opened_at).total_seconds() == 60
    assert await types_of(database, entry.run.id) == ["run.started", "approval.requested"]


async def test_open_request_again_finds_the_same(database: Database, entry: Entry) -> None:
    found = await asyncio.gather(*(ask(database, entry) for _ in range(6)))

    assert len({request.id for request in found}) == 1
    assert (await types_of(database, entry.run.id)).count("approval.requested") == 1


async def test_open_request_finds_an_approved_one_that_is_unused(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await say(database, request)

    assert (await ask(database, entry)).state is S.APPROVED


@pytest.mark.parametrize("approved", [False, True])
async def test_other_digest_makes_the_request_void(
    database: Database, entry: Entry, *, approved: bool
) -> None:
    first = await ask(database, entry)
    if approved:
        await say(database, first)

    second = await ask(database, entry, digest="d2")

    gone = await get_approval(database, first.id)
    assert (gone.state, gone.reason) == (S.VOID, "what would run has changed")
    assert (second.round, second.state) == (2, S.OPEN)
    assert not await use(database, entry, first)
    assert "approval.void" in await types_of(database, entry.run.id)


async def test_items_are_asked_about_apart(database: Database, entry: Entry) -> None:
    requests = [await ask(database, entry, item=item) for item in ("a", "b", "")]

    assert [request.round for request in requests] == [1, 1, 1]
    assert {request.state for request in requests} == {S.OPEN}


async def test_approval_whose_time_ran_out_unused_is_asked_for_anew(database: Database, entry: Entry) -> None:
    first = await ask(database, entry, expires_in_s=60)
    await say(database, first)
    await age(database, "approval_request", first.id, 61, "expires_at")

    assert not await use(database, entry, first)
    second = await ask(database, entry)
    assert (second.state, second.round) == (S.OPEN, 2)
    assert (await get_approval(database, first.id)).state is S.EXPIRED


async def test_request_of_an_earlier_epoch_does_not_count(
    database: Database, revision: Revision, entry: Entry
) -> None:
    first = await ask(database, entry)
    await say(database, first)
    later = await again(database, revision, entry)

    assert await latest(database, later) is None
    assert not await use(database, later, first)
    assert not await use(database, later, first, epoch=entry.run.epoch)
    second = await ask(database, later)
    assert (second.round, second.epoch) == (2, 2)
    assert (await get_approval(database, first.id)).state is S.VOID


async def test_grant_is_for_retries_of_one_epoch(
    database: Database, revision: Revision, entry: Entry
) -> None:
    request = await ask(database, entry, expires_in_s=60)
    assert not await use(database, entry, request)
    await say(database, request)
    assert not await use(database, entry, request, digest="d2")

    assert await use(database, entry, request)
    first = (await get_approval(database, request.id)).used_at
    await age(database, "approval_request", request.id, 61, "expires_at")
    assert await use(database, entry, request)

    assert (await get_approval(database, request.id)).used_at == first
    assert (await types_of(database, entry.run.id)).count("approval.used") == 1
    assert not await use(database, await again(database, revision, entry), request)


async def test_grant_is_for_the_worker_that_holds_the_run(
    database: Database, revision: Revision, entry: Entry
) -> None:
    request = await ask(database, entry)
    await say(database, request)
    await enter(database, revision, entry.run.id)

    with pytest.raises(LeaseLost):
        await use(database, entry, request)
    assert (await get_approval(database, request.id)).used_at is None


async def test_decision_is_kept_with_who_and_how(database: Database, entry: Entry) -> None:
    request = await say(database, await ask(database, entry))

    (decision,) = request.decisions
    assert (request.state, decision.person, decision.decision) == (S.APPROVED, "ann", Verdict.APPROVE)
    assert (decision.comment, decision.via, decision.at) == ("ok", "cli", request.decided_at)


async def test_quorum_needs_distinct_people(database: Database, entry: Entry) -> None:
    request = await ask(database, entry, required=2)
    for _ in range(2):
        assert (await say(database, request)).state is S.OPEN

    assert (await say(database, request, "bob")).state is S.APPROVED
    assert (await types_of(database, entry.run.id))[2:] == ["approval.voted", "approval.decided"]


async def test_one_rejection_rejects(database: Database, entry: Entry) -> None:
    request = await ask(database, entry, required=3)
    await say(database, request)

    assert (await say(database, request, "bob", "reject")).state is S.REJECTED
    assert not await use(database, entry, request)


async def test_decision_comes_too_late(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await say(database, request, "ann")

    with pytest.raises(ApprovalClosed, match="approved by ann"):
        await say(database, request, "bob", "reject")
    assert (await say(database, request, "ann")).state is S.APPROVED


async def test_person_does_not_decide_twice(database: Database, entry: Entry) -> None:
    request = await ask(database, entry, required=2)
    await say(database, request)

    with pytest.raises(AlreadyDecided, match="ann"):
        await say(database, request, "ann", "reject")
    assert (await get_approval(database, request.id)).state is S.OPEN


async def test_decision_after_the_time_ran_out_closes_the_request(database: Database, entry: Entry) -> None:
    request = await ask(database, entry, expires_in_s=60)
    await age(database, "approval_request", request.id, 61, "expires_at")

    with pytest.raises(ApprovalClosed, match="expired"):
        await say(database, request)
    assert (await get_approval(database, request.id)).decided_at is not None
    assert (await types_of(database, entry.run.id))[-1] == "approval.expired"


async def test_decision_is_one_of_two(database: Database, entry: Entry) -> None:
    with pytest.raises(InputInvalid, match="maybe"):
        await say(database, await ask(database, entry), decision="maybe")


async def test_decisions_by_many_at_once_close_it_once(database: Database, entry: Entry) -> None:
    request = await ask(database, entry, required=3)

    answers = await asyncio.gather(
        *(say(database, request, f"p{index}") for index in range(10)), return_exceptions=True
    )

    refused = [answer for answer in answers if isinstance(answer, PenstockError)]
    found = await get_approval(database, request.id)
    assert (found.state, len(found.decisions)) == (S.APPROVED, 3)
    assert len(refused) == 7
    assert all(isinstance(error, ApprovalClosed) for error in refused)
    assert (await types_of(database, entry.run.id)).count("approval.decided") == 1


async def test_approval_and_rejection_at_once_have_one_winner(database: Database, entry: Entry) -> None:
    for item in map(str, range(10)):
        request = await ask(database, entry, item=item)
        answers = await asyncio.gather(
            say(database, request, "ann", "approve"),
            say(database, request, "bob", "reject"),
            return_exceptions=True,
        )

        (won,) = [answer for answer in answers if isinstance(answer, ApprovalRequest)]
        assert await get_approval(database, request.id) == won
        assert len(won.decisions) == 1


async def test_decision_and_the_end_of_the_run_at_once_agree(database: Database, revision: Revision) -> None:
    for _ in range(10):
        entry = await enter(database, revision)
        request = await ask(database, entry)
        answer, _ended = await asyncio.gather(
            say(database, request),
            finish_run(database, entry.run.id, RunState.CANCELLED),
            return_exceptions=True,
        )

        state = (await get_approval(database, request.id)).state
        assert state is (S.APPROVED if isinstance(answer, ApprovalRequest) else S.WITHDRAWN)


async def test_end_of_the_run_withdraws_what_is_open(database: Database, entry: Entry) -> None:
    decided, still_open = await ask(database, entry, item="a"), await ask(database, entry, item="b")
    await say(database, decided)
    await finish_run(database, entry.run.id, RunState.CANCELLED)

    assert (await get_approval(database, decided.id)).state is S.APPROVED
    assert (await get_approval(database, still_open.id)).state is S.WITHDRAWN
    assert (await types_of(database, entry.run.id))[-2:] == ["approval.withdrawn", "run.cancelled"]


async def test_expire_requests_closes_those_whose_time_ran_out(
    database: Database, entry: Entry, signals: Listener
) -> None:
    due = [await ask(database, entry, item=item, expires_in_s=60) for item in "ab"]
    left = await ask(database, entry, item="c", expires_in_s=60)
    for request in due:
        await age(database, "approval_request", request.id, 61, "expires_at")

    found = await asyncio.gather(*(expire_requests(database) for _ in range(4)))

    assert [run_id for runs in found for run_id in runs] == [entry.run.id]
    assert (await types_of(database, entry.run.id)).count("approval.expired") == 2
    assert (await get_approval(database, left.id)).state is S.OPEN
    assert (await anext(signals)).payload == str(entry.run.id)


async def test_withdraw_requests_says_why(database: Database, entry: Entry, signals: Listener) -> None:
    request = await ask(database, entry)

    assert await withdraw_requests(database, entry.run.id, "the alert is over") == 1
    assert await withdraw_requests(database, entry.run.id, "the alert is over") == 0

    found = await get_approval(database, request.id)
    assert (found.state, found.reason) == (S.WITHDRAWN, "the alert is over")
    assert (await anext(signals)).payload == str(entry.run.id)


async def test_only_a_closing_vote_signals(database: Database, entry: Entry, signals: Listener) -> None:
    request = await ask(database, entry, required=2)
    await say(database, request, "ann")
    await database.notify(SIGNAL_CHANNEL, "between")
    await say(database, request, "bob")

    assert [(await anext(signals)).payload for _ in range(2)] == ["between", str(entry.run.id)]


async def test_list_requests_pages_from_the_newest(database: Database, entry: Entry) -> None:
    asked = [(await ask(database, entry, item=str(index))).id for index in range(5)]

    first = await list_requests(database, limit=2)
    second = await list_requests(database, limit=2, cursor=first.cursor)
    third = await list_requests(database, limit=2, cursor=second.cursor)

    assert [found.id for page in (first, second, third) for found in page.requests] == asked[::-1]
    assert third.cursor is None
    with pytest.raises(InputInvalid, match="cursor"):
        await list_requests(database, cursor="x")


async def test_list_requests_filters_by_state_and_run(database: Database, revision: Revision) -> None:
    mine, other = await enter(database, revision), await enter(database, revision)
    decided, due, waiting = [await ask(database, mine, item=item, expires_in_s=60) for item in "abc"]
    foreign = await ask(database, other)
    await say(database, decided)
    await age(database, "approval_request", due.id, 61, "expires_at")

    async def ids(*states: str, **filters: Any) -> set[Any]:
        page = await list_requests(database, states=states, **filters)
        return {found.id for found in page.requests}

    assert await ids("open") == {waiting.id, foreign.id}
    assert await ids("expired") == {due.id}
    assert await ids("approved", "open", run_id=mine.run.id) == {decided.id, waiting.id}
    assert await ids() == {decided.id, due.id, waiting.id, foreign.id}


async def test_code_is_taken_once(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await set_code(database, request.id, person="ann", code_hash="h0")
    await set_code(database, request.id, person="bob", code_hash="h1")

    assert await take_code(database, entry.run.id, "h0") is None
    assert await take_code(database, uuid4(), "h1") is None
    assert await take_code(database, entry.run.id, "h1") == (request, "bob")
    assert await take_code(database, entry.run.id, "h1") is None


async def test_code_is_taken_by_one_of_many_at_once(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await set_code(database, request.id, person="ann", code_hash="h")
    async with database.transaction() as connection:
        await connection.execute(LOCK, {"id": request.id})
        takers = asyncio.gather(*(take_code(database, entry.run.id, "h") for _ in range(4)))
        await all_wait(database, 4)

    assert [taken for taken in await takers if taken is not None] == [(request, "ann")]


async def test_code_is_for_open_requests(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await set_code(database, request.id, person="ann", code_hash="h")
    await say(database, request)

    assert await take_code(database, entry.run.id, "h") is None
    with pytest.raises(ApprovalClosed):
        await set_code(database, request.id, person="ann", code_hash="h")


async def test_unknown_request_is_not_found(database: Database) -> None:
    for call in (
        get_approval(database, uuid4()),
        use_grant(database, uuid4(), digest="d", epoch=1, token=1),
        decide(database, uuid4(), person="ann", decision="approve", via="cli"),
        set_code(database, uuid4(), person="ann", code_hash="h"),
    ):
        with pytest.raises(NotFound):
            await call
