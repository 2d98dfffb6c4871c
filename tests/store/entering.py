"""Runs, workers and requests for tests, made through the functions of the store."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from penstock.store.database import Database
from penstock.store.leases import register_worker
from penstock.store.requests import RunRequest, accept
from penstock.store.runs import Entry, begin_run, events_of
from penstock.store.states import Trust
from penstock.store.workflows import Revision

LONG_S = 600.0
"""A lease that no test outlives."""


async def enter(database: Database, revision: Revision, run_id: UUID | None = None, **changes: Any) -> Entry:
    """Enter a run, a new one unless its id is given."""
    values: dict[str, Any] = {
        "name": "quick-fox",
        "trust": Trust.AUTHENTICATED,
        "inputs": {"host": "a"},
        "trigger": {"type": "cli"},
        "agents": {"patcher": "1"},
        "claimed_by": "w1",
        "revision_id": revision.id,
        **changes,
    }
    return await begin_run(database, run_id or uuid4(), **values)


async def types_of(database: Database, run_id: UUID) -> list[str]:
    """List the types of a run's events, oldest first."""
    return [event.type for event in await events_of(database, run_id)]


async def register(database: Database, name: str = "w1", ttl_s: float = LONG_S) -> UUID:
    """Register a worker of the pool `main`."""
    worker_id = uuid4()
    await register_worker(
        database, worker_id, name=name, pool="main", process=f"host:{worker_id}", ttl_s=ttl_s
    )
    return worker_id


async def request(database: Database, **changes: Any) -> RunRequest:
    """Have a request for a run of the workflow `fix` accepted."""
    return (await accept(database, RunRequest(uuid4(), "fix", **changes))).request


async def age(database: Database, table: str, row: UUID, seconds: float, *columns: str) -> None:
    """Move times of a row into the past, as if the seconds had gone by."""
    for column in columns:
        statement = text(
            f"UPDATE penstock.{table} SET {column} = {column} - make_interval(secs => :seconds)"  # noqa: S608
            " WHERE id = :id"
        )
        await database.fetch(statement, {"id": row, "seconds": seconds})
