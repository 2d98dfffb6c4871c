from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from penstock.store.database import Database
from penstock.store.sessions import (
    close_session,
    find_session,
    link_person,
    make_link,
    open_session,
    open_session_by_link,
    refuse_session,
)

HOUR_S = 3600.0


async def audited(database: Database) -> list[tuple[str, str | None, object]]:
    rows = await database.fetch(text("SELECT kind, person, entry FROM penstock.audit_entry ORDER BY seq"))
    return [(row["kind"], row["person"], json.loads(row["entry"])["facts"]) for row in rows]


async def count(database: Database, table: str) -> int:
    (row,) = await database.fetch(text(f"SELECT count(*) AS n FROM penstock.{table}"))  # noqa: S608  ours
    return row["n"]


async def test_session_is_found_until_it_is_closed(database: Database) -> None:
    opened = await open_session(
        database, "h1", person="ann", groups=["a", "b\0"], via="oidc", lifetime_s=HOUR_S
    )

    assert await find_session(database, "h1") == opened
    assert (opened.person, opened.groups, opened.via) == ("ann", ("a", "b\ufffd"), "oidc")
    assert abs(opened.expires_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=5)
    await close_session(database, "h1")
    await close_session(database, "h1")
    assert await find_session(database, "h1") is None
    facts = {"via": "oidc", "groups": ["a", "b\ufffd"]}
    assert await audited(database) == [("session.opened", "ann", facts)]


async def test_session_that_is_opened_twice_is_one(database: Database) -> None:
    """The answer to the first call may be lost with the connection."""
    first = await open_session(database, "h1", person="ann", via="password", lifetime_s=HOUR_S)
    second = await open_session(database, "h1", person="ann", via="password", lifetime_s=HOUR_S)

    assert first == second
    assert len(await audited(database)) == 1


async def test_expired_session_is_not_found_and_goes_with_the_next_one(database: Database) -> None:
    await open_session(database, "old", person="ann", via="link", lifetime_s=-1)

    assert await find_session(database, "old") is None
    assert await count(database, "web_session") == 1
    await open_session(database, "new", person="bob", via="link", lifetime_s=HOUR_S)
    assert await count(database, "web_session") == 1


async def test_link_is_looked_at_often_and_used_once(database: Database) -> None:
    until = await make_link(database, "l1", person="ann", lifetime_s=600)

    assert abs(until - datetime.now(UTC) - timedelta(minutes=10)) < timedelta(minutes=5)
    assert [await link_person(database, "l1") for _ in range(2)] == ["ann", "ann"]
    session = await open_session_by_link(database, "l1", "h1", lifetime_s=HOUR_S)
    assert session is not None
    assert (session.person, session.via, session.groups) == ("ann", "link", ())
    assert await open_session_by_link(database, "l1", "h2", lifetime_s=HOUR_S) is None
    assert await link_person(database, "l1") is None
    assert await audited(database) == [("session.opened", "ann", {"via": "link", "groups": []})]


async def test_same_call_with_a_link_may_be_made_again(database: Database) -> None:
    await make_link(database, "l1", person="ann", lifetime_s=600)

    first = await open_session_by_link(database, "l1", "h1", lifetime_s=HOUR_S)

    assert await open_session_by_link(database, "l1", "h1", lifetime_s=HOUR_S) == first
    assert len(await audited(database)) == 1


async def test_link_lets_one_of_many_in(database: Database) -> None:
    await make_link(database, "l1", person="ann", lifetime_s=600)

    opened = await asyncio.gather(
        *(open_session_by_link(database, "l1", f"h{n}", lifetime_s=HOUR_S) for n in range(10))
    )

    assert [session is not None for session in opened].count(True) == 1
    assert await count(database, "web_session") == 1


async def test_expired_link_is_of_no_use_and_goes_with_the_next_one(database: Database) -> None:
    await make_link(database, "old", person="ann", lifetime_s=-1)

    assert await link_person(database, "old") is None
    assert await open_session_by_link(database, "old", "h1", lifetime_s=HOUR_S) is None
    await make_link(database, "new", person="ann", lifetime_s=600)
    assert await count(database, "login_link") == 1


async def test_refusal_is_on_record(database: Database) -> None:
    await refuse_session(database, "ann", {"via": "password"})
    await refuse_session(database, None, {"via": "link", "why": "nul \0 and \ud800"})

    (known, unknown) = await audited(database)
    assert known == ("session.refused", "ann", {"via": "password"})
    assert unknown[:2] == ("session.refused", None)


async def test_many_sign_in_while_old_sessions_are_cleared(database: Database) -> None:
    for number in range(20):
        await open_session(database, f"old{number}", person="ann", via="link", lifetime_s=0.2)
    await asyncio.sleep(0.3)

    await asyncio.gather(
        *(open_session(database, f"new{n}", person="bob", via="link", lifetime_s=HOUR_S) for n in range(20))
    )

    assert await count(database, "web_session") == 20
