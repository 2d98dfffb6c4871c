"""One-time codes and links: each good once, for one person, while the request is open."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from sqlalchemy import text

from penstock.errors import ApprovalClosed, NotFound
from penstock.store.approvals import ApprovalRequest, get_approval
from penstock.store.database import Database
from penstock.store.passes import Taken, make_code, make_link, take_code, take_link
from penstock.store.runs import Entry
from store.asking import all_wait, ask, facts_of, noted, say
from store.entering import age

LOCK = text("SELECT hash FROM penstock.approval_pass FOR UPDATE")
PASSES = text("SELECT kind, person, used_at IS NOT NULL AS used FROM penstock.approval_pass ORDER BY hash")


async def code(
    database: Database, request: ApprovalRequest, code_hash: str, person: str = "ann", *claims: str
) -> None:
    await make_code(database, request.id, person=person, claims=claims, code_hash=code_hash)


async def taken_by(database: Database, entry: Entry, code_hash: str) -> str | None:
    taken = await take_code(database, entry.run.id, code_hash)
    return taken.person if taken else None


async def test_code_is_taken_once_with_whom_it_stands_for(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await code(database, request, "h", "ann", "okta", "sre")

    assert await take_code(database, uuid4(), "h") is None
    taken = await take_code(database, entry.run.id, "h")
    assert isinstance(taken, Taken)
    assert (taken.request.id, taken.person, taken.claims) == (request.id, "ann", {"okta", "sre"})
    assert await take_code(database, entry.run.id, "h") is None
    assert await noted(database, request) == ["request.opened", "code.made"]
    assert await facts_of(database, "code.made") == [{"person": "ann"}]


async def test_newer_code_voids_the_earlier_one_of_the_same_person(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await code(database, request, "h1")
    await code(database, request, "h2", "bob")
    await code(database, request, "h3")

    assert await taken_by(database, entry, "h1") is None
    assert await taken_by(database, entry, "h2") == "bob"
    assert await taken_by(database, entry, "h3") == "ann"


async def test_code_is_taken_by_one_of_many_at_once(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await code(database, request, "h")
    async with database.transaction() as connection:
        await connection.execute(LOCK)
        takers = asyncio.gather(*(taken_by(database, entry, "h") for _ in range(6)))
        await all_wait(database, 6)

    assert [taken for taken in await takers if taken] == ["ann"]


@pytest.mark.parametrize("end", ["approve", "expires"])
async def test_code_is_for_open_requests(database: Database, entry: Entry, end: str) -> None:
    request = await ask(database, entry, expires_in_s=60)
    await code(database, request, "h")
    if end == "approve":
        await say(database, request)
    else:
        await age(database, "approval_request", request.id, 61, "expires_at")

    assert await take_code(database, entry.run.id, "h") is None
    with pytest.raises(ApprovalClosed):
        await code(database, request, "h2")
    assert (await noted(database)).count("code.made") == 1


async def test_code_for_nothing_is_not_made(database: Database) -> None:
    with pytest.raises(NotFound):
        await make_code(database, uuid4(), person="ann", claims=(), code_hash="h")


async def test_link_leads_there_once(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    for _ in range(2):  # as when the news of the first time was lost
        await make_link(database, request.id, link_hash="l")

    assert await take_link(database, "x", person="ann") is None
    assert await take_link(database, "l", person="ann") == request.id
    assert await take_link(database, "l", person="bob") is None

    assert await noted(database, request) == ["request.opened", "link.used", "link.refused"]
    assert await facts_of(database, "link.used") == [{"person": "ann"}]
    assert await facts_of(database, "link.refused") == [{"person": "bob", "because": "used before"}]
    assert [dict(row) for row in await database.fetch(PASSES)] == [
        {"kind": "link", "person": "ann", "used": True}
    ]


async def test_link_still_leads_to_a_request_that_is_closed(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await make_link(database, request.id, link_hash="l")
    await say(database, request)

    assert await take_link(database, "l", person="ann") == request.id


async def test_link_is_followed_by_one_of_many_at_once(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await make_link(database, request.id, link_hash="l")
    async with database.transaction() as connection:
        await connection.execute(LOCK)
        takers = asyncio.gather(*(take_link(database, "l", person=f"p{n}") for n in range(6)))
        await all_wait(database, 6)

    assert [found for found in await takers if found] == [request.id]
    kinds = await noted(database, request)
    assert (kinds.count("link.used"), kinds.count("link.refused")) == (1, 5)


async def test_code_is_no_link_and_link_is_no_code(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await code(database, request, "c")
    await make_link(database, request.id, link_hash="l")

    assert await take_link(database, "c", person="ann") is None
    assert await take_code(database, entry.run.id, "l") is None
    assert (await get_approval(database, request.id)).decisions == ()
    assert await taken_by(database, entry, "c") == "ann"
