"""Outputs kept for a while, so that the same call of an agent need not run again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from penstock.store.database import Database
from penstock.store.documents import encode


@dataclass(frozen=True)
class Cached:
    """A kept output."""

    output: Any
    output_ref: str | None
    """Where the output lies when it is too large for the row."""
    run_id: UUID
    """The run that it is from."""


async def cached(database: Database, key: str) -> Cached | None:
    """Get the output kept under a key; None when there is none, or its time has run out."""
    rows = await database.fetch(_GET, {"key": key})
    return Cached(**rows[0]) if rows else None


async def remember(
    database: Database,
    key: str,
    *,
    agent: str,
    run_id: UUID,
    output: Any,
    output_ref: str | None,
    ttl_s: float,
) -> None:
    """Keep an output under a key for `ttl_s` seconds, in place of an earlier one."""
    values = {
        "key": key,
        "agent": agent,
        "run_id": run_id,
        "output": encode(output),
        "output_ref": output_ref,
        "ttl_s": ttl_s,
    }
    await database.fetch(_REMEMBER, values)


async def forget_expired(database: Database) -> int:
    """Drop the outputs whose time has run out and give their number."""
    return len(await database.fetch(_FORGET))


_GET = text("""
    SELECT output, output_ref, run_id FROM penstock.cached_output WHERE key = :key AND expires_at > now()
""")
_REMEMBER = text("""
    INSERT INTO penstock.cached_output (key, agent, run_id, output, output_ref, expires_at)
    VALUES (:key, :agent, :run_id, CAST(:output AS jsonb), :output_ref,
            now() + make_interval(secs => CAST(:ttl_s AS float)))
    ON CONFLICT (key) DO UPDATE SET
        agent = excluded.agent, run_id = excluded.run_id, output = excluded.output,
        output_ref = excluded.output_ref, expires_at = excluded.expires_at
""")
_FORGET = text("DELETE FROM penstock.cached_output WHERE expires_at <= now() RETURNING key")
