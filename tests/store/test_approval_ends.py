"""What happens to requests by themselves: timers, expiry, withdrawal; also when many workers see to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import uuid4

import pytest

from penstock.errors import ApprovalClosed
from penstock.store.approval_ends import Due, due_requests, expire_requests, fire_timers, withdraw_requests
from penstock.store.approvals import ApprovalRequest, get_approval
from penstock.store.database import Database
from penstock.store.fencing import lock_run
from penstock.store.listening import Listener
from penstock.store.runs import Entry, finish_run
from penstock.store.states import ApprovalState, RunState
from penstock.store.tables import SIGNAL_CHANNEL
from penstock.store.workflows import Revision
from store.asking import TWO, all_wait, ask, facts_of, noted, notices_of, say, use
from store.entering import age, enter, types_of

S = ApprovalState


@dataclass
class Timer:
    """Says the same for every request and keeps what it was asked about."""

    answer: Due
    asked: list[ApprovalRequest] = field(default_factory=list[ApprovalRequest])

    def due(self, request: ApprovalRequest) -> Due:
        self.asked.append(request)
        return self.answer


async def seen(database: Database, request: ApprovalRequest) -> ApprovalRequest:
    return await get_approval(database, request.id)


async def later(database: Database, request: ApprovalRequest, seconds: float) -> None:
    """Let time go by for a request."""
    columns = ("opened_at", "timed_until", "next_at", "expires_at")
    await age(database, "approval_request", request.id, seconds, *columns)


async def test_nothing_is_due_before_its_time(database: Database, entry: Entry) -> None:
    request, timer = await ask(database, entry, next_in_s=60), Timer(Due(reminder=True))

    assert await due_requests(database) == []
    assert await fire_timers(database, request.id, timer) is None
    assert timer.asked == []
    await later(database, request, 61)
    assert await due_requests(database) == [request.id]


@pytest.mark.parametrize("first", ["seconds", "moment"])
async def test_the_earlier_time_counts(database: Database, entry: Entry, first: str) -> None:
    opened = (await ask(database, entry, item="clock")).opened_at
    seconds, moment = (1, 60) if first == "seconds" else (60, 1)
    at = opened + timedelta(seconds=moment)
    request = await ask(database, entry, next_in_s=seconds, next_at=at)

    await later(database, request, 30)

    assert await due_requests(database) == [request.id]


async def test_oldest_dues_come_first(database: Database, entry: Entry) -> None:
    late, early, over, closed, third = [
        await ask(database, entry, item=item, next_in_s=seconds, expires_in_s=1000)
        for item, seconds in (("a", 20), ("b", 10), ("c", 5), ("d", 5), ("e", 30))
    ]
    await say(database, closed)
    for request in (late, early, over, third):
        await later(database, request, 1001 if request is over else 61)

    assert await due_requests(database) == [early.id, late.id, third.id]
    assert await due_requests(database, limit=1) == [early.id]


async def test_timers_remind_and_escalate(database: Database, entry: Entry, signals: Listener) -> None:
    request = await ask(database, entry, next_in_s=60)
    await later(database, request, 61)
    again = request.opened_at + timedelta(hours=1)
    timer = Timer(Due(reminder=True, escalation=True, next_at=again))

    assert await fire_timers(database, request.id, timer) is None
    await database.notify(SIGNAL_CHANNEL, "nothing before")

    found = await seen(database, request)
    assert (found.state, found.escalated_at) == (S.OPEN, timer.asked[0].read_at)
    assert found.timed_until == timer.asked[0].read_at
    assert await notices_of(database, request) == ["asked", "escalated", "reminder"]
    assert (await types_of(database, entry.run.id))[2:] == ["approval.escalated", "approval.reminder"]
    assert await noted(database, request) == ["request.opened", "request.escalated", "request.reminded"]
    assert (await facts_of(database, "request.escalated"))[0]["digest"] == "d1"
    assert (await anext(signals)).payload == "nothing before"
    assert await due_requests(database) == []


async def test_escalation_keeps_its_first_time(database: Database, entry: Entry) -> None:
    request = await ask(database, entry, next_in_s=0)
    await fire_timers(database, request.id, Timer(Due(escalation=True, next_at=request.opened_at)))
    first = (await seen(database, request)).escalated_at

    await fire_timers(database, request.id, Timer(Due(escalation=True)))

    assert (await seen(database, request)).escalated_at == first is not None


async def test_timer_that_has_nothing_to_do_tells_nobody(database: Database, entry: Entry) -> None:
    request = await ask(database, entry, next_in_s=0)

    assert await fire_timers(database, request.id, Timer(Due())) is None
    assert await fire_timers(database, uuid4(), Timer(Due(reminder=True))) is None

    assert await due_requests(database) == []
    assert await noted(database) == ["request.opened"]
    assert await notices_of(database, request) == ["asked"]


async def test_end_of_a_freeze_approves_what_has_enough_approvals(
    database: Database, entry: Entry, signals: Listener
) -> None:
    request = await ask(database, entry, next_in_s=0)
    await say(database, request, judge=TWO)
    again = request.opened_at + timedelta(hours=1)
    timer = Timer(Due(reminder=True, closes=S.APPROVED, valid_s=60, next_at=again))

    assert await fire_timers(database, request.id, timer) == entry.run.id

    found = await seen(database, request)
    assert found.decided_at is not None
    assert found.usable_until is not None
    assert (found.state, (found.usable_until - found.decided_at).total_seconds()) == (S.APPROVED, 60)
    assert (await anext(signals)).payload == str(entry.run.id)
    assert (await types_of(database, entry.run.id))[3:] == ["approval.reminder", "approval.decided"]
    assert await use(database, entry, request)


async def test_end_of_a_freeze_voids_what_nothing_asks_for(database: Database, entry: Entry) -> None:
    request = await ask(database, entry, next_in_s=0)

    assert await fire_timers(database, request.id, Timer(Due(closes=S.VOID))) == entry.run.id

    found = await seen(database, request)
    assert (found.state, found.reason) == (S.VOID, "what asked for it has ended")
    assert (await types_of(database, entry.run.id))[-1] == "approval.void"
    assert await noted(database, request) == ["request.opened", "request.void"]
    assert not await use(database, entry, request)


async def test_timers_fire_once_although_many_workers_try(database: Database, entry: Entry) -> None:
    request = await ask(database, entry, next_in_s=60)
    await later(database, request, 61)
    timer = Timer(Due(reminder=True, escalation=True))
    async with database.transaction() as connection:
        await lock_run(connection, entry.run.id, None)
        tries = [asyncio.create_task(fire_timers(database, request.id, timer)) for _ in range(8)]
        await all_wait(database, 8)
    await asyncio.gather(*tries)

    assert len(timer.asked) == 1
    assert await notices_of(database, request) == ["asked", "escalated", "reminder"]
    assert await noted(database, request) == ["request.opened", "request.escalated", "request.reminded"]


async def test_worker_that_looked_before_does_not_set_the_time_back(database: Database, entry: Entry) -> None:
    """A transaction that began earlier but came later finds nothing due."""
    request = await ask(database, entry, next_in_s=0)
    async with database.transaction() as connection:
        await lock_run(connection, entry.run.id, None)
        early = asyncio.create_task(fire_timers(database, request.id, Timer(Due(reminder=True))))
        await all_wait(database, 1)
        late = asyncio.create_task(fire_timers(database, request.id, Timer(Due(reminder=True))))
        await all_wait(database, 2)
    await asyncio.gather(early, late)

    assert await notices_of(database, request) == ["asked", "reminder"]


async def test_timers_and_a_decision_at_once_agree(database: Database, entry: Entry) -> None:
    for item in map(str, range(10)):
        request = await ask(database, entry, item=item, next_in_s=0)
        run_id, decided = await asyncio.gather(
            fire_timers(database, request.id, Timer(Due(closes=S.VOID))),
            say(database, request),
            return_exceptions=True,
        )

        found = await seen(database, request)
        assert found.state is (S.VOID if run_id else S.APPROVED)
        assert isinstance(decided, ApprovalClosed) is bool(run_id)
        assert bool(found.decisions) is not bool(run_id)


async def test_timers_and_expiry_at_once_agree(database: Database, revision: Revision) -> None:
    for _ in range(10):
        entry = await enter(database, revision)
        request = await ask(database, entry, next_in_s=10, expires_in_s=10)
        await later(database, request, 11)
        fired, expired = await asyncio.gather(
            fire_timers(database, request.id, Timer(Due(reminder=True))), expire_requests(database)
        )
        expired += await expire_requests(database)  # while the run was busy it was left for later

        assert (fired, expired) == (None, [entry.run.id])
        assert (await seen(database, request)).state is S.EXPIRED
        assert await notices_of(database, request) == ["asked"]
        assert await noted(database, request) == ["request.opened", "request.expired"]


async def test_expire_requests_closes_those_whose_time_ran_out(
    database: Database, entry: Entry, signals: Listener
) -> None:
    due = [await ask(database, entry, item=item, expires_in_s=60) for item in "ab"]
    left = await ask(database, entry, item="c", expires_in_s=60)
    for request in due:
        await later(database, request, 61)

    found = await asyncio.gather(*(expire_requests(database) for _ in range(4)))

    assert [run_id for runs in found for run_id in runs] == [entry.run.id]
    assert (await types_of(database, entry.run.id)).count("approval.expired") == 2
    assert (await noted(database)).count("request.expired") == 2
    assert (await seen(database, left)).state is S.OPEN
    assert (await anext(signals)).payload == str(entry.run.id)


async def test_expiry_leaves_busy_runs_for_later(database: Database, revision: Revision) -> None:
    busy, free = [await enter(database, revision) for _ in range(2)]
    for entry in (busy, free):
        await later(database, await ask(database, entry, expires_in_s=60), 61)

    async with database.transaction() as connection:
        await lock_run(connection, busy.run.id, None)
        assert await expire_requests(database) == [free.run.id]

    assert await expire_requests(database) == [busy.run.id]
    assert await expire_requests(database) == []


async def test_clock_that_jumps_ahead_ends_it_and_one_that_jumps_back_does_not_open_it_again(
    database: Database, entry: Entry
) -> None:
    request = await ask(database, entry, expires_in_s=3600, next_in_s=60)
    await later(database, request, 86_400)
    assert await due_requests(database) == []
    assert await expire_requests(database) == [entry.run.id]

    await later(database, request, -86_400)

    assert (await seen(database, request)).state is S.EXPIRED
    with pytest.raises(ApprovalClosed):
        await say(database, request)


async def test_clock_that_jumps_back_keeps_a_request_open_and_silent(
    database: Database, entry: Entry
) -> None:
    request = await ask(database, entry, expires_in_s=60, next_in_s=30)
    await later(database, request, -86_400)

    assert await due_requests(database) == []
    assert await expire_requests(database) == []
    assert (await say(database, request)).state is S.APPROVED


async def test_withdraw_requests_says_why(database: Database, entry: Entry, signals: Listener) -> None:
    request, decided = await ask(database, entry), await ask(database, entry, item="a")
    await say(database, decided)
    assert (await anext(signals)).payload == str(entry.run.id)

    assert await withdraw_requests(database, entry.run.id, "the alert is over\x00") == 1
    assert await withdraw_requests(database, entry.run.id, "the alert is over") == 0
    assert await withdraw_requests(database, uuid4(), "no such run") == 0

    found = await seen(database, request)
    assert (found.state, found.reason) == (S.WITHDRAWN, "the alert is over\ufffd")
    assert (await seen(database, decided)).state is S.APPROVED
    assert await noted(database, request) == ["request.opened", "request.withdrawn"]
    assert (await anext(signals)).payload == str(entry.run.id)


async def test_withdrawal_takes_what_is_asked_while_it_waits(database: Database, entry: Entry) -> None:
    async with database.transaction() as connection:
        await lock_run(connection, entry.run.id, None)
        asking = asyncio.create_task(ask(database, entry))
        await all_wait(database, 1)
        withdrawing = asyncio.create_task(withdraw_requests(database, entry.run.id, "over"))
        await all_wait(database, 2)
    request, count = await asyncio.gather(asking, withdrawing)

    assert (count, (await seen(database, request)).state) == (1, S.WITHDRAWN)


async def test_end_of_a_run_takes_what_is_asked_while_it_waits(database: Database, entry: Entry) -> None:
    async with database.transaction() as connection:
        await lock_run(connection, entry.run.id, None)
        asking = asyncio.create_task(ask(database, entry))
        await all_wait(database, 1)
        ending = asyncio.create_task(finish_run(database, entry.run.id, RunState.CANCELLED))
        await all_wait(database, 2)
    request, ended = await asyncio.gather(asking, ending)

    assert (ended, (await seen(database, request)).state) == (True, S.WITHDRAWN)


async def test_time_of_every_end_is_kept(database: Database, entry: Entry) -> None:
    ends: dict[str, datetime | None] = {}
    for item in ("expired", "withdrawn"):
        request = await ask(database, entry, item=item, expires_in_s=60)
        if item == "expired":
            await later(database, request, 61)
            await expire_requests(database)
        else:
            await withdraw_requests(database, entry.run.id, "over")
        ends[item] = (await seen(database, request)).decided_at

    assert all(ends.values())
