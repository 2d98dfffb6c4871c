"""What the workers' sweeps ask: runs that are held, waiting or forgotten."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text

from penstock.store.database import Database

__all__ = ["close_request_of", "free_run", "held_by", "waiting_runs"]


async def held_by(database: Database, worker_id: UUID, *, older_than_s: float) -> list[UUID]:
    """List the runs that a worker has entered so many seconds ago and not let go of."""
    rows = await database.fetch(_HELD, {"worker_id": worker_id, "older_than_s": older_than_s})
    return [row["id"] for row in rows]


async def free_run(database: Database, run_id: UUID, worker_id: UUID, *, failed: bool = False) -> bool:
    """Let go of a run that a worker holds, so that another one may enter it; late writes are refused.

    Args:
        failed: The worker could not carry it out; that counts like a crash.
    Returns:
        Whether the worker held it.
    """
    values = {"run_id": run_id, "worker_id": worker_id, "failed": failed}
    return bool(await database.fetch(_FREE, values))


async def waiting_runs(database: Database, *, limit: int, after: UUID | None = None) -> list[UUID]:
    """List suspended and queued runs, a page at a time.

    Args:
        after: The last one of the page before.
    """
    rows = await database.fetch(_WAITING, {"limit": limit, "after": after})
    return [row["id"] for row in rows]


async def close_request_of(database: Database, run_id: UUID) -> None:
    """Note that the request of a run that was never entered is over."""
    await database.fetch(_CLOSE, {"run_id": run_id})


_HELD = text("""
    SELECT id FROM penstock.run
    WHERE worker_id = :worker_id AND state = 'running'
        AND entered_at < now() - make_interval(secs => CAST(:older_than_s AS float))
    ORDER BY entered_at, id
""")

_FREE = text("""
    WITH freed AS (
        UPDATE penstock.run AS run SET
            worker_id = NULL, token = run.token + 1, updated_at = now(), entered_at = NULL,
            active_s = run.active_s + coalesce(extract(epoch FROM now() - run.entered_at), 0),
            reaped_at = CASE WHEN :failed THEN now() ELSE run.reaped_at END,
            crashes = CASE WHEN NOT :failed THEN run.crashes WHEN EXISTS (
                SELECT FROM penstock.node AS node WHERE node.run_id = run.id
                    AND node.ended_at > coalesce(run.reaped_at, '-infinity')) THEN 1 ELSE run.crashes + 1 END
        WHERE run.id = :run_id AND run.worker_id = :worker_id AND NOT penstock.run_ended(run.state)
        RETURNING run.id, run.claimed_by
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, data)
        SELECT id, 'run.left', jsonb_build_object('worker', claimed_by) FROM freed
    )
    SELECT id FROM freed
""")

_WAITING = text("""
    SELECT id FROM penstock.run
    WHERE state IN ('suspended', 'queued') AND (CAST(:after AS uuid) IS NULL OR id > CAST(:after AS uuid))
    ORDER BY id LIMIT :limit
""")

_CLOSE = text("""
    UPDATE penstock.run_request SET closed_at = now()
    WHERE run_id = :run_id AND closed_at IS NULL
        AND NOT EXISTS (SELECT FROM penstock.run WHERE run.id = :run_id AND NOT penstock.run_ended(run.state))
""")
