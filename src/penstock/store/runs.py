"""Runs: begun, entered again, ended, listed; and their events."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select, text, tuple_

from penstock.errors import InputInvalid, NotFound, StoreError
from penstock.store.database import Database
from penstock.store.documents import encode, plain_text
from penstock.store.nodes import Node, nodes_of
from penstock.store.states import RunState, Trust
from penstock.store.tables import run


@dataclass(frozen=True)
class RunSummary:
    """A run without its documents, as listings show it."""

    id: UUID
    """Prefect's flow run id."""
    workflow: str
    revision_id: UUID
    name: str
    trust: Trust
    state: RunState
    message: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    claimed_by: str | None
    """The worker that entered it last."""
    updated_at: datetime


@dataclass(frozen=True)
class Run(RunSummary):
    """A run with its documents."""

    inputs: Mapping[str, Any]
    trigger: Mapping[str, Any]
    agents: Mapping[str, str]
    """Versions of the agents, pinned at the first entry, {name: version}."""
    outputs: Mapping[str, Any] | None
    error: Mapping[str, Any] | None


@dataclass(frozen=True)
class Entry:
    """What a worker finds when it enters a run."""

    run: Run
    nodes: tuple[Node, ...]
    """What earlier entries left; empty at the first one."""
    first: bool


@dataclass(frozen=True)
class Page:
    """One page of a listing."""

    runs: tuple[RunSummary, ...]
    cursor: str | None
    """Pass it on to get the next page; None at the end."""


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
    revision_id: UUID | None = None,
    deployment_id: UUID | None = None,
) -> Entry:
    """Enter a run: the first entry pins revision, inputs and agents, later ones find them.

    One round trip for a first entry, two for a later one. A run that has ended stays as it
    is; `reopen_run` is for somebody who wants it tried again.

    Args:
        claimed_by: Name of the worker.
        revision_id: The revision to pin, or
        deployment_id: the Prefect deployment whose current revision to pin.
    Raises:
        NotFound: The run is new, and there is no such revision or deployment.
    """
    values = {
        "id": run_id,
        "name": plain_text(name),
        "trust": Trust(trust).value,
        "inputs": encode(inputs),
        "trigger": encode(trigger),
        "agents": encode(agents),
        "claimed_by": claimed_by,
        "revision_id": revision_id,
        "deployment_id": deployment_id,
    }
    rows = await database.fetch(_BEGIN, values)
    if not rows:
        raise NotFound(f"run {str(run_id)!r}: there is no such revision or deployment to run")
    columns = dict(rows[0])
    first = bool(columns.pop("inserted"))
    return Entry(_run(columns), () if first else tuple(await nodes_of(database, run_id)), first)


async def set_run_state(
    database: Database, run_id: UUID, state: RunState, *, message: str | None = None
) -> bool:
    """Note that a run waits or goes on.

    Returns:
        Whether the run is in that state now; False when it has ended.
    """
    if state.terminal:
        raise StoreError(f"run {str(run_id)!r}: {state.value!r} ends a run; use finish_run")
    return await _write_state(database, run_id, state, message=message)


async def finish_run(
    database: Database,
    run_id: UUID,
    state: RunState,
    *,
    outputs: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    message: str | None = None,
) -> bool:
    """End a run.

    Returns:
        Whether the run is in that state now; False when it had ended otherwise before.
    """
    if not state.terminal:
        raise StoreError(f"run {str(run_id)!r}: {state.value!r} does not end a run; use set_run_state")
    return await _write_state(database, run_id, state, outputs=outputs, error=error, message=message)


async def reopen_run(database: Database, run_id: UUID) -> bool:
    """Set a run that ended without success back to running; its nodes stay as they are.

    Returns:
        Whether the run is running now; False when it had succeeded.
    """
    rows = await database.fetch(_REOPEN, {"id": run_id})
    return bool(rows) or await _is_in_state(database, run_id, RunState.RUNNING)


async def get_run(database: Database, run_id: UUID) -> Run:
    """Get a run.

    Raises:
        NotFound: There is none.
    """
    rows = await database.fetch(_GET, {"id": run_id})
    if not rows:
        raise NotFound(f"there is no run {str(run_id)!r}")
    return _run(dict(rows[0]))


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
        wanted = wanted.where(tuple_(run.c.created_at, run.c.id) < tuple_(*_read_cursor(cursor)))
    rows = await database.fetch(wanted)
    found = [_summary(dict(row)) for row in rows]
    more = len(found) > limit
    runs = tuple(found[:limit])
    return Page(runs, _cursor_after(runs[-1]) if more else None)


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
) -> int:
    """Add an event of the caller's own to a run and give its id.

    It is the one write that is not safe to repeat: after a broken connection it may stand twice.

    Raises:
        NotFound: There is no such run.
    """
    values = {"run_id": run_id, "type": type_, "node_id": node_id, "data": encode(data or {})}
    rows = await database.fetch(_ADD_EVENT, values)
    if not rows:
        raise NotFound(f"there is no run {str(run_id)!r}")
    return int(rows[0]["id"])


async def _write_state(
    database: Database,
    run_id: UUID,
    state: RunState,
    *,
    outputs: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    message: str | None = None,
) -> bool:
    values = {
        "id": run_id,
        "state": state.value,
        "ended": state.terminal,
        "outputs": None if outputs is None else encode(outputs),
        "error": None if error is None else encode(error),
        "message": plain_text(message),
    }
    rows = await database.fetch(_SET_STATE, values)
    return bool(rows) or await _is_in_state(database, run_id, state)


async def _is_in_state(database: Database, run_id: UUID, state: RunState) -> bool:
    rows = await database.fetch(_STATE, {"id": run_id})
    if not rows:
        raise NotFound(f"there is no run {str(run_id)!r}")
    return bool(rows[0]["state"] == state.value)


def _cursor_after(last: RunSummary) -> str:
    return base64.urlsafe_b64encode(json.dumps([last.created_at.isoformat(), str(last.id)]).encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, run_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        return datetime.fromisoformat(created_at), UUID(run_id)
    except (ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise InputInvalid("the cursor is not one that a listing of runs gave out") from error


def _summary(columns: dict[str, Any]) -> RunSummary:
    return RunSummary(**_with_enums(columns))


def _run(columns: dict[str, Any]) -> Run:
    return Run(**_with_enums(columns))


def _with_enums(columns: dict[str, Any]) -> dict[str, Any]:
    return {**columns, "state": RunState(columns["state"]), "trust": Trust(columns["trust"])}


_DOCUMENTS = ("inputs", "trigger", "agents", "outputs", "error")
_SUMMARY = select(*(column for column in run.c if column.name not in _DOCUMENTS))
_GET = select(run).where(run.c.id == bindparam("id"))
_STATE = select(run.c.state).where(run.c.id == bindparam("id"))

# A new row has no xmax: that tells a first entry from a later one. The row of the run is
# locked from here to the commit, so a run's events get their ids in the order of the commits.
_BEGIN = text("""
    WITH pinned AS (
        SELECT id, workflow FROM penstock.workflow_revision WHERE id = coalesce(
            (SELECT revision_id FROM penstock.run WHERE id = :id),
            CAST(:revision_id AS uuid),
            (SELECT revision_id FROM penstock.workflow
             WHERE deployment_id = :deployment_id AND deleted_at IS NULL))
    ), entered AS (
        INSERT INTO penstock.run AS run
            (id, workflow, revision_id, name, inputs, trigger, trust, agents, state, started_at, claimed_by)
        SELECT :id, pinned.workflow, pinned.id, :name, CAST(:inputs AS jsonb), CAST(:trigger AS jsonb),
               :trust, CAST(:agents AS jsonb), 'running', now(), CAST(:claimed_by AS text)
        FROM pinned
        ON CONFLICT (id) DO UPDATE SET
            state = CASE WHEN penstock.run_ended(run.state) THEN run.state ELSE 'running' END,
            message = CASE WHEN penstock.run_ended(run.state) THEN run.message END,
            claimed_by = CASE WHEN penstock.run_ended(run.state) THEN run.claimed_by
                         ELSE excluded.claimed_by END,
            started_at = coalesce(run.started_at, now()),
            updated_at = now()
        RETURNING id, workflow, revision_id, name, trust, state, message, created_at, started_at, ended_at,
                  claimed_by, updated_at, inputs, trigger, agents, outputs, error, xmax = 0 AS inserted
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, data)
        SELECT id, CASE WHEN inserted THEN 'run.started' ELSE 'run.entered' END,
               jsonb_build_object('state', state, 'claimed_by', claimed_by)
        FROM entered
    )
    SELECT * FROM entered
""")

_SET_STATE = text("""
    WITH changed AS (
        UPDATE penstock.run SET
            state = :state, message = :message,
            outputs = CAST(:outputs AS jsonb), error = CAST(:error AS jsonb),
            ended_at = CASE WHEN :ended THEN now() END, updated_at = now()
        WHERE id = :id AND NOT penstock.run_ended(state)
            AND (state <> :state OR message IS DISTINCT FROM :message)
        RETURNING id, state, message
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, data)
        SELECT id, 'run.' || state, jsonb_strip_nulls(jsonb_build_object('message', message)) FROM changed
    )
    SELECT id FROM changed
""")

_REOPEN = text("""
    WITH changed AS (
        UPDATE penstock.run SET
            state = 'running', message = NULL, outputs = NULL, error = NULL,
            ended_at = NULL, updated_at = now()
        WHERE id = :id AND penstock.run_ended(state) AND state NOT IN ('completed', 'simulated')
        RETURNING id
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type) SELECT id, 'run.reopened' FROM changed
    )
    SELECT id FROM changed
""")

_EVENTS = text("""
    SELECT id, run_id, at, type, node_id, data FROM penstock.run_event
    WHERE run_id = :run_id AND id > :after_id ORDER BY id LIMIT :limit
""")

_ADD_EVENT = text("""
    WITH locked AS (
        SELECT id FROM penstock.run WHERE id = :run_id FOR NO KEY UPDATE
    )
    INSERT INTO penstock.run_event (run_id, type, node_id, data)
    SELECT id, CAST(:type AS text), CAST(:node_id AS text), CAST(:data AS jsonb) FROM locked
    RETURNING id
""")
