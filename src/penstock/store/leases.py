"""Workers and their leases: who may go on with which runs, and who takes over from the dead.

A worker holds the runs that it entered for as long as it renews its lease. After an outage of
the database everybody's lease has run out, so whoever finds an expired one waits until its own
has held for a while: the living have renewed by then.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from penstock.store.database import Database


@dataclass(frozen=True)
class Peer:
    """A registered worker of a pool."""

    id: UUID
    name: str
    process: str
    """What it said of its process: enough to tell on its machine whether it is alive."""
    expired: bool
    """Whether its lease has run out."""


@dataclass(frozen=True)
class Reaped:
    """A run that was taken away from a lost worker."""

    run_id: UUID
    crashes: int
    """Workers that it lost in a row, this one included, without a node ending in between."""


@dataclass(frozen=True)
class FreeRun:
    """A run that goes on as soon as somebody enters it."""

    id: UUID
    crashes: int


async def register_worker(
    database: Database, worker_id: UUID, *, name: str, pool: str, process: str, ttl_s: float
) -> None:
    """Register a worker with a lease of `ttl_s` seconds; one that is there already is renewed."""
    values = {"id": worker_id, "name": name, "pool": pool, "process": process, "ttl_s": ttl_s}
    await database.fetch(_REGISTER, values)


async def renew_worker(database: Database, worker_id: UUID, ttl_s: float) -> bool:
    """Extend a worker's lease to `ttl_s` seconds from now.

    Returns:
        Whether the worker still is registered; False when somebody took its runs away.
    """
    return bool(await database.fetch(_RENEW, {"id": worker_id, "ttl_s": ttl_s}))


async def retire_worker(database: Database, worker_id: UUID) -> None:
    """Take a worker off the list; runs that it still holds become free for others."""
    await database.fetch(_RETIRE, {"id": worker_id})


async def peers(database: Database, pool: str) -> list[Peer]:
    """List the registered workers of a pool, oldest first."""
    return [Peer(**row) for row in await database.fetch(_PEERS, {"pool": pool})]


async def reap(database: Database, *, by: UUID, dead: Collection[UUID] = ()) -> list[Reaped]:
    """Take the runs of lost workers away from them, and the workers off the list.

    Lost are workers whose lease has expired, but only while the lease of `by` has held for its
    whole length. When the answer is lost with the connection, a second call finds nothing;
    `free_runs` lists the runs then.

    Args:
        by: The worker that does it; it never reaps itself.
        dead: Workers known to be dead, whatever their lease says.
    """
    rows = await database.fetch(_REAP, {"by": by, "dead": list(dead)})
    return [Reaped(**row) for row in rows]


async def free_runs(database: Database, *, older_than_s: float) -> list[FreeRun]:
    """List running runs that no worker holds and that have not changed for so many seconds, oldest first.

    They were handed over, opened again or taken away: whoever sees them has them scheduled.
    """
    return [FreeRun(**row) for row in await database.fetch(_FREE, {"older_than_s": older_than_s})]


_REGISTER = text("""
    INSERT INTO penstock.worker AS worker (id, name, pool, process, ttl_s, expires_at)
    VALUES (:id, :name, :pool, :process, :ttl_s, now() + make_interval(secs => CAST(:ttl_s AS float)))
    ON CONFLICT (id) DO UPDATE SET
        name = excluded.name, pool = excluded.pool, process = excluded.process, ttl_s = excluded.ttl_s,
        held_since = CASE WHEN worker.expires_at > now() THEN worker.held_since ELSE now() END,
        expires_at = excluded.expires_at
""")

_RENEW = text("""
    UPDATE penstock.worker SET
        held_since = CASE WHEN expires_at > now() THEN held_since ELSE now() END,
        expires_at = now() + make_interval(secs => CAST(:ttl_s AS float)), ttl_s = :ttl_s
    WHERE id = :id RETURNING id
""")

_RETIRE = text("""
    WITH gone AS (
        DELETE FROM penstock.worker WHERE id = :id RETURNING id
    ), freed AS (
        UPDATE penstock.run AS run SET
            worker_id = NULL, token = run.token + 1, updated_at = now(), entered_at = NULL,
            active_s = run.active_s + coalesce(extract(epoch FROM now() - run.entered_at), 0)
        FROM gone WHERE run.worker_id = gone.id
        RETURNING run.id, run.claimed_by
    )
    INSERT INTO penstock.run_event (run_id, type, data)
    SELECT id, 'run.left', jsonb_build_object('worker', claimed_by) FROM freed
""")

_PEERS = text("""
    SELECT id, name, process, expires_at <= now() AS expired FROM penstock.worker
    WHERE pool = :pool ORDER BY started_at, id
""")

# A worker that renews meanwhile is kept: its row is looked at again under the lock.
_REAP = text("""
    WITH lost AS (
        DELETE FROM penstock.worker AS worker
        WHERE worker.id <> :by AND (worker.id = ANY (CAST(:dead AS uuid[])) OR (
            worker.expires_at <= now() AND EXISTS (
                SELECT FROM penstock.worker AS reaper WHERE reaper.id = :by AND reaper.expires_at > now()
                    AND reaper.held_since <= now() - make_interval(secs => reaper.ttl_s))))
        RETURNING worker.id, worker.name, worker.expires_at
    ), freed AS (
        UPDATE penstock.run AS run SET
            worker_id = NULL, token = run.token + 1, updated_at = now(), reaped_at = now(), entered_at = NULL,
            crashes = CASE WHEN EXISTS (
                SELECT FROM penstock.node AS node WHERE node.run_id = run.id
                    AND node.ended_at > coalesce(run.reaped_at, '-infinity')) THEN 1 ELSE run.crashes + 1 END,
            active_s = run.active_s + coalesce(greatest(0, extract(
                epoch FROM least(now(), lost.expires_at) - run.entered_at)), 0)
        FROM lost WHERE run.worker_id = lost.id AND run.state = 'running'
        RETURNING run.id, run.crashes, lost.name
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, data)
        SELECT id, 'run.lost', jsonb_build_object('worker', name) FROM freed
    )
    SELECT id AS run_id, crashes FROM freed
""")

_FREE = text("""
    SELECT id, crashes FROM penstock.run
    WHERE state = 'running' AND worker_id IS NULL
        AND updated_at < now() - make_interval(secs => CAST(:older_than_s AS float))
    ORDER BY updated_at, id
""")
