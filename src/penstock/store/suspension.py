"""Runs that wait: left by their worker, suspended, called back, cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text

from penstock.errors import StoreError
from penstock.store.database import Database
from penstock.store.documents import plain_text
from penstock.store.fencing import fenced, unknown
from penstock.store.states import RunState


@dataclass(frozen=True)
class Cancelling:
    """A run that somebody wants cancelled."""

    state: RunState
    worker_id: UUID | None
    """The worker that holds it and will end it; None while nobody does."""
    children: tuple[UUID, ...]
    """Runs of sub-workflows that have not ended, those included that nobody has entered yet."""


async def leave_run(
    database: Database, run_id: UUID, token: int, state: RunState, *, message: str | None = None
) -> None:
    """Let a run go, for somebody else to enter.

    Args:
        state: RUNNING to hand it over, QUEUED to wait for a concurrency slot.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken it over.
        StoreError: It has ended.
    """
    if state not in {RunState.RUNNING, RunState.QUEUED}:
        raise StoreError(f"run {str(run_id)!r}: a worker does not leave a run as {state.value!r}")
    await _leave(database, run_id, token, state, message=message)


async def suspend_run(
    database: Database, run_id: UUID, token: int, message: str | None, *, after_round: int
) -> int:
    """Suspend a run and give its new round, which is one more than `after_round`.

    What the run waits for may have come before this was written: ask `has_news` afterwards.

    Args:
        after_round: The run's round as it was found on entry.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken it over.
        StoreError: It has ended.
    """
    return await _leave(database, run_id, token, RunState.SUSPENDED, message=message, after_round=after_round)


async def has_news(database: Database, run_id: UUID) -> bool:
    """Tell whether a run that has not ended can go on with something that it waited for.

    That is a cancel, a request for approval that is not open any more while its node waits
    for it, or the end of a child while its node waits for that.
    """
    return bool(await database.fetch(_NEWS, {"run_id": run_id}))


async def suspended_with_news(database: Database, *, older_than_s: float) -> list[UUID]:
    """List runs that were suspended so many seconds ago and have news, oldest first."""
    rows = await database.fetch(_SUSPENDED_WITH_NEWS, {"older_than_s": older_than_s})
    return [row["id"] for row in rows]


async def queued_runs(database: Database, limit: int = 100) -> list[UUID]:
    """List runs that wait for a concurrency slot, those first that have done so for longest."""
    rows = await database.fetch(_QUEUED, {"limit": limit})
    return [row["id"] for row in rows]


async def request_cancel(database: Database, run_id: UUID, *, by: str) -> Cancelling:
    """Ask for a run to be cancelled; whoever holds it, or enters it next, ends it.

    The first call counts; a run that has ended is left as it is.

    Raises:
        NotFound: There is no such run.
    """
    rows = await database.fetch(_CANCEL, {"id": run_id, "by": plain_text(by)})
    if not rows:
        raise unknown(run_id)
    return Cancelling(RunState(rows[0]["state"]), rows[0]["worker_id"], tuple(rows[0]["children"]))


async def _leave(
    database: Database,
    run_id: UUID,
    token: int,
    state: RunState,
    *,
    message: str | None,
    after_round: int | None = None,
) -> int:
    values: dict[str, Any] = {
        "id": run_id,
        "token": token,
        "state": state.value,
        "message": plain_text(message),
        "after_round": after_round,
    }
    return _round(fenced(await database.fetch(_LEAVE, values), run_id), run_id)


def _round(rows: Sequence[RowMapping], run_id: UUID) -> int:
    if rows[0]["round"] is None:
        raise StoreError(f"run {str(run_id)!r} is {rows[0]['state']!r} and cannot be left")
    return int(rows[0]["round"])


# `held` is also true when this very call has been made before: it left the run with the next token.
_LEAVE = text("""
    WITH locked AS (
        SELECT id, state, round, token = :token AS fresh,
               token = :token + 1 AND worker_id IS NULL AND state = :state
               AND round = coalesce(CAST(:after_round AS integer) + 1, round) AS repeated
        FROM penstock.run WHERE id = :id FOR NO KEY UPDATE
    ), changed AS (
        UPDATE penstock.run AS run SET
            state = :state, message = :message, worker_id = NULL, token = run.token + 1,
            round = coalesce(CAST(:after_round AS integer) + 1, run.round),
            active_s = run.active_s + coalesce(extract(epoch FROM now() - run.entered_at), 0),
            entered_at = NULL, updated_at = now()
        FROM locked
        WHERE run.id = locked.id AND locked.fresh AND NOT penstock.run_ended(run.state)
            AND run.round = coalesce(CAST(:after_round AS integer), run.round)
        RETURNING run.id, run.round, run.message
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, data)
        SELECT id, CASE :state WHEN 'running' THEN 'run.left' ELSE 'run.' || :state END,
               jsonb_strip_nulls(jsonb_build_object('message', message))
        FROM changed
    )
    SELECT locked.fresh OR locked.repeated AS held, locked.state,
           coalesce(changed.round, CASE WHEN locked.repeated THEN locked.round END) AS round
    FROM locked LEFT JOIN changed ON true
""")

_QUEUED = text("""
    SELECT id FROM penstock.run WHERE state = 'queued' ORDER BY updated_at, id LIMIT :limit
""")

_CANCEL = text("""
    WITH locked AS (
        SELECT id, state, worker_id, cancel_requested_at FROM penstock.run WHERE id = :id FOR NO KEY UPDATE
    ), marked AS (
        UPDATE penstock.run AS run SET cancel_requested_at = now(), cancelled_by = :by, updated_at = now()
        FROM locked
        WHERE run.id = locked.id AND run.cancel_requested_at IS NULL AND NOT penstock.run_ended(run.state)
        RETURNING run.id, run.cancelled_by
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, data)
        SELECT id, 'run.cancelling', jsonb_build_object('by', cancelled_by) FROM marked
    )
    SELECT locked.state, locked.worker_id, ARRAY(
               SELECT request.run_id FROM penstock.run_request AS request
               LEFT JOIN penstock.run AS child ON child.id = request.run_id
               WHERE request.parent_run_id = locked.id AND request.run_id IS NOT NULL
                   AND NOT coalesce(penstock.run_ended(child.state), request.closed_at IS NOT NULL)
               ORDER BY request.created_at, request.id) AS children,
           CASE WHEN NOT penstock.run_ended(locked.state) THEN penstock.signal(locked.id) END
    FROM locked
""")

# Only the newest request of a node counts, and only the newest child: what an earlier attempt
# waited for is no news.
_WITH_NEWS = """
    SELECT run.id FROM penstock.run AS run
    WHERE (
        run.cancel_requested_at IS NOT NULL
        OR EXISTS (
            SELECT FROM penstock.node AS node CROSS JOIN LATERAL (
                SELECT request.state, request.expires_at FROM penstock.approval_request AS request
                WHERE request.run_id = node.run_id AND request.node_id = node.node_id
                    AND request.item = node.item AND request.epoch = run.epoch
                ORDER BY request.round DESC LIMIT 1) AS asked
            WHERE node.run_id = run.id AND node.state = 'waiting_approval'
                AND (asked.state <> 'open' OR asked.expires_at <= now()))
        OR EXISTS (
            SELECT FROM penstock.node AS node CROSS JOIN LATERAL (
                SELECT request.run_id, request.closed_at FROM penstock.run_request AS request
                WHERE request.parent_run_id = node.run_id AND request.parent_node_id = node.node_id
                    AND coalesce(request.parent_item, '') = node.item
                ORDER BY request.created_at DESC, request.id DESC LIMIT 1) AS asked
            LEFT JOIN penstock.run AS child ON child.id = asked.run_id
            WHERE node.run_id = run.id AND node.state = 'waiting'
                AND coalesce(penstock.run_ended(child.state), asked.closed_at IS NOT NULL)))
"""
_NEWS = text(_WITH_NEWS + "AND run.id = :run_id AND NOT penstock.run_ended(run.state)")
_SUSPENDED_WITH_NEWS = text(
    _WITH_NEWS
    + """
    AND run.state = 'suspended'
    AND run.updated_at <= now() - make_interval(secs => CAST(:older_than_s AS float))
    ORDER BY run.updated_at, run.id
"""
)
