"""The audit table: entries in a chain of hashes, written by the database and never changed.

Whoever appends holds the head of the chain until the end of its transaction, so entries get
their numbers in the order of the commits, without gaps. Append last in a transaction.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import RowMapping, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.errors import StoreError
from penstock.store.database import Database
from penstock.store.documents import encode, plain_text

__all__ = [
    "AuditBounds",
    "AuditHead",
    "AuditKind",
    "AuditRow",
    "append",
    "blocks",
    "bounds",
    "entries",
    "facts_text",
    "head",
    "latest",
    "note_policy",
    "record",
]

AuditKind = Literal[
    "request.opened",
    "request.void",
    "request.expired",
    "request.withdrawn",
    "request.reminded",
    "request.escalated",
    "request.thawed",
    "decision",
    "decision.refused",
    "grant.used",
    "gate.bypass",
    "code.made",
    "link.used",
    "link.refused",
    "standing.created",
    "standing.used",
    "standing.revoked",
    "policy.loaded",
    "session.opened",
    "session.refused",
]
"""What is recorded."""

BLOCK = 1000
"""Entries that are read at once."""

_DEEPEST = 200
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True)
class AuditRow:
    """An entry as it stands in the table; every value is a text, whatever somebody has made of it."""

    seq: int
    entry: str
    """The text that the hash covers."""
    previous: str
    hash: str
    at: str
    """UTC, written as in the entry."""
    kind: str
    run_id: str | None
    request_id: str | None
    person: str | None


@dataclass(frozen=True)
class AuditHead:
    """What the next entry will follow."""

    seq: int
    hash: str


@dataclass(frozen=True)
class AuditBounds:
    """The head and the numbers of the first and the last entry, all read at one moment."""

    head: AuditHead | None
    """None when somebody has removed it."""
    first: int | None
    last: int | None


async def append(
    connection: AsyncConnection,
    *,
    kind: AuditKind,
    run_id: UUID | None = None,
    request_id: UUID | None = None,
    person: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> int:
    """Append an entry inside the caller's transaction, as the last thing in it; give its number.

    Raises:
        StoreError: The facts are not JSON, or are nested too deeply.
    """
    values = _values(kind, run_id, request_id, person, facts)
    return int((await connection.execute(_APPEND, values)).scalar_one())


async def record(
    database: Database,
    *,
    kind: AuditKind,
    run_id: UUID | None = None,
    request_id: UUID | None = None,
    person: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> int:
    """Append an entry in a transaction of its own; give its number.

    It is not safe to repeat: after a broken connection an entry may stand twice.

    Raises:
        StoreError: The facts are not JSON, or are nested too deeply.
    """
    rows = await database.fetch(_APPEND, _values(kind, run_id, request_id, person, facts))
    return int(rows[0]["seq"])


def facts_text(facts: Mapping[str, Any] | None) -> str:
    """Write facts as the SQL function takes them, so that whoever checks the chain can read them.

    Raises:
        StoreError: They are not JSON, or are nested too deeply.
    """
    written = encode(dict(facts or {}))
    if _depth(written) > _DEEPEST:
        raise StoreError(f"facts for the audit table are nested more than {_DEEPEST} levels deep")
    return written


async def entries(
    database: Database,
    *,
    after: int = 0,
    limit: int = BLOCK,
    request_id: UUID | None = None,
    run_id: UUID | None = None,
) -> list[AuditRow]:
    """List entries after one of them, oldest first, one block at a time.

    Args:
        request_id: Only entries about this request.
        run_id: Only entries about this run.
        limit: Entries at most.
    """
    wanted = {"after": after, "request_id": request_id, "run_id": run_id}
    rows = await database.fetch(*_select(wanted, "ORDER BY seq", limit))
    return [AuditRow(**row) for row in rows]


async def latest(
    database: Database,
    *,
    limit: int = 100,
    request_id: UUID | None = None,
    run_id: UUID | None = None,
    kind: str | None = None,
    person: str | None = None,
) -> list[AuditRow]:
    """List the newest entries that fit, oldest first.

    Args:
        limit: Entries at most.
    """
    wanted = {"request_id": request_id, "run_id": run_id, "kind": kind, "person": person}
    rows = await database.fetch(*_select(wanted, "ORDER BY seq DESC", limit))
    return [AuditRow(**row) for row in reversed(rows)]


async def blocks(database: Database, *, after: int = 0, until: int) -> AsyncGenerator[Sequence[AuditRow]]:
    """Go through the entries after one of them and up to another, block by block."""
    while after < until:
        rows = await database.fetch(*_select({"after": after, "until": until}, "ORDER BY seq", BLOCK))
        if not rows:
            return
        yield [AuditRow(**row) for row in rows]
        after = rows[-1]["seq"]


async def head(database: Database) -> AuditHead:
    """Get the head of the chain.

    Raises:
        StoreError: Somebody has removed it.
    """
    found = (await bounds(database)).head
    if found is None:
        raise StoreError("the audit chain has no head any more: its row was removed")
    return found


async def bounds(database: Database) -> AuditBounds:
    """Get the head and the first and last numbers, as they are at one moment."""
    row: RowMapping = (await database.fetch(_BOUNDS))[0]
    known = None if row["seq"] is None else AuditHead(row["seq"], row["hash"])
    return AuditBounds(known, row["first"], row["last"])


def _values(
    kind: AuditKind,
    run_id: UUID | None,
    request_id: UUID | None,
    person: str | None,
    facts: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "kind": kind,
        "run_id": run_id,
        "request_id": request_id,
        "person": plain_text(person),
        "facts": facts_text(facts),
    }


def _depth(written: str) -> int:
    """Tell how deeply JSON is nested; not by recursion, for it may be deep."""
    depth = deepest = 0
    for sign in _STRING.sub("", written):
        if sign in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in "]}":
            depth -= 1
    return deepest


def _select(wanted: Mapping[str, Any], order: str, limit: int) -> tuple[TextClause, dict[str, Any]]:
    """Ask only for what is wanted: with conditions that may be empty the indexes would stay unused."""
    values = {name: value for name, value in wanted.items() if value is not None}
    conditions = " AND ".join(_CONDITIONS[name] for name in values) or "true"
    statement = text(f"{_ENTRIES} WHERE {conditions} {order} LIMIT :limit")
    return statement, {**values, "limit": limit}


_CONDITIONS = {
    "after": "seq > :after",
    "until": "seq <= :until",
    "request_id": "request_id = :request_id",
    "run_id": "run_id = :run_id",
    "kind": "kind = :kind",
    "person": "person = :person",
}

# A time that PostgreSQL knows and Python does not, such as one before Christ, must not stop a check.
_ENTRIES = """
    SELECT seq, entry, previous, hash, kind, person, CAST(run_id AS text) AS run_id,
           CAST(request_id AS text) AS request_id,
           CASE WHEN isfinite(at) AND at > 'epoch'
                THEN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                ELSE CAST(at AS text) END AS at
    FROM penstock.audit_entry
"""
_APPEND = text("""
    SELECT penstock.audit(CAST(:kind AS text), CAST(:run_id AS uuid), CAST(:request_id AS uuid),
                          CAST(:person AS text), CAST(:facts AS jsonb)) AS seq
""")
_BOUNDS = text("""
    SELECT head.seq, head.hash, (SELECT min(seq) FROM penstock.audit_entry) AS first,
           (SELECT max(seq) FROM penstock.audit_entry) AS last
    FROM (SELECT) AS one LEFT JOIN penstock.audit_head AS head ON true
""")


async def note_policy(database: Database, version: str, *, process: str) -> None:
    """Record the version of people and policies that is in force, unless it is the one recorded last."""
    await database.fetch(_NOTE_POLICY, {"version": version, "process": process})


_NOTE_POLICY = text("""
    SELECT penstock.audit('policy.loaded', NULL, NULL, NULL, jsonb_build_object(
        'version', CAST(:version AS text), 'process', CAST(:process AS text)))
    WHERE NOT EXISTS (
        SELECT FROM (SELECT entry FROM penstock.audit_entry
                     WHERE kind = 'policy.loaded' ORDER BY seq DESC LIMIT 1) AS last
        WHERE strpos(last.entry, CAST(:version AS text)) > 0)
""")
