"""Requests for runs: what was accepted, before and after there is a run of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.errors import NotFound, StoreError
from penstock.store.database import Database
from penstock.store.documents import encode
from penstock.store.fencing import lock_name
from penstock.store.run_rows import Parent, parent_of
from penstock.store.states import RunState, Trust

__all__ = [
    "Accepted",
    "Child",
    "Parent",
    "RunRequest",
    "accept",
    "children_of",
    "close_request",
    "get_request",
    "set_request_run",
    "unstarted",
]


@dataclass(frozen=True)
class RunRequest:
    """A wish for a run of a workflow."""

    id: UUID
    workflow: str
    key: str | None = None
    """The same key of one workflow is one request, however often it comes."""
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trigger: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trigger_type: str = "manual"
    trust: Trust = Trust.UNTRUSTED
    requester: str = "unknown"
    parent: Parent | None = None
    concurrency_key: str | None = None
    queue: str | None = None
    """Prefect's work queue; None for the deployment's own."""
    run_id: UUID | None = None
    """Its run, once there is one."""
    created_at: datetime | None = None
    """None before it was accepted."""
    closed_at: datetime | None = None


@dataclass(frozen=True)
class Accepted:
    """What became of a request."""

    request: RunRequest
    """The request that stands: the new one, or the earlier one that it is attached to."""
    new: bool
    active: tuple[UUID, ...] = ()
    """The open requests that left no place for it, by id, oldest first."""


@dataclass(frozen=True)
class Child:
    """A run, or a request for one, that a node of another run waits for."""

    run_id: UUID | None
    request_id: UUID
    node_id: str
    item: str
    state: RunState | None
    """None before a worker has entered the run."""
    outputs: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    message: str | None
    key: str | None


async def accept(database: Database, request: RunRequest, *, active_limit: int | None = None) -> Accepted:
    """Record a request; from then on it is not lost.

    A request with a key that was accepted before is attached to the earlier one. The same
    request given twice is new both times, so the call may be repeated.

    Args:
        active_limit: How many requests with this concurrency key may be open at once; when
            there are as many, nothing is recorded. Needs a concurrency key; None for any number.
    """
    if active_limit is not None and request.concurrency_key is not None:
        return await _accept_within(database, request, request.concurrency_key, active_limit)
    values = _values(request)
    # A request that was committed a moment ago is seen by a statement that begins now.
    rows = await database.fetch(_ACCEPT, values) or await database.fetch(_EARLIER, values)
    if not rows:
        raise StoreError(f"the request {str(request.id)!r} vanished while it was accepted")
    return _accepted(request, rows[0])


async def set_request_run(database: Database, request_id: UUID, run_id: UUID) -> None:
    """Note which run a request got.

    Raises:
        NotFound: There is no such request.
        StoreError: It has another run, or the run is another request's.
    """
    if await database.fetch(_SET_RUN, {"id": request_id, "run_id": run_id}):
        return
    known = await get_request(database, request_id)
    raise StoreError(f"request {str(request_id)!r} has run {str(known.run_id)!r} and gets no second one")


async def get_request(database: Database, request_id: UUID) -> RunRequest:
    """Get a request.

    Raises:
        NotFound: There is none.
    """
    return _request(_found(await database.fetch(_GET, {"id": request_id}), request_id))


async def unstarted(database: Database, older_than_s: float) -> list[RunRequest]:
    """List the open requests without a run that were accepted so many seconds ago, oldest first."""
    rows = await database.fetch(_UNSTARTED, {"older_than_s": older_than_s})
    return [_request(row) for row in rows]


async def close_request(database: Database, request_id: UUID) -> None:
    """Note that nothing more comes of a request; the end of its run does so by itself.

    Raises:
        NotFound: There is no such request.
    """
    _found(await database.fetch(_CLOSE, {"id": request_id}), request_id)


async def children_of(database: Database, run_id: UUID) -> list[Child]:
    """List the runs that nodes of a run asked for, newest last."""
    rows = await database.fetch(_CHILDREN, {"run_id": run_id})
    return [_child(dict(row)) for row in rows]


async def _accept_within(database: Database, request: RunRequest, key: str, limit: int) -> Accepted:
    values = _values(request)

    async def ask(connection: AsyncConnection, *statements: Any) -> Sequence[RowMapping]:
        for statement in statements:
            rows = (await connection.execute(statement, values)).mappings().all()
            if rows:
                return rows
        return []

    async def work(connection: AsyncConnection) -> Accepted:
        await lock_name(connection, "active", request.workflow, key)
        earlier = await ask(connection, _EARLIER)
        if earlier:
            return _accepted(request, earlier[0])
        active = await ask(connection, _ACTIVE)
        if len(active) >= limit:
            return Accepted(_request(active[0]), new=False, active=tuple(row["id"] for row in active))
        # Somebody who counts no limit may have been quicker with the same key.
        return _accepted(request, (await ask(connection, _ACCEPT, _EARLIER))[0])

    return await database.transact(work)


def _accepted(request: RunRequest, row: RowMapping) -> Accepted:
    return Accepted(_request(row), new=row["id"] == request.id)


def _request(row: RowMapping) -> RunRequest:
    plain = {name: row[name] for name in _PLAIN}
    return RunRequest(**plain, trust=Trust(row["trust"]), parent=parent_of(row))


def _child(columns: dict[str, Any]) -> Child:
    if columns["state"] is not None:
        columns["state"] = RunState(columns["state"])
    return Child(**columns)


def _found(rows: Sequence[RowMapping], request_id: UUID) -> RowMapping:
    if not rows:
        raise NotFound(f"there is no request {str(request_id)!r}")
    return rows[0]


def _values(request: RunRequest) -> dict[str, Any]:
    parent = request.parent
    return {
        "id": request.id,
        "workflow": request.workflow,
        "key": request.key,
        "inputs": encode(request.inputs),
        "trigger": encode(request.trigger),
        "trigger_type": request.trigger_type,
        "trust": Trust(request.trust).value,
        "requester": request.requester,
        "parent_run_id": parent.run_id if parent else None,
        "parent_node_id": parent.node_id if parent else None,
        "parent_item": parent.item if parent else None,
        "concurrency_key": request.concurrency_key,
        "queue": request.queue,
        "run_id": request.run_id,
    }


_PLAIN = (
    "id",
    "workflow",
    "key",
    "inputs",
    "trigger",
    "trigger_type",
    "requester",
    "concurrency_key",
    "queue",
    "run_id",
    "created_at",
    "closed_at",
)

_ACCEPT = text("""
    INSERT INTO penstock.run_request
        (id, workflow, key, inputs, trigger, trigger_type, trust, requester, parent_run_id, parent_node_id,
         parent_item, concurrency_key, queue, run_id)
    VALUES (:id, :workflow, :key, CAST(:inputs AS jsonb), CAST(:trigger AS jsonb), :trigger_type, :trust,
            :requester, :parent_run_id, :parent_node_id, :parent_item, :concurrency_key, :queue, :run_id)
    ON CONFLICT DO NOTHING
    RETURNING *
""")
_EARLIER = text("""
    SELECT * FROM penstock.run_request
    WHERE id = :id OR (workflow = :workflow AND key = :key) ORDER BY id = :id DESC LIMIT 1
""")
_ACTIVE = text("""
    SELECT request.* FROM penstock.run_request AS request
    LEFT JOIN penstock.run AS run ON run.id = request.run_id
    WHERE request.workflow = :workflow AND request.concurrency_key = :concurrency_key
        AND request.closed_at IS NULL AND NOT coalesce(penstock.run_ended(run.state), false)
    ORDER BY request.created_at, request.id
""")
_SET_RUN = text("""
    UPDATE penstock.run_request SET run_id = :run_id
    WHERE id = :id AND (run_id IS NULL OR run_id = :run_id) RETURNING id
""")
_GET = text("SELECT * FROM penstock.run_request WHERE id = :id")
_UNSTARTED = text("""
    SELECT * FROM penstock.run_request
    WHERE run_id IS NULL AND closed_at IS NULL
        AND created_at < now() - make_interval(secs => CAST(:older_than_s AS float))
    ORDER BY created_at, id
""")
_CLOSE = text("""
    UPDATE penstock.run_request SET closed_at = coalesce(closed_at, now()) WHERE id = :id RETURNING id
""")
_CHILDREN = text("""
    SELECT request.run_id, request.id AS request_id, request.parent_node_id AS node_id,
           coalesce(request.parent_item, '') AS item, run.state, run.outputs, run.error, run.message,
           request.key
    FROM penstock.run_request AS request LEFT JOIN penstock.run AS run ON run.id = request.run_id
    WHERE request.parent_run_id = :run_id ORDER BY request.created_at, request.id
""")
