"""Requests for approval, the decisions about them, and the grants that come of it.

A request is for one node (or item) of one run and for exactly what its digest stands for. It
stays open until enough people approved, one rejected or sent it back, its time ran out, or the
run no longer wants to know. A worker runs a gated node only after `use_grant` said so.

Who may decide, and when it is enough, is not for the store to know: a `Judge` says so, inside
the transaction that holds the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.store.approval_rows import (
    ApprovalPage,
    ApprovalRequest,
    Decision,
    PastUse,
    alike_of,
    get_approval,
    latest_request,
    list_requests,
    past_uses,
    requests_of_run,
    time_of,
    unknown_request,
    used_request,
)
from penstock.store.asking import Ask, open_request
from penstock.store.database import Database
from penstock.store.deciding import closed_error, decide, verdict_of
from penstock.store.fencing import fenced
from penstock.store.votes import Judge, Said, lock_run_of

__all__ = [
    "ApprovalPage",
    "ApprovalRequest",
    "Ask",
    "Decision",
    "Judge",
    "PastUse",
    "Said",
    "alike_of",
    "closed_error",
    "decide",
    "get_approval",
    "latest_request",
    "list_requests",
    "open_request",
    "past_uses",
    "requests_of_run",
    "time_of",
    "use_grant",
    "used_request",
    "verdict_of",
]


async def use_grant(database: Database, request_id: UUID, *, digest: str, epoch: int, token: int) -> bool:
    """Use an approval, right before what it allows is done.

    Returns:
        Whether the node may run: the request was approved for this digest, in this epoch of
        the run, and the time in which it may be used has not run out. One that was used before
        may be used again in the same epoch, by retries.
    Raises:
        NotFound: There is no such request.
        LeaseLost: Another worker has taken the run over.
    """
    values = {"id": request_id, "digest": digest, "epoch": epoch, "token": token}

    async def work(connection: AsyncConnection) -> Sequence[RowMapping]:
        # Locked first, so that of several uses at once each sees the one before.
        await lock_run_of(connection, request_id)
        return (await connection.execute(_USE, values)).mappings().all()

    rows = await database.transact(work)
    if not rows:
        raise unknown_request(request_id)
    return bool(fenced(rows, rows[0]["run_id"])[0]["granted"])


# The row of the run is always locked before that of a request, and the head of the audit chain last.
_USE = text("""
    WITH locked AS (
        SELECT id, epoch, token = :token AS held FROM penstock.run
        WHERE id = (SELECT run_id FROM penstock.approval_request WHERE id = :id)
    ), used AS (
        UPDATE penstock.approval_request AS request SET used_at = now()
        FROM locked
        WHERE request.id = :id AND locked.held AND locked.epoch = :epoch AND request.epoch = :epoch
            AND request.state = 'approved' AND request.digest = :digest AND request.used_at IS NULL
            AND request.usable_until > now()
        RETURNING request.id, request.run_id, request.node_id, request.digest
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.used', node_id, jsonb_build_object('id', id) FROM used
    )
    SELECT locked.id AS run_id, locked.held, used.id IS NOT NULL OR EXISTS (
               SELECT FROM penstock.approval_request
               WHERE id = :id AND state = 'approved' AND digest = :digest AND epoch = :epoch
                   AND locked.epoch = :epoch AND used_at IS NOT NULL AND usable_until > now()) AS granted,
           CASE WHEN used.id IS NOT NULL THEN penstock.audit('grant.used', used.run_id, used.id, NULL,
               jsonb_build_object('node', used.node_id, 'digest', used.digest, 'epoch', locked.epoch)) END
    FROM locked LEFT JOIN used ON true
""")
