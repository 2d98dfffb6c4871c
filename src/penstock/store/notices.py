"""News about requests for approval that people are to be told: an outbox that no crash empties."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from penstock.store.database import Database

__all__ = ["Notice", "notice_failed", "notices_done", "take_notices"]


@dataclass(frozen=True)
class Notice:
    """Something to tell people, taken by one sender for a while."""

    id: int
    request_id: UUID
    kind: str
    """`asked`, `reminder` or `escalated`."""
    tries: int
    """How often it was taken, this time included."""


async def take_notices(database: Database, *, limit: int = 20) -> list[Notice]:
    """Take notices that are due; one that is neither done nor failed comes again after a while.

    Those of requests that are not open any more are done with.
    """
    await database.fetch(_DROP)
    return [Notice(**row) for row in await database.fetch(_TAKE, {"limit": limit})]


async def notices_done(database: Database, notice_id: int) -> None:
    """Record that people were told."""
    await database.fetch(_DONE, {"id": notice_id})


async def notice_failed(database: Database, notice_id: int, error: str, *, last: bool) -> None:
    """Record that telling failed; the last time it is given up."""
    await database.fetch(_FAILED, {"id": notice_id, "error": error, "last": last})


_DROP = text("""
    UPDATE penstock.approval_notice AS notice SET done_at = now()
    FROM penstock.approval_request AS request
    WHERE notice.done_at IS NULL AND request.id = notice.request_id AND request.state <> 'open'
""")
# Two minutes after the first try, four after the second, and so on, an hour at most.
_TAKE = text("""
    UPDATE penstock.approval_notice AS notice SET
        tries = notice.tries + 1,
        next_try_at = now() + least(interval '1 hour', interval '1 minute' * power(2, notice.tries + 1))
    WHERE notice.id IN (
        SELECT id FROM penstock.approval_notice
        WHERE done_at IS NULL AND next_try_at <= now() ORDER BY next_try_at, id LIMIT :limit
        FOR UPDATE SKIP LOCKED)
    RETURNING notice.id, notice.request_id, notice.kind, notice.tries
""")
_DONE = text("UPDATE penstock.approval_notice SET done_at = now(), error = NULL WHERE id = :id")
_FAILED = text("""
    UPDATE penstock.approval_notice SET
        error = :error, done_at = CASE WHEN CAST(:last AS boolean) THEN now() END
    WHERE id = :id
""")
