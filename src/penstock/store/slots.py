"""Concurrency slots: how many runs of a workflow may be busy with one key at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.store.database import Database
from penstock.store.fencing import lock_name, lock_run


@dataclass(frozen=True)
class Slot:
    """The answer to a run that wants a slot."""

    taken: bool
    holders: tuple[UUID, ...] = ()
    """Other runs that hold one, or are older and about to ask for one, oldest first."""
    ahead: int = 0
    """Older runs that are queued for one."""


async def take_slot(
    database: Database,
    run_id: UUID,
    token: int,
    *,
    workflow: str,
    key: str,
    limit: int,
    release_while_waiting: bool,
) -> Slot:
    """Take a slot for a run, unless as many others hold or wait for one as there may be.

    The end of the run gives the slot back. A run keeps its slot when it is handed over.

    Args:
        key: Runs of one workflow with the same key share the slots.
        limit: How many slots there are.
        release_while_waiting: Whether a suspended run holds none; it takes a new one when it
            goes on.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken it over.
    """
    values = {"id": run_id, "workflow": workflow, "key": key, "released": release_while_waiting}

    async def work(connection: AsyncConnection) -> Slot:
        await lock_name(connection, "slots", workflow, key)
        if _holds(await lock_run(connection, run_id, token), key, released=release_while_waiting):
            return Slot(taken=True)
        row = (await connection.execute(_COUNT, values)).mappings().one()
        holders, ahead = tuple(row["holders"]), int(row["ahead"])
        taken = len(holders) + ahead < limit
        await connection.execute(_TAKE, {**values, "taken": taken})
        return Slot(taken, holders, ahead)

    return await database.transact(work)


async def next_in_line(
    database: Database, workflow: str, key: str, limit: int, release_while_waiting: bool
) -> list[UUID]:
    """List the queued runs that would get a slot now, oldest first."""
    values: dict[str, Any] = {
        "workflow": workflow,
        "key": key,
        "limit": limit,
        "released": release_while_waiting,
    }
    return [row["id"] for row in await database.fetch(_NEXT, values)]


def _holds(run: RowMapping, key: str, *, released: bool) -> bool:
    if run["slot_round"] is None or run["concurrency_key"] != key:
        return False
    return not released or run["slot_round"] == run["round"]


# An older run that was entered and has not asked yet would otherwise lose its place in the line.
_COUNT = text("""
    SELECT array(
               SELECT id FROM penstock.run
               WHERE workflow = :workflow AND concurrency_key = :key AND ended_at IS NULL AND id <> :id
                   AND CASE WHEN slot_round IS NULL
                       THEN state = 'running' AND (created_at, id) < (asking.created_at, asking.id)
                       ELSE NOT :released OR state <> 'suspended' END
               ORDER BY created_at, id) AS holders,
           (SELECT count(*) FROM penstock.run
            WHERE workflow = :workflow AND concurrency_key = :key AND ended_at IS NULL
                AND slot_round IS NULL AND state = 'queued'
                AND (created_at, id) < (asking.created_at, asking.id)) AS ahead
    FROM penstock.run AS asking WHERE asking.id = :id
""")
_TAKE = text("""
    UPDATE penstock.run SET
        concurrency_key = :key, slot_round = CASE WHEN :taken THEN round END
    WHERE id = :id
""")
_NEXT = text("""
    SELECT id FROM penstock.run
    WHERE workflow = :workflow AND concurrency_key = :key AND ended_at IS NULL AND state = 'queued'
        AND slot_round IS NULL
    ORDER BY created_at, id
    LIMIT greatest(0, :limit - (
        SELECT count(*) FROM penstock.run
        WHERE workflow = :workflow AND concurrency_key = :key AND ended_at IS NULL
            AND slot_round IS NOT NULL AND (NOT :released OR state <> 'suspended')))
""")
