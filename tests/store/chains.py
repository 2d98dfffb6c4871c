"""A chain for tests, and what somebody with all rights could do to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from sqlalchemy import text

from penstock.approvals.chain import Head
from penstock.store.audit import head, record
from penstock.store.database import Database
from penstock.store.embedded import SUPERUSER, USER

RUN, REQUEST = uuid4(), uuid4()
AWKWARD = {
    "comment": "\0 \x1a \ud800 \u202e ü \U0001f600",
    "n": [1.5, 0.0, 1e3, 10**40],
    "": {"b": 1, "aa": 2},
}
"""Facts with all that PostgreSQL writes otherwise than Python."""

CUT_HEAD = """
    UPDATE penstock.audit_head SET (seq, hash) =
        (SELECT seq, hash FROM penstock.audit_entry ORDER BY seq DESC LIMIT 1)
"""
"""Makes the head fit a chain whose end was cut off."""


async def fill(database: Database, count: int = 6, person: str = "ann") -> list[Head]:
    """Append entries and give the head after each."""
    heads: list[Head] = []
    for number in range(count):
        await record(
            database, kind="decision", run_id=RUN, request_id=REQUEST, person=person, facts={"n": number}
        )
        found = await head(database)
        heads.append(Head(found.seq, found.hash))
    return heads


async def tamper(database: Database, *statements: str, values: Mapping[str, Any] | None = None) -> None:
    """Change the tables as a superuser would who has switched the triggers off."""
    url = database.url.dsn.replace(f"//{USER}@", f"//{SUPERUSER}@")
    async with Database(url, retry_s=5) as superuser, superuser.transaction() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            await connection.execute(text(statement), dict(values or {}))
