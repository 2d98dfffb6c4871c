"""Budgets: how many changes a workflow may make within a time, in all or per target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.store.database import Database
from penstock.store.fencing import lock_name, lock_run


async def reserve(
    database: Database,
    *,
    run_id: UUID,
    token: int,
    node_id: str,
    item: str,
    epoch: int,
    workflow: str,
    targets: Sequence[str],
    per_target: bool,
    limit: int,
    window_s: float,
) -> tuple[str, ...]:
    """Count a change that is about to be made, all of it or nothing.

    The same node (or item) of a run counts once per epoch, however often it is tried.

    Args:
        targets: What the change touches.
        per_target: Whether every target has a budget of its own; otherwise a change counts
            one, whatever it touches.
        limit: Changes that are allowed within `window_s` seconds.
    Returns:
        What is over its budget: targets, or the workflow's name; empty when the change counts.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken it over.
    """
    values: dict[str, Any] = {
        "run_id": run_id,
        "node_id": node_id,
        "item": item,
        "epoch": epoch,
        "workflow": workflow,
        # A change that names nothing counts against the workflow all the same.
        "targets": sorted(set(targets)) or [""],
        "limit": limit,
        "window_s": window_s,
    }

    return await database.transact(
        lambda connection: _reserve(connection, values, token, per_target=per_target)
    )


async def _reserve(
    connection: AsyncConnection, values: Mapping[str, Any], token: int, *, per_target: bool
) -> tuple[str, ...]:
    await lock_name(connection, "budget", values["workflow"])
    await lock_run(connection, values["run_id"], token)
    statement = _TARGETS_OVER if per_target else _WORKFLOW_OVER
    over = tuple((await connection.execute(statement, dict(values))).scalars())
    if not over:
        await connection.execute(_COUNT, dict(values))
    return over


_TARGETS_OVER = text("""
    SELECT wanted.target FROM unnest(CAST(:targets AS text[])) AS wanted (target)
    WHERE wanted.target <> '' AND NOT EXISTS (
        SELECT FROM penstock.mutation
        WHERE run_id = :run_id AND node_id = :node_id AND item = :item AND epoch = :epoch
            AND target = wanted.target)
        AND :limit <= (
            SELECT count(*) FROM penstock.mutation
            WHERE workflow = :workflow AND target = wanted.target
                AND at > now() - make_interval(secs => CAST(:window_s AS float)))
    ORDER BY wanted.target
""")
_WORKFLOW_OVER = text("""
    SELECT CAST(:workflow AS text) WHERE NOT EXISTS (
        SELECT FROM penstock.mutation
        WHERE run_id = :run_id AND node_id = :node_id AND item = :item AND epoch = :epoch)
        AND :limit <= (
            SELECT count(DISTINCT (run_id, node_id, item, epoch)) FROM penstock.mutation
            WHERE workflow = :workflow AND at > now() - make_interval(secs => CAST(:window_s AS float)))
""")
_COUNT = text("""
    INSERT INTO penstock.mutation (run_id, node_id, item, epoch, target, workflow)
    SELECT :run_id, :node_id, :item, :epoch, wanted.target, :workflow
    FROM unnest(CAST(:targets AS text[])) AS wanted (target)
    ON CONFLICT DO NOTHING
""")
