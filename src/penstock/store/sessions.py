"""Sessions of people who have signed in, and the links with which they do.

The tables hold SHA-256 hashes of what a person carries, never the thing itself. Every
operation may be repeated. What has expired is deleted by the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.store import audit
from penstock.store.database import Database
from penstock.store.documents import plain_text

__all__ = [
    "Session",
    "close_session",
    "find_session",
    "link_person",
    "make_link",
    "open_session",
    "open_session_by_link",
    "refuse_session",
]


@dataclass(frozen=True)
class Session:
    """Somebody who has signed in."""

    hash: str
    """SHA-256 of the token, in hex."""
    person: str
    groups: tuple[str, ...]
    """The groups that an identity provider claims; empty for other ways to sign in."""
    via: str
    """`link`, `password` or `oidc`."""
    expires_at: datetime


async def open_session(
    database: Database,
    token_hash: str,
    *,
    person: str,
    groups: Sequence[str] = (),
    via: str,
    lifetime_s: float,
) -> Session:
    """Record that somebody has signed in.

    Args:
        token_hash: SHA-256 of the new session's token, in hex.
        via: `link`, `password` or `oidc`.
        lifetime_s: Seconds until the session ends.
    """

    async def work(connection: AsyncConnection) -> Session:
        return await _open(
            connection, token_hash, person=person, groups=groups, via=via, lifetime_s=lifetime_s
        )

    return await database.transact(work)


async def open_session_by_link(
    database: Database, link_hash: str, token_hash: str, *, lifetime_s: float
) -> Session | None:
    """Use a link up and record that its person has signed in; None when the link is used or has expired."""

    async def work(connection: AsyncConnection) -> Session | None:
        person = (await connection.execute(_TAKE_LINK, {"hash": link_hash})).scalar_one_or_none()
        if person is not None:
            return await _open(connection, token_hash, person=person, via="link", lifetime_s=lifetime_s)
        # The same call may have been here before: its answer was lost.
        return await _find(connection, token_hash)

    return await database.transact(work)


async def find_session(database: Database, token_hash: str) -> Session | None:
    """Find a session that has not ended; None when there is none."""
    rows = await database.fetch(_FIND, {"hash": token_hash})
    return _session(rows[0]) if rows else None


async def close_session(database: Database, token_hash: str) -> None:
    """End a session."""
    await database.fetch(_CLOSE, {"hash": token_hash})


async def make_link(database: Database, link_hash: str, *, person: str, lifetime_s: float) -> datetime:
    """Record a link with which a person can sign in once; gives the time until when.

    Args:
        link_hash: SHA-256 of the link's token, in hex.
    """
    values = {"hash": link_hash, "person": person, "lifetime_s": lifetime_s}
    await database.fetch(_CLEAR_LINKS)
    (row,) = await database.fetch(_MAKE_LINK, values)
    return row["expires_at"]


async def link_person(database: Database, link_hash: str) -> str | None:
    """Say whom a link signs in, without using it up; None when it is used or has expired."""
    rows = await database.fetch(_LOOK_AT_LINK, {"hash": link_hash})
    return rows[0]["person"] if rows else None


async def refuse_session(database: Database, person: str | None, facts: Mapping[str, Any]) -> None:
    """Record that somebody was not let in.

    Args:
        person: Who it was, if it is somebody who is known: other names may be mistyped passwords.
        facts: What else is known of it, JSON types only.
    """
    await audit.record(database, kind="session.refused", person=person, facts=facts)


async def _open(
    connection: AsyncConnection,
    token_hash: str,
    *,
    person: str,
    groups: Sequence[str] = (),
    via: str,
    lifetime_s: float,
) -> Session:
    claims = [cast("str", plain_text(group)) for group in groups]
    values = {"hash": token_hash, "person": person, "groups": claims, "via": via, "lifetime_s": lifetime_s}
    await connection.execute(_CLEAR_SESSIONS)
    row = (await connection.execute(_OPEN, values)).mappings().one_or_none()
    if row is not None:
        facts = {"via": via, "groups": claims}
        await audit.append(connection, kind="session.opened", person=person, facts=facts)
    return _session(row) if row is not None else cast("Session", await _find(connection, token_hash))


async def _find(connection: AsyncConnection, token_hash: str) -> Session | None:
    row = (await connection.execute(_FIND, {"hash": token_hash})).mappings().one_or_none()
    return None if row is None else _session(row)


def _session(row: RowMapping) -> Session:
    return Session(row["hash"], row["person"], tuple(row["groups"]), row["via"], row["expires_at"])


_OPEN = text("""
    INSERT INTO penstock.web_session (hash, person, groups, via, expires_at)
    VALUES (:hash, :person, CAST(:groups AS text[]), :via,
            now() + make_interval(secs => CAST(:lifetime_s AS float)))
    ON CONFLICT DO NOTHING
    RETURNING hash, person, groups, via, expires_at
""")
_FIND = text("""
    SELECT hash, person, groups, via, expires_at FROM penstock.web_session
    WHERE hash = :hash AND expires_at > now()
""")
_CLOSE = text("DELETE FROM penstock.web_session WHERE hash = :hash")
# Rows that somebody else is deleting are skipped: two who wait for each other would undo one another.
_CLEAR_SESSIONS = text("""
    DELETE FROM penstock.web_session WHERE hash IN (
        SELECT hash FROM penstock.web_session WHERE expires_at <= now() FOR UPDATE SKIP LOCKED)
""")
_CLEAR_LINKS = text("""
    DELETE FROM penstock.login_link WHERE hash IN (
        SELECT hash FROM penstock.login_link WHERE expires_at <= now() FOR UPDATE SKIP LOCKED)
""")
_MAKE_LINK = text("""
    INSERT INTO penstock.login_link (hash, person, expires_at)
    VALUES (:hash, :person, now() + make_interval(secs => CAST(:lifetime_s AS float)))
    ON CONFLICT (hash) DO UPDATE SET person = excluded.person
    RETURNING expires_at
""")
_LOOK_AT_LINK = text("SELECT person FROM penstock.login_link WHERE hash = :hash AND expires_at > now()")
_TAKE_LINK = text("""
    DELETE FROM penstock.login_link WHERE hash = :hash AND expires_at > now() RETURNING person
""")
