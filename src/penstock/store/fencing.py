"""Tokens: a worker's right to write to a run, good until somebody else takes the run over."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.errors import LeaseLost, NotFound


def unknown(run_id: UUID) -> NotFound:
    """Make the error for a run that is not there."""
    return NotFound(f"there is no run {str(run_id)!r}")


def lost(run_id: UUID) -> LeaseLost:
    """Make the error for a run whose token is a newer one."""
    return LeaseLost(f"run {str(run_id)!r} was taken over by another worker")


def fenced(rows: Sequence[RowMapping], run_id: UUID) -> Sequence[RowMapping]:
    """Give the rows of a fenced statement, whose column `held` says whether the token was right.

    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken it over.
    """
    if not rows:
        raise unknown(run_id)
    if not rows[0]["held"]:
        raise lost(run_id)
    return rows


async def lock_run(connection: AsyncConnection, run_id: UUID, token: int | None) -> RowMapping:
    """Lock a run's row until the end of the transaction and give what it says of its worker and slot.

    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken it over.
    """
    values = {"run_id": run_id, "token": token}
    return fenced((await connection.execute(_LOCK, values)).mappings().all(), run_id)[0]


async def lock_name(connection: AsyncConnection, *parts: str) -> None:
    """Wait for the lock of that name and hold it until the end of the transaction."""
    await connection.execute(_LOCK_NAME, {"name": "\n".join(parts)})


_LOCK = text("""
    SELECT id, state, epoch, round, slot_round, concurrency_key,
           CAST(:token AS bigint) IS NULL OR token = CAST(:token AS bigint) AS held
    FROM penstock.run WHERE id = :run_id FOR NO KEY UPDATE
""")
_LOCK_NAME = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
