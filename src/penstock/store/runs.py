"""Runs: begun, entered again, ended, opened again, listed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, bindparam, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.errors import LeaseLost, NotFound, StoreError
from penstock.store.database import Database
from penstock.store.documents import encode, plain_text
from penstock.store.events import Event, add_event, events_of
from penstock.store.fencing import fenced, lock_run, lost, unknown
from penstock.store.nodes import Node, nodes_of
from penstock.store.paging import cut, read_cursor, write_cursor
from penstock.store.run_rows import DOCUMENTS, Parent, Run, RunSummary, run_of, summary_of
from penstock.store.states import RunState, Trust
from penstock.store.tables import run
from penstock.store.workflows import get_revision

__all__ = [
    "Entry",
    "Event",
    "Page",
    "Parent",
    "Run",
    "RunSummary",
    "add_event",
    "begin_run",
    "events_of",
    "finish_run",
    "get_run",
    "list_runs",
    "reopen_run",
    "set_run_state",
]


@dataclass(frozen=True)
class Entry:
    """What a worker finds when it enters a run."""

    run: Run
    nodes: tuple[Node, ...]
    """What earlier entries left; empty at the first one."""
    first: bool
    revision_number: int
    suspended: bool
    """Whether it was suspended before this entry."""


@dataclass(frozen=True)
class Page:
    """One page of a listing."""

    runs: tuple[RunSummary, ...]
    cursor: str | None
    """Pass it on to get the next page; None at the end."""


async def begin_run(
    database: Database,
    run_id: UUID,
    *,
    name: str,
    trust: Trust,
    inputs: Mapping[str, Any],
    trigger: Mapping[str, Any],
    agents: Mapping[str, str],
    claimed_by: str,
    worker_id: UUID | None = None,
    request_id: UUID | None = None,
    revision_id: UUID | None = None,
    deployment_id: UUID | None = None,
) -> Entry:
    """Enter a run: the first entry pins revision, inputs and agents, later ones find them.

    Every entry gives the run a new token, so writes of whoever held it before are refused.
    One round trip for a first entry, two for a later one. A run that has ended stays as it
    is; `reopen_run` is for somebody who wants it tried again.

    Args:
        trust: As well as `inputs` and `trigger`, for a run without a request.
        claimed_by: Name of the worker.
        worker_id: The worker, when it is a registered one.
        request_id: The request that the run is for: all that it says holds. One that does not exist,
            is for another workflow or has another run is left aside.
        revision_id: The revision to pin, or
        deployment_id: the Prefect deployment whose current revision to pin.
    Raises:
        NotFound: The run is new, and there is no such revision or deployment.
        LeaseLost: The worker is not registered any more.
    """
    values = {
        "id": run_id,
        "name": plain_text(name),
        "trust": Trust(trust).value,
        "inputs": encode(inputs),
        "trigger": encode(trigger),
        "agents": encode(agents),
        "claimed_by": claimed_by,
        "worker_id": worker_id,
        "request_id": request_id,
        "revision_id": revision_id,
        "deployment_id": deployment_id,
    }
    rows = await _enter(database, values) or await database.fetch(_FIND, {"id": run_id})
    if not rows:
        raise NotFound(f"run {str(run_id)!r}: there is no such revision or deployment to run")
    return await _entry(database, rows[0])


async def set_run_state(
    database: Database,
    run_id: UUID,
    state: RunState,
    *,
    message: str | None = None,
    token: int | None = None,
) -> bool:
    """Note that a run waits or goes on; who holds it does not change.

    Args:
        token: A worker's right to the run; None for a caller that is no worker.
    Returns:
        Whether the run is in that state now; False when it has ended, or when there is no
        token and a worker holds it.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken it over.
    """
    if state.terminal:
        raise StoreError(f"run {str(run_id)!r}: {state.value!r} ends a run; use finish_run")
    values = {"id": run_id, "token": token, "state": state.value, "message": plain_text(message)}
    return _stands(await database.fetch(_SET_STATE, values), run_id, token, state)


async def finish_run(
    database: Database,
    run_id: UUID,
    state: RunState,
    *,
    outputs: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    message: str | None = None,
    token: int | None = None,
) -> bool:
    """End a run: with it its request is closed, its open approvals are withdrawn, its slot is free.

    The run whose node waits for this one is told.

    Args:
        token: A worker's right to the run; None for a caller that is no worker.
    Returns:
        Whether the run is in that state now; False when it had ended otherwise before, or
        when there is no token and a worker holds it.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken it over.
    """
    if not state.terminal:
        raise StoreError(f"run {str(run_id)!r}: {state.value!r} does not end a run; use set_run_state")
    values = {
        "id": run_id,
        "token": token,
        "state": state.value,
        "outputs": None if outputs is None else encode(outputs),
        "error": None if error is None else encode(error),
        "message": plain_text(message),
    }

    async def work(connection: AsyncConnection) -> Sequence[RowMapping]:
        # Locked first, so that what somebody asks for at the same time is seen and withdrawn.
        await lock_run(connection, run_id, None)
        return (await connection.execute(_FINISH, values)).mappings().all()

    return _stands(await database.transact(work), run_id, token, state)


async def reopen_run(
    database: Database,
    run_id: UUID,
    *,
    reset: Collection[tuple[str, str]] = (),
    even_completed: bool = False,
    token: int | None = None,
) -> bool:
    """Set a run that has ended back to running, for anybody to enter; a new epoch begins.

    Approvals of earlier epochs no longer count, and the time that counts against the run's
    timeout starts anew.

    Args:
        reset: The rows of nodes that are to run again, (node, item) with an empty item for a
            node without `foreach`; the others stay as they are.
        even_completed: Whether a run that succeeded is opened too.
        token: The token that the ended run must still have; None for any.
    Returns:
        Whether the run is running now; False when it had succeeded.
    Raises:
        NotFound: There is no such run.
        LeaseLost: The run was opened and ended again meanwhile.
    """
    pairs = sorted(reset)
    values: dict[str, Any] = {
        "id": run_id,
        "token": token,
        "reset_nodes": [node_id for node_id, _ in pairs],
        "reset_items": [item for _, item in pairs],
        "even_completed": even_completed,
    }
    row = fenced(await database.fetch(_REOPEN, values), run_id)[0]
    return row["changed"] or row["state"] == RunState.RUNNING


async def get_run(database: Database, run_id: UUID) -> Run:
    """Get a run.

    Raises:
        NotFound: There is none.
    """
    rows = await database.fetch(_GET, {"id": run_id})
    if not rows:
        raise unknown(run_id)
    return run_of(rows[0])


async def list_runs(
    database: Database,
    *,
    workflow: str | None = None,
    states: Sequence[RunState] = (),
    limit: int = 50,
    cursor: str | None = None,
) -> Page:
    """List runs, newest first.

    Args:
        states: Only runs in one of these; empty means all.
        limit: Runs per page, at least 1.
        cursor: `Page.cursor` of the page before.
    Raises:
        InputInvalid: The cursor is not one of ours.
    """
    wanted = _SUMMARY.order_by(run.c.created_at.desc(), run.c.id.desc()).limit(limit + 1)
    if workflow is not None:
        wanted = wanted.where(run.c.workflow == workflow)
    if states:
        wanted = wanted.where(run.c.state.in_([state.value for state in states]))
    if cursor is not None:
        wanted = wanted.where(tuple_(run.c.created_at, run.c.id) < tuple_(*read_cursor(cursor)))
    runs, last = cut([summary_of(row) for row in await database.fetch(wanted)], limit)
    return Page(runs, write_cursor(last.created_at, last.id) if last else None)


async def _enter(database: Database, values: Mapping[str, Any]) -> Sequence[RowMapping]:
    try:
        return await database.fetch(_BEGIN, values)
    except StoreError as error:
        if error.details.get("sqlstate") != _NO_SUCH_ROW:
            raise
        raise LeaseLost(f"worker {str(values['worker_id'])!r} is not registered any more") from error


async def _entry(database: Database, row: RowMapping) -> Entry:
    found = run_of(row)
    nodes = () if row["inserted"] else tuple(await nodes_of(database, found.id))
    number = row["revision_number"] or (await get_revision(database, found.revision_id)).number
    return Entry(found, nodes, bool(row["inserted"]), number, row["before"] == RunState.SUSPENDED.value)


def _stands(rows: Sequence[RowMapping], run_id: UUID, token: int | None, state: RunState) -> bool:
    if not rows:
        raise unknown(run_id)
    if not rows[0]["held"] and token is not None:
        raise lost(run_id)
    return rows[0]["changed"] or rows[0]["state"] == state.value


_NO_SUCH_ROW = "23503"
"""SQLSTATE of a foreign key that leads nowhere."""

_SUMMARY = select(*(column for column in run.c if column.name not in DOCUMENTS))
_GET = select(run).where(run.c.id == bindparam("id"))

# A new row has no xmax: that tells a first entry from a later one. The row of the run is
# locked from here to the commit, so a run's events get their ids in the order of the commits.
# A worker that lost the run was busy with it no longer than its lease lasted.
_BEGIN = text("""
    WITH pinned AS (
        SELECT id, workflow FROM penstock.workflow_revision WHERE id = coalesce(
            (SELECT revision_id FROM penstock.run WHERE id = :id),
            CAST(:revision_id AS uuid),
            (SELECT revision_id FROM penstock.workflow
             WHERE deployment_id = :deployment_id AND deleted_at IS NULL))
    ), requested AS (
        -- Whoever makes a run in Prefect under the key of somebody else's request gets nothing of it.
        SELECT request.* FROM penstock.run_request AS request JOIN pinned USING (workflow)
        WHERE request.id = CAST(:request_id AS uuid) AND coalesce(request.run_id, :id) = :id
    ), entered AS (
        INSERT INTO penstock.run AS run
            (id, workflow, revision_id, name, inputs, trigger, trust, agents, state, started_at, claimed_by,
             worker_id, token, entered_at, request_id, requester, trigger_type, parent_run_id,
             parent_node_id, parent_item, concurrency_key)
        SELECT :id, pinned.workflow, pinned.id, :name, coalesce(requested.inputs, CAST(:inputs AS jsonb)),
               coalesce(requested.trigger, CAST(:trigger AS jsonb)),
               coalesce(requested.trust, CAST(:trust AS text)), CAST(:agents AS jsonb), 'running', now(),
               CAST(:claimed_by AS text), CAST(:worker_id AS uuid), 1, now(), requested.id,
               coalesce(requested.requester, 'unknown'), coalesce(requested.trigger_type, 'manual'),
               requested.parent_run_id, requested.parent_node_id, requested.parent_item,
               requested.concurrency_key
        FROM pinned LEFT JOIN requested ON true
        ON CONFLICT (id) DO UPDATE SET
            state = 'running',
            message = NULL,
            claimed_by = excluded.claimed_by,
            worker_id = excluded.worker_id,
            token = run.token + 1,
            active_s = run.active_s + coalesce(greatest(0, extract(epoch FROM least(now(), (
                SELECT expires_at FROM penstock.worker WHERE id = run.worker_id)) - run.entered_at)), 0),
            entered_at = now(),
            started_at = coalesce(run.started_at, now()),
            updated_at = now()
        WHERE NOT penstock.run_ended(run.state)
        RETURNING run.*, xmax = 0 AS inserted
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, data)
        SELECT id, CASE WHEN inserted THEN 'run.started' ELSE 'run.entered' END,
               jsonb_build_object('state', state, 'claimed_by', claimed_by)
        FROM entered
    ), answered AS (
        UPDATE penstock.run_request AS request SET run_id = entered.id FROM entered
        WHERE request.id = entered.request_id AND request.run_id IS NULL
    )
    SELECT entered.*, revision.number AS revision_number,
           (SELECT state FROM penstock.run WHERE id = :id) AS before  -- as it was before this statement
    FROM entered LEFT JOIN penstock.workflow_revision AS revision ON revision.id = entered.revision_id
""")

_FIND = text("""
    SELECT run.*, false AS inserted, revision.number AS revision_number, run.state AS before
    FROM penstock.run AS run JOIN penstock.workflow_revision AS revision ON revision.id = run.revision_id
    WHERE run.id = :id
""")

# Without a token a run can be changed only while no worker holds it.
_SET_STATE = text("""
    WITH locked AS (
        SELECT id, state, request_id, parent_run_id, CASE WHEN CAST(:token AS bigint) IS NULL
               THEN worker_id IS NULL ELSE token = CAST(:token AS bigint) END AS held
        FROM penstock.run WHERE id = :id FOR NO KEY UPDATE
    ), changed AS (
        UPDATE penstock.run AS run SET state = :state, message = :message, updated_at = now()
        FROM locked
        WHERE run.id = locked.id AND locked.held AND NOT penstock.run_ended(run.state)
            AND (run.state <> :state OR run.message IS DISTINCT FROM :message)
        RETURNING run.id, run.state, run.message
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, data)
        SELECT id, 'run.' || state, jsonb_strip_nulls(jsonb_build_object('message', message)) FROM changed
    )
    SELECT locked.held, locked.state, changed.id IS NOT NULL AS changed
    FROM locked LEFT JOIN changed ON true
""")

_FINISH = text("""
    WITH locked AS (
        SELECT id, state, request_id, parent_run_id, CASE WHEN CAST(:token AS bigint) IS NULL
               THEN worker_id IS NULL ELSE token = CAST(:token AS bigint) END AS held
        FROM penstock.run WHERE id = :id FOR NO KEY UPDATE
    ), changed AS (
        UPDATE penstock.run AS run SET
            state = :state, message = :message, ended_at = now(), updated_at = now(),
            outputs = CAST(:outputs AS jsonb), error = CAST(:error AS jsonb),
            token = run.token + CASE WHEN CAST(:token AS bigint) IS NULL THEN 1 ELSE 0 END,
            active_s = run.active_s + coalesce(extract(epoch FROM now() - run.entered_at), 0),
            entered_at = NULL, worker_id = NULL, slot_round = NULL
        FROM locked
        WHERE run.id = locked.id AND locked.held AND NOT penstock.run_ended(run.state)
        RETURNING run.id, run.state, run.message
    ), closed AS (
        UPDATE penstock.run_request AS request SET closed_at = now() FROM changed CROSS JOIN locked
        WHERE request.id = locked.request_id AND request.closed_at IS NULL
    ), withdrawn AS (
        UPDATE penstock.approval_request AS request SET
            state = 'withdrawn', decided_at = now(), reason = 'the run has ended', next_at = NULL
        FROM changed WHERE request.run_id = changed.id AND request.state = 'open'
        RETURNING request.id, request.run_id, request.node_id, request.digest, request.reason
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.withdrawn', node_id, jsonb_build_object('id', id) FROM withdrawn
        UNION ALL
        SELECT id, 'run.' || state, NULL, jsonb_strip_nulls(jsonb_build_object('message', message))
        FROM changed
    )
    SELECT locked.held, locked.state, changed.id IS NOT NULL AS changed,
           CASE WHEN changed.id IS NOT NULL AND locked.parent_run_id IS NOT NULL
                THEN penstock.signal(locked.parent_run_id) END,
           (SELECT count(penstock.audit('request.withdrawn', run_id, id, NULL,
                                        jsonb_build_object('digest', digest, 'reason', reason)))
            FROM withdrawn)
    FROM locked LEFT JOIN changed ON true
""")

_REOPEN = text("""
    WITH locked AS (
        SELECT id, state, request_id, NOT penstock.run_ended(state) OR CAST(:token AS bigint) IS NULL
               OR token = CAST(:token AS bigint) AS held
        FROM penstock.run WHERE id = :id FOR NO KEY UPDATE
    ), changed AS (
        UPDATE penstock.run AS run SET
            state = 'running', message = NULL, outputs = NULL, error = NULL, ended_at = NULL,
            updated_at = now(), token = run.token + 1, epoch = run.epoch + 1, crashes = 0, active_s = 0,
            cancel_requested_at = NULL, cancelled_by = NULL
        FROM locked
        WHERE run.id = locked.id AND locked.held AND penstock.run_ended(run.state)
            AND (:even_completed OR run.state NOT IN ('completed', 'simulated'))
        RETURNING run.id
    ), opened AS (
        UPDATE penstock.run_request AS request SET closed_at = NULL FROM changed CROSS JOIN locked
        WHERE request.id = locked.request_id
    ), reset AS (
        UPDATE penstock.node AS node SET
            state = 'pending', output = NULL, output_ref = NULL, error = NULL, reason = NULL,
            task_run_id = NULL, started_at = NULL, ended_at = NULL
        FROM changed
        WHERE node.run_id = changed.id AND (node.node_id, node.item) IN (
            SELECT node_id, item FROM unnest(CAST(:reset_nodes AS text[]), CAST(:reset_items AS text[]))
                AS wanted (node_id, item))
        RETURNING node.run_id, node.node_id, node.item
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT id, 'run.reopened', NULL, '{}' FROM changed
        UNION ALL
        SELECT run_id, 'node.reset', node_id, jsonb_strip_nulls(jsonb_build_object('item', nullif(item, '')))
        FROM reset
    )
    SELECT locked.held, locked.state, changed.id IS NOT NULL AS changed
    FROM locked LEFT JOIN changed ON true
""")
