"""Nodes of runs: begun, ended, skipped, always together with the event that says so.

Every write is guarded in the database. What has succeeded is never run again, what has
ended is not changed by the attempt that it ended or by an older one, and a write that
comes twice counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from penstock.errors import StoreError
from penstock.store.database import Database
from penstock.store.documents import encode, plain_text
from penstock.store.fencing import fenced
from penstock.store.states import NodeState


@dataclass(frozen=True)
class Node:
    """A node of a run, or one item of a `foreach` node."""

    run_id: UUID
    node_id: str
    item: str
    """Key of the item; empty for a node without `foreach`."""
    state: NodeState
    attempt: int
    """Counts from 1; 0 when it never ran."""
    output: Any
    output_ref: str | None
    """Where the output lies when it is too large for the row."""
    error: Mapping[str, Any] | None
    reason: str | None
    """Why it was skipped, rejected or withdrawn, for people."""
    task_run_id: UUID | None
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class NodeChange:
    """One change of a node, for `write_nodes`."""

    node_id: str
    state: NodeState
    attempt: int = 0
    item: str = ""
    output: Any = None
    output_ref: str | None = None
    error: Mapping[str, Any] | None = None
    reason: str | None = None
    task_run_id: UUID | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Node and item."""
        return self.node_id, self.item


async def start_node(
    database: Database,
    run_id: UUID,
    node_id: str,
    *,
    attempt: int,
    item: str = "",
    task_run_id: UUID | None = None,
    token: int | None = None,
) -> bool:
    """Note that an attempt begins.

    Args:
        attempt: 1 for the first one; one more than the stored attempt for another.
        token: A worker's right to the run; None for a caller that is no worker.
    Returns:
        Whether the attempt may run; False when the node has succeeded or a newer attempt
        has begun.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken the run over.
    """
    change = NodeChange(node_id, NodeState.RUNNING, attempt, item, task_run_id=task_run_id)
    return bool(await write_nodes(database, run_id, [change], token=token))


async def finish_node(
    database: Database,
    run_id: UUID,
    node_id: str,
    state: NodeState,
    *,
    attempt: int,
    item: str = "",
    output: Any = None,
    output_ref: str | None = None,
    error: Mapping[str, Any] | None = None,
    reason: str | None = None,
    task_run_id: UUID | None = None,
    token: int | None = None,
) -> bool:
    """Note how an attempt ended, with its output; a node that was never begun may end as well.

    An attempt that was being verified and ends without an output keeps the one it has.

    Args:
        token: A worker's right to the run; None for a caller that is no worker.
    Returns:
        Whether this is what stands in the database now; False when the attempt had ended
        otherwise, or a newer one has begun.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken the run over.
    """
    if not state.terminal:
        raise StoreError(f"node {node_id!r}: {state.value!r} does not end a node")
    change = NodeChange(node_id, state, attempt, item, output, output_ref, error, reason, task_run_id)
    return bool(await write_nodes(database, run_id, [change], token=token))


async def skip_node(
    database: Database,
    run_id: UUID,
    node_id: str,
    *,
    reason: str,
    item: str = "",
    attempt: int = 0,
    token: int | None = None,
) -> bool:
    """Note that a node does not run, and why.

    Args:
        attempt: 0 for a node that never ran; otherwise the attempt that is not made.
        token: A worker's right to the run; None for a caller that is no worker.
    Returns:
        Whether it stands as skipped; False when it has run.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken the run over.
    """
    change = NodeChange(node_id, NodeState.SKIPPED, attempt, item, reason=reason)
    return bool(await write_nodes(database, run_id, [change], token=token))


async def write_nodes(
    database: Database, run_id: UUID, changes: Sequence[NodeChange], *, token: int | None = None
) -> frozenset[tuple[str, str]]:
    """Write several changes of one run in one round trip, all or none of them visible.

    Args:
        changes: At most one per node and item.
        token: A worker's right to the run; None for a caller that is no worker.
    Returns:
        The keys (node, item) of the changes that stand now; the others were refused.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken the run over.
    """
    if not changes:
        return frozenset()
    if len({change.key for change in changes}) < len(changes):
        raise StoreError(f"run {str(run_id)!r}: two changes of one node cannot be written at once")
    values = {"run_id": run_id, "changes": encode(_rows(changes)), "token": token}
    rows = fenced(await database.fetch(_WRITE, values), run_id)
    stand = frozenset((row["node_id"], row["item"]) for row in rows if row["node_id"] is not None)
    left = [change for change in changes if change.key not in stand]
    return stand | await _standing(database, run_id, left) if left else stand


async def nodes_of(database: Database, run_id: UUID) -> list[Node]:
    """List the nodes of a run that something is known of, by node and item."""
    rows = await database.fetch(_NODES, {"run_id": run_id})
    return [_node(dict(row)) for row in rows]


def _node(columns: dict[str, Any]) -> Node:
    columns["state"] = NodeState(columns["state"])
    return Node(**columns)


async def _standing(
    database: Database, run_id: UUID, changes: Sequence[NodeChange]
) -> frozenset[tuple[str, str]]:
    """Find the changes that were refused because they had been written before."""
    rows = await database.fetch(_STANDING, {"run_id": run_id, "changes": encode(_rows(changes))})
    return frozenset((row["node_id"], row["item"]) for row in rows)


def _rows(changes: Sequence[NodeChange]) -> list[dict[str, Any]]:
    return [
        {
            "node_id": change.node_id,
            "item": change.item,
            "state": change.state.value,
            "ended": change.state.terminal,
            "attempt": change.attempt,
            "output": change.output,
            "output_ref": change.output_ref,
            "error": change.error,
            "reason": plain_text(change.reason),
            "task_run_id": None if change.task_run_id is None else str(change.task_run_id),
        }
        for change in changes
    ]


_NODES = text("""
    SELECT run_id, node_id, item, state, attempt, output, output_ref, error, reason, task_run_id,
           started_at, ended_at
    FROM penstock.node WHERE run_id = :run_id ORDER BY node_id, item
""")

# The run's row is locked first: a run's events then get their ids in the order of the commits.
# The guard, in words: what ran may be undone; what succeeded, was undone or is being verified
# is not run again; otherwise a newer attempt may follow; the same attempt may go on while it
# has not ended, a waiting one to another way of waiting too; only what was busy is interrupted.
_WRITE = text("""
    WITH locked AS (
        SELECT id, CAST(:token AS bigint) IS NULL OR token = CAST(:token AS bigint) AS held
        FROM penstock.run WHERE id = :run_id FOR NO KEY UPDATE
    ), written AS (
        INSERT INTO penstock.node AS node
            (run_id, node_id, item, state, attempt, output, output_ref, error, reason, task_run_id,
             started_at, ended_at)
        SELECT locked.id, change.node_id, change.item, change.state, change.attempt, change.output,
               change.output_ref, change.error, change.reason, change.task_run_id,
               CASE WHEN change.attempt > 0 THEN now() END, CASE WHEN change.ended THEN now() END
        FROM locked CROSS JOIN jsonb_to_recordset(CAST(:changes AS jsonb)) AS change
        (node_id text, item text, state text, ended boolean, attempt integer, output jsonb,
         output_ref text, error jsonb, reason text, task_run_id uuid)
        WHERE locked.held
        ON CONFLICT (run_id, node_id, item) DO UPDATE SET
            state = excluded.state,
            attempt = excluded.attempt,
            output = CASE WHEN excluded.state = 'undone' OR (node.state = 'verifying'
                     AND excluded.output IS NULL AND excluded.output_ref IS NULL)
                     THEN node.output ELSE excluded.output END,
            output_ref = CASE WHEN excluded.state = 'undone' OR (node.state = 'verifying'
                         AND excluded.output IS NULL AND excluded.output_ref IS NULL)
                         THEN node.output_ref ELSE excluded.output_ref END,
            error = excluded.error,
            reason = excluded.reason,
            task_run_id = coalesce(excluded.task_run_id, CASE
                WHEN node.attempt = excluded.attempt THEN node.task_run_id END),
            started_at = CASE WHEN node.attempt = excluded.attempt
                         AND node.state NOT IN ('pending', 'waiting_approval')
                         THEN node.started_at ELSE excluded.started_at END,
            ended_at = excluded.ended_at
        WHERE CASE
            WHEN excluded.state = 'undone' THEN node.attempt = excluded.attempt
                AND node.state IN ('succeeded', 'failed', 'running', 'verifying', 'interrupted')
            WHEN excluded.state = 'interrupted' THEN
                node.attempt = excluded.attempt AND node.state IN ('running', 'verifying')
            WHEN node.state IN ('succeeded', 'undone') THEN false
            WHEN node.state = 'verifying' THEN node.attempt = excluded.attempt
                AND excluded.ended_at IS NOT NULL
            WHEN excluded.attempt > node.attempt THEN true
            ELSE excluded.attempt = node.attempt AND (
                (node.state IN ('pending', 'waiting_approval', 'waiting') AND excluded.state <> node.state)
                OR (node.state = 'waiting_approval' AND excluded.state = node.state
                    AND excluded.reason IS DISTINCT FROM node.reason)
                OR (node.state = 'running' AND excluded.state NOT IN ('pending', 'running')))
        END
        RETURNING node_id, item, state, attempt, reason
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT locked.id, 'node.' || state, node_id, jsonb_strip_nulls(jsonb_build_object(
            'attempt', attempt, 'item', nullif(item, ''), 'reason', reason))
        FROM locked CROSS JOIN written
    )
    SELECT locked.held, written.node_id, written.item FROM locked LEFT JOIN written ON true
""")

_STANDING = text("""
    SELECT node.node_id, node.item FROM penstock.node AS node
    JOIN jsonb_to_recordset(CAST(:changes AS jsonb)) AS change
        (node_id text, item text, state text, ended boolean, attempt integer, output jsonb,
         output_ref text, error jsonb, reason text, task_run_id uuid)
        ON change.node_id = node.node_id AND change.item = node.item
        AND change.state = node.state AND change.attempt = node.attempt
        AND (change.output IS NOT DISTINCT FROM node.output
             OR (change.output IS NULL AND change.state <> 'succeeded'))
        AND (change.task_run_id IS NULL OR change.task_run_id = node.task_run_id)
    WHERE node.run_id = :run_id
""")
