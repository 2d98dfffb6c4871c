"""Requests for approval when many come at once, and when the database is lost in the middle."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from penstock.engine.auditing import verify
from penstock.errors import ApprovalClosed, DatabaseUnavailable, PenstockError
from penstock.store import migrate
from penstock.store.approval_ends import expire_requests, withdraw_requests
from penstock.store.approvals import ApprovalRequest, get_approval
from penstock.store.database import Database
from penstock.store.embedded import SUPERUSER, Server, start
from penstock.store.fencing import lock_run
from penstock.store.passes import make_code, take_code
from penstock.store.runs import Entry, finish_run
from penstock.store.states import ApprovalState, RunState
from penstock.store.workflows import Revision, save_revision
from store.asking import DEADLOCKS, TWO, Judge, all_wait, ask, noted, say, use
from store.entering import age, enter, types_of
from support.postgres import FAST

S = ApprovalState

KICK = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")

COUNTED = text("""
    SELECT (SELECT count(*) FROM penstock.approval_decision) AS decision,
           count(*) AS opened,
           count(*) FILTER (WHERE state = 'expired') AS expired,
           count(*) FILTER (WHERE state = 'withdrawn') AS withdrawn,
           count(*) FILTER (WHERE state = 'void') AS void,
           count(*) FILTER (WHERE used_at IS NOT NULL) AS used
    FROM penstock.approval_request
""")


async def seen(database: Database, request: ApprovalRequest) -> ApprovalRequest:
    return await get_approval(database, request.id)


async def assert_whole(database: Database) -> None:
    """Check that the chain is unbroken and that nobody had to be undone for another."""
    assert (await verify(database)).ok
    assert (await database.fetch(DEADLOCKS))[0]["deadlocks"] == 0


async def test_open_request_by_many_at_once_finds_the_same(database: Database, entry: Entry) -> None:
    found = await asyncio.gather(*(ask(database, entry) for _ in range(8)))

    assert len({request.id for request in found}) == 1
    assert (await types_of(database, entry.run.id)).count("approval.requested") == 1
    assert await noted(database) == ["request.opened"]


async def test_twenty_people_at_once_close_it_once(database: Database, entry: Entry) -> None:
    request, judge = await ask(database, entry), Judge(5)
    async with database.transaction() as connection:
        await lock_run(connection, entry.run.id, None)
        people = [asyncio.create_task(say(database, request, f"p{n}", judge=judge)) for n in range(20)]
        await all_wait(database, 9)
    answers = await asyncio.gather(*people, return_exceptions=True)

    found = await seen(database, request)
    refused = [answer for answer in answers if isinstance(answer, PenstockError)]
    assert (found.state, len(found.decisions), len(refused)) == (S.APPROVED, 5, 15)
    assert all(isinstance(error, ApprovalClosed) for error in refused)
    states = Counter(answer.state for answer in answers if isinstance(answer, ApprovalRequest))
    assert states == {S.OPEN: 4, S.APPROVED: 1}
    assert (await types_of(database, entry.run.id)).count("approval.decided") == 1
    kinds = Counter(await noted(database, request))
    assert kinds == {"request.opened": 1, "decision": 5, "decision.refused": 15}
    await assert_whole(database)


async def test_same_decision_many_times_at_once_counts_once(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    answers = await asyncio.gather(*(say(database, request, judge=TWO) for _ in range(12)))

    assert [len(answer.decisions) for answer in answers] == [1] * 12
    assert {answer.state for answer in answers} == {S.OPEN}
    assert await noted(database, request) == ["request.opened", "decision"]


async def test_approval_and_rejection_at_once_have_one_winner(database: Database, entry: Entry) -> None:
    for item in map(str, range(10)):
        request = await ask(database, entry, item=item)
        answers = await asyncio.gather(
            say(database, request, "ann", "approve"),
            say(database, request, "bob", "reject"),
            say(database, request, "cy", "send_back"),
            return_exceptions=True,
        )

        (won,) = [answer for answer in answers if isinstance(answer, ApprovalRequest)]
        assert (await seen(database, request)).state is won.state
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

        state = (await seen(database, request)).state
        assert state is (S.APPROVED if isinstance(answer, ApprovalRequest) else S.WITHDRAWN)


async def test_grant_is_used_by_many_tries_at_once(database: Database, entry: Entry) -> None:
    request = await say(database, await ask(database, entry))
    async with database.transaction() as connection:
        await lock_run(connection, entry.run.id, None)
        tries = [asyncio.create_task(use(database, entry, request)) for _ in range(6)]
        await all_wait(database, 6)

    assert await asyncio.gather(*tries) == [True] * 6
    assert await noted(database, request) == ["request.opened", "decision", "grant.used"]
    assert (await types_of(database, entry.run.id)).count("approval.used") == 1


async def test_use_that_waits_for_a_decision_sees_it(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    async with database.transaction() as connection:
        await lock_run(connection, entry.run.id, None)
        deciding = asyncio.create_task(say(database, request))
        await all_wait(database, 1)
        using = asyncio.create_task(use(database, entry, request))
        await all_wait(database, 2)

    assert (await deciding).state is S.APPROVED
    assert await using


async def test_everything_at_once_on_many_runs_leaves_a_whole_chain(
    database: Database, revision: Revision
) -> None:
    rng = random.Random(7)  # noqa: S311  the same every time
    entries = [await enter(database, revision) for _ in range(8)]
    requests = [await ask(database, one, item=item, expires_in_s=60) for one in entries for item in "ab"]
    for request in requests[::4]:
        await age(database, "approval_request", request.id, 61, "expires_at")

    def one(n: int) -> Awaitable[Any]:
        entry, request = entries[n % 8], requests[n % 16]
        acts: list[Callable[[], Awaitable[Any]]] = [
            lambda: say(database, request, f"p{n % 5}", judge=TWO),
            lambda: say(database, request, f"p{n % 3}", rng.choice(["reject", "send_back"])),
            lambda: use(database, entry, request),
            lambda: expire_requests(database),
            lambda: withdraw_requests(database, entry.run.id, "over"),
            lambda: ask(database, entry, item=rng.choice("ab"), digest=rng.choice(["d1", "d2"])),
            lambda: make_code(database, request.id, person="ann", claims=(), code_hash=f"h{n}"),
            lambda: take_code(database, entry.run.id, f"h{n - 8}"),
        ]
        return rng.choice(acts)()

    answers = await asyncio.gather(*(one(n) for n in range(240)), return_exceptions=True)

    wrong = [
        str(answer)
        for answer in answers
        if isinstance(answer, BaseException) and (not isinstance(answer, PenstockError) or answer.retryable)
    ]
    assert wrong == []
    await assert_whole(database)
    kinds = Counter(await noted(database))
    assert dict((await database.fetch(COUNTED))[0]) == {
        "decision": kinds["decision"],
        "opened": kinds["request.opened"],
        "expired": kinds["request.expired"],
        "withdrawn": kinds["request.withdrawn"],
        "void": kinds["request.void"],
        "used": kinds["grant.used"],
    }


class Place:
    """A server of a test's own, which can be lost and come back."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.server = start(home, tied=True, settings=FAST)

    def kill(self) -> None:
        """End every process of the server at once, as a loss of power would."""
        os.killpg(self.server.pid, signal.SIGKILL)
        with suppress(psutil.NoSuchProcess):
            psutil.Process(self.server.pid).wait(15)

    async def come_back(self) -> None:
        await asyncio.to_thread(self.server.stop)
        self.server = await asyncio.to_thread(start, self.home, tied=True, settings=FAST)


@dataclass(frozen=True)
class Deadly(Judge):
    """Has the server killed in the middle of the first decision, when it is written but not committed."""

    place: Place | None = None
    dead: asyncio.Event = field(default_factory=asyncio.Event)

    def met(self, request: ApprovalRequest) -> bool:
        if self.place is not None and not self.dead.is_set():
            self.dead.set()
            self.place.kill()
        return super().met(request)


@pytest.fixture
async def place(home: Path) -> AsyncGenerator[Place]:
    place = await asyncio.to_thread(Place, home)
    await migrate.upgrade(place.server.dsn())
    yield place
    await asyncio.to_thread(place.server.stop)


@asynccontextmanager
async def request_at(place: Place, **options: Any) -> AsyncGenerator[tuple[Database, ApprovalRequest]]:
    """Give a database of the server with one request in it."""
    async with Database(place.server.dsn(), **options) as database:
        saved = await save_revision(
            database, workflow="fix", digest="d1", source="", spec={}, agents={}, created_by="ann"
        )
        yield database, await ask(database, await enter(database, saved))


async def test_decision_in_the_middle_of_which_the_server_dies_is_not_there(place: Place) -> None:
    async with request_at(place, retry_s=0) as (database, request):
        with pytest.raises(DatabaseUnavailable):
            await say(database, request, judge=Deadly(place=place))
        await place.come_back()

        found = await seen(database, request)
        assert (found.state, found.decisions) == (S.OPEN, ())
        assert await noted(database, request) == ["request.opened"]
        assert (await say(database, request)).state is S.APPROVED
        assert (await say(database, request)).state is S.APPROVED
        assert await noted(database, request) == ["request.opened", "decision"]
        assert (await verify(database)).ok


async def test_decision_rides_out_the_death_of_the_server(place: Place) -> None:
    async with request_at(place, retry_s=60) as (database, request):
        judge = Deadly(place=place)
        deciding = asyncio.create_task(say(database, request, judge=judge))
        await judge.dead.wait()
        await place.come_back()

        decided = await deciding
        assert (decided.state, len(decided.decisions)) == (S.APPROVED, 1)
        assert await noted(database, request) == ["request.opened", "decision"]


async def test_decision_whose_connection_is_lost_at_any_moment_is_whole(
    database: Database, entry: Entry, postgres_server: Server
) -> None:
    """Whether it was committed or not: there is a row exactly when there is a line in the chain."""
    rng = random.Random(11)  # noqa: S311  the same every time
    name = {"name": database.url.parsed.database}
    async with (
        Database(postgres_server.dsn("postgres", SUPERUSER)) as admin,
        Database(database.url, retry_s=0) as fragile,
    ):
        for item in map(str, range(25)):
            request = await ask(database, entry, item=item)
            deciding = asyncio.create_task(say(fragile, request))
            await asyncio.sleep(rng.uniform(0, 0.02))
            await admin.fetch(KICK, name)
            with suppress(DatabaseUnavailable):
                await deciding

            found = await seen(database, request)
            kinds = Counter(await noted(database, request))
            assert (len(found.decisions), found.state is S.APPROVED) == (
                kinds["decision"],
                bool(kinds["decision"]),
            )
            assert (await say(database, request)).state is S.APPROVED
            assert Counter(await noted(database, request))["decision"] == 1
    assert (await verify(database)).ok
