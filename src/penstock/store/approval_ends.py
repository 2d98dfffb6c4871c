"""What happens to a request for approval by itself: it is reminded of, escalated, expires, is withdrawn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.store.approval_rows import REQUEST, ApprovalRequest, request_of
from penstock.store.database import Database
from penstock.store.documents import plain_text
from penstock.store.states import ApprovalState
from penstock.store.votes import lock_run_of

__all__ = ["Due", "Timer", "due_requests", "expire_requests", "fire_timers", "withdraw_requests"]


@dataclass(frozen=True)
class Due:
    """What is due for a request, as of `ApprovalRequest.read_at`."""

    reminder: bool = False
    escalation: bool = False
    closes: ApprovalState | None = None
    """What it is now that a freeze has ended: approved, or void because nothing asks for it any more."""
    valid_s: float = 86_400.0
    """How long that approval may be used, in seconds."""
    next_at: datetime | None = None
    """When something is due next."""


class Timer(Protocol):
    """Says what is due."""

    def due(self, request: ApprovalRequest) -> Due:
        """Say what is due for an open request now."""
        ...


async def due_requests(database: Database, *, limit: int = 200) -> list[UUID]:
    """List open requests for which something is due, the oldest dues first."""
    return [row["id"] for row in await database.fetch(_DUE, {"limit": limit})]


async def fire_timers(database: Database, request_id: UUID, timer: Timer) -> UUID | None:
    """See to what is due for a request, once however many workers try.

    Returns:
        Its run when that can go on now.
    """

    async def work(connection: AsyncConnection) -> UUID | None:
        await lock_run_of(connection, request_id)
        row = (await connection.execute(_GET_DUE, {"id": request_id})).mappings().first()
        if row is None:
            return None
        found = request_of(row)
        due = timer.due(found)
        values = {
            "id": request_id,
            "until": found.read_at,
            "next_at": None if due.closes else due.next_at,
            "escalated": due.escalation,
            "state": (due.closes or ApprovalState.OPEN).value,
            "valid_s": due.valid_s,
            "kinds": _kinds(due),
        }
        await connection.execute(_FIRE, values)
        return found.run_id if due.closes else None

    return await database.transact(work)


def _kinds(due: Due) -> list[str]:
    return [kind for kind, wanted in (("escalated", due.escalation), ("reminder", due.reminder)) if wanted]


async def expire_requests(database: Database) -> list[UUID]:
    """Close every open request whose time has run out and give their runs, by id."""
    return [row["run_id"] for row in await database.fetch(_EXPIRE)]


async def withdraw_requests(database: Database, run_id: UUID, reason: str) -> int:
    """Close every open request of a run, for its answer is no longer wanted; give their number."""

    async def work(connection: AsyncConnection) -> int:
        # Locked first, so that what is asked for at the same time is seen.
        await connection.execute(_LOCK_RUN, {"run_id": run_id})
        withdrawn = await connection.execute(_WITHDRAW, {"run_id": run_id, "reason": plain_text(reason)})
        return len(withdrawn.all())

    return await database.transact(work)


_LOCK_RUN = text("SELECT id FROM penstock.run WHERE id = :run_id FOR NO KEY UPDATE")
_IS_DUE = "state = 'open' AND next_at <= now() AND (expires_at IS NULL OR expires_at > now())"
_GET_DUE = text(f"{REQUEST} WHERE request.id = :id AND request.{_IS_DUE}")
_DUE = text(f"""
    SELECT id FROM penstock.approval_request
    WHERE {_IS_DUE} ORDER BY next_at, id LIMIT :limit
""")  # noqa: S608  all of it is our own
_FIRE = text("""
    WITH fired AS (
        UPDATE penstock.approval_request SET
            timed_until = CAST(:until AS timestamptz), next_at = CAST(:next_at AS timestamptz),
            escalated_at = CASE WHEN CAST(:escalated AS boolean) THEN coalesce(escalated_at, now())
                                ELSE escalated_at END,
            state = CAST(:state AS text),
            decided_at = CASE WHEN CAST(:state AS text) <> 'open' THEN now() END,
            reason = CASE WHEN CAST(:state AS text) = 'void' THEN 'what asked for it has ended' END,
            usable_until = CASE WHEN CAST(:state AS text) = 'approved'
                                THEN now() + make_interval(secs => CAST(:valid_s AS float)) END
        WHERE id = :id AND state = 'open'
        RETURNING id, run_id, node_id, state, digest
    ), noticed AS (
        INSERT INTO penstock.approval_notice (request_id, kind)
        SELECT fired.id, kind FROM fired, unnest(CAST(:kinds AS text[])) AS kind
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.' || kind, node_id, jsonb_build_object('id', id)
        FROM fired, unnest(CAST(:kinds AS text[])
                           || CASE state WHEN 'approved' THEN ARRAY['decided'] WHEN 'void' THEN ARRAY['void']
                                         ELSE '{}' END) AS kind
    )
    SELECT CASE WHEN state <> 'open' THEN penstock.signal(run_id) END,
           (SELECT count(penstock.audit('request.' || CASE kind WHEN 'reminder' THEN 'reminded' ELSE kind END,
                                        fired.run_id, fired.id, NULL,
                                        jsonb_build_object('digest', fired.digest)))
            FROM unnest(CAST(:kinds AS text[])
                        || CASE state WHEN 'approved' THEN ARRAY['thawed'] WHEN 'void' THEN ARRAY['void']
                                      ELSE '{}' END) AS kind)
    FROM fired
""")
# Runs that are busy are left for the next time: nobody waits for a run while the chain is held.
_EXPIRE = text("""
    WITH locked AS MATERIALIZED (
        SELECT id FROM penstock.run WHERE id IN (
            SELECT run_id FROM penstock.approval_request WHERE state = 'open' AND expires_at <= now())
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    ), expired AS (
        UPDATE penstock.approval_request AS request SET state = 'expired', decided_at = now(), next_at = NULL
        FROM locked
        WHERE request.run_id = locked.id AND request.state = 'open' AND request.expires_at <= now()
        RETURNING request.id, request.run_id, request.node_id, request.digest
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.expired', node_id, jsonb_build_object('id', id) FROM expired
    ), noted AS (
        SELECT run_id, penstock.audit('request.expired', run_id, id, NULL,
                                      jsonb_build_object('digest', digest)) AS seq
        FROM expired ORDER BY run_id, id
    )
    SELECT run_id, penstock.signal(run_id), max(seq) FROM noted GROUP BY run_id ORDER BY run_id
""")
_WITHDRAW = text("""
    WITH withdrawn AS (
        UPDATE penstock.approval_request SET
            state = 'withdrawn', decided_at = now(), reason = :reason, next_at = NULL
        WHERE run_id = :run_id AND state = 'open'
        RETURNING id, run_id, node_id, reason, digest
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.withdrawn', node_id, jsonb_build_object('id', id, 'reason', reason)
        FROM withdrawn
    )
    SELECT id, penstock.signal(run_id), penstock.audit('request.withdrawn', run_id, id, NULL,
               jsonb_build_object('digest', digest, 'reason', reason))
    FROM withdrawn ORDER BY id
""")
