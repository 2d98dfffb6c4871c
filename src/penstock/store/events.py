"""What happened in a run, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from penstock.store.database import Database
from penstock.store.documents import encode
from penstock.store.fencing import fenced


@dataclass(frozen=True)
class Event:
    """Something that happened in a run."""

    id: int
    """Grows in the order in which the run's events became visible."""
    run_id: UUID
    at: datetime
    type: str
    node_id: str | None
    data: Mapping[str, Any]


async def events_of(database: Database, run_id: UUID, *, after_id: int = 0, limit: int = 1000) -> list[Event]:
    """List a run's events after one of them, oldest first.

    An event that becomes visible later has a greater id, so a reader that goes on from the
    last id it saw misses nothing.
    """
    rows = await database.fetch(_EVENTS, {"run_id": run_id, "after_id": after_id, "limit": limit})
    return [Event(**row) for row in rows]


async def add_event(
    database: Database,
    run_id: UUID,
    type_: str,
    *,
    node_id: str | None = None,
    data: Mapping[str, Any] | None = None,
    token: int | None = None,
) -> int:
    """Add an event of the caller's own to a run and give its id.

    It is not safe to repeat: after a broken connection it may stand twice.

    Args:
        token: A worker's right to the run; None for a caller that is no worker.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken the run over.
    """
    values = {
        "run_id": run_id,
        "type": type_,
        "node_id": node_id,
        "data": encode(data or {}),
        "token": token,
    }
    return int(fenced(await database.fetch(_ADD, values), run_id)[0]["id"])


_EVENTS = text("""
    SELECT id, run_id, at, type, node_id, data FROM penstock.run_event
    WHERE run_id = :run_id AND id > :after_id ORDER BY id LIMIT :limit
""")

# The row of the run is locked before an event gets its id, here and wherever events are
# written: a run's events then get their ids in the order of the commits.
_ADD = text("""
    WITH locked AS (
        SELECT id, CAST(:token AS bigint) IS NULL OR token = CAST(:token AS bigint) AS held
        FROM penstock.run WHERE id = :run_id FOR NO KEY UPDATE
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT id, CAST(:type AS text), CAST(:node_id AS text), CAST(:data AS jsonb) FROM locked WHERE held
        RETURNING id
    )
    SELECT locked.held, told.id FROM locked LEFT JOIN told ON true
""")
