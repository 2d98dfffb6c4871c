"""Requests for approval are opened, by the worker whose node waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.store.approval_rows import ApprovalRequest
from penstock.store.database import Database
from penstock.store.documents import encode, plain_text
from penstock.store.fencing import lock_run
from penstock.store.states import ApprovalState, Verdict
from penstock.store.votes import Judge, Said, close_request, known_request, note_vote, write_vote

__all__ = ["Ask", "open_request"]


@dataclass(frozen=True)
class Ask:
    """What is asked for."""

    node_id: str
    digest: str
    title: str
    card: Mapping[str, Any]
    item: str = ""
    agent: str = ""
    targets: Sequence[str] = ()
    terms: Mapping[str, Any] | None = None
    edits: Mapping[str, Any] | None = None
    expires_in_s: float | None = None
    valid_s: float = 86_400.0
    """How long an approval may be used, in seconds."""
    next_in_s: float | None = None
    """When a reminder or the like is due first, in seconds from now."""
    next_at: datetime | None = None
    """The same for what is due at a moment that is known; the earlier of both counts."""


async def open_request(
    database: Database,
    ask: Ask,
    *,
    run_id: UUID,
    token: int,
    epoch: int,
    judge: Judge,
    given: Sequence[Said] = (),
    standing: Sequence[UUID] = (),
    because: str = "what would run has changed",
) -> ApprovalRequest:
    """Ask for approval of a node, or find the request that already does.

    A request in the same epoch with the same digest and terms that is open, or was approved and
    can still be used, is given back. Any other that is open or unused becomes void.

    Args:
        given: Approvals that count from the beginning.
        standing: Standing grants, each one use of which is one more approval.
        because: Why a request that becomes void does so.
    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken it over.
    """
    values = _values(ask, run_id, epoch=epoch, because=because)

    async def work(connection: AsyncConnection) -> ApprovalRequest:
        await lock_run(connection, run_id, token)
        same = (await connection.execute(_STANDING, values)).scalar()
        found = None if same is None else await known_request(connection, same)
        # What stands as approved without enough decisions was not approved by people.
        if found is not None and (found.state is ApprovalState.OPEN or judge.met(found)):
            return found
        # The rows of standing grants are locked before the head of the audit chain, and in one order.
        taken = {one: vote for one in sorted(standing) if (vote := await _from_standing(connection, one))}
        await connection.execute(_VOID, values)
        await connection.execute(_OPEN, values)
        return await _begin_with(connection, values["id"], ask, given, taken, judge=judge)

    return await database.transact(work)


async def _begin_with(
    connection: AsyncConnection,
    request_id: UUID,
    ask: Ask,
    given: Sequence[Said],
    taken: Mapping[UUID, Said],
    *,
    judge: Judge,
) -> ApprovalRequest:
    """Count the approvals that a new request begins with, and close it if they are enough."""
    votes = [*given, *taken.values()]
    for vote in votes:
        await write_vote(connection, request_id, vote)
    opened = await known_request(connection, request_id)
    if votes and judge.met(opened):
        await close_request(connection, request_id, ApprovalState.APPROVED, valid_s=ask.valid_s)
    for one in taken:
        await connection.execute(_NOTE_STANDING, {"id": request_id, "standing": one})
    for vote in votes:
        await note_vote(connection, opened, vote)
    return await known_request(connection, request_id) if votes else opened


def _values(ask: Ask, run_id: UUID, *, epoch: int, because: str) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "run_id": run_id,
        "epoch": epoch,
        "node_id": ask.node_id,
        "item": ask.item,
        "agent": ask.agent,
        "targets": [plain_text(target) for target in ask.targets],
        "digest": ask.digest,
        "title": plain_text(ask.title),
        "card": encode(ask.card),
        "terms": encode(ask.terms or {}),
        "edits": None if ask.edits is None else encode(ask.edits),
        "expires_in_s": ask.expires_in_s,
        "next_in_s": ask.next_in_s,
        "next_at": ask.next_at,
        "because": because,
    }


async def _from_standing(connection: AsyncConnection, standing_id: UUID) -> Said | None:
    """Take one use of a standing grant; None when it has none left, has ended or was revoked."""
    row = (await connection.execute(_TAKE_STANDING, {"id": standing_id})).mappings().first()
    if row is None:
        return None
    comment = f"standing grant {standing_id}, use {row['uses']} of {row['max_uses']}"
    claims = frozenset(row["claims"])
    return Said(row["person"], Verdict.APPROVE, "standing", claims=claims, comment=comment)


_STANDING = text("""
    SELECT id FROM penstock.approval_request
    WHERE run_id = :run_id AND node_id = :node_id AND item = :item
        AND epoch = :epoch AND digest = :digest AND terms = CAST(:terms AS jsonb) AND used_at IS NULL
        AND (state = 'open' AND (expires_at IS NULL OR expires_at > now())
             OR state = 'approved' AND usable_until > now())
    ORDER BY round DESC LIMIT 1
""")
_VOID = text("""
    WITH gone AS (
        UPDATE penstock.approval_request SET
            state = CASE WHEN state = 'open' AND expires_at <= now() THEN 'expired' ELSE 'void' END,
            decided_at = coalesce(decided_at, now()),
            reason = CASE WHEN state = 'open' AND expires_at <= now() OR usable_until <= now()
                              THEN 'its time ran out'
                          WHEN epoch <> :epoch THEN 'the run was opened again'
                          ELSE CAST(:because AS text) END
        WHERE run_id = :run_id AND node_id = :node_id AND item = :item AND used_at IS NULL
            AND state IN ('open', 'approved')
        RETURNING id, run_id, node_id, state, reason, digest
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.' || state, node_id, jsonb_build_object('id', id, 'reason', reason) FROM gone
    )
    SELECT penstock.audit('request.' || state, run_id, id, NULL,
                          jsonb_build_object('reason', reason, 'digest', digest))
    FROM gone ORDER BY id
""")
_OPEN = text("""
    WITH opened AS (
        INSERT INTO penstock.approval_request
            (id, run_id, node_id, item, epoch, round, state, digest, title, card, agent, targets, terms,
             edits, expires_at, next_at)
        SELECT :id, CAST(:run_id AS uuid), CAST(:node_id AS text), CAST(:item AS text), :epoch,
               coalesce(max(known.round), 0) + 1, 'open', CAST(:digest AS text), CAST(:title AS text),
               CAST(:card AS jsonb), CAST(:agent AS text), CAST(:targets AS text[]), CAST(:terms AS jsonb),
               CAST(:edits AS jsonb), now() + make_interval(secs => CAST(:expires_in_s AS float)),
               least(CAST(:next_at AS timestamptz),
                     now() + make_interval(secs => CAST(:next_in_s AS float)))
        FROM penstock.approval_request AS known
        WHERE known.run_id = :run_id AND known.node_id = :node_id AND known.item = :item
        RETURNING id, run_id, node_id, item, round, digest, title, agent, targets, terms, edits, expires_at
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.requested', node_id,
               jsonb_strip_nulls(jsonb_build_object('id', id, 'item', nullif(item, '')))
        FROM opened
    ), notice AS (
        INSERT INTO penstock.approval_notice (request_id, kind) SELECT id, 'asked' FROM opened
    )
    SELECT penstock.audit('request.opened', run_id, id, NULL, jsonb_strip_nulls(jsonb_build_object(
               'node', node_id, 'item', nullif(item, ''), 'round', round, 'digest', digest, 'title', title,
               'agent', agent, 'targets', targets, 'terms', terms, 'edits', edits, 'expires_at', expires_at)))
    FROM opened
""")
_TAKE_STANDING = text("""
    UPDATE penstock.standing_grant SET uses = uses + 1
    WHERE id = :id AND uses < max_uses AND revoked_at IS NULL AND expires_at > now()
    RETURNING person, claims, uses, max_uses
""")
_NOTE_STANDING = text("""
    SELECT penstock.audit('standing.used', request.run_id, request.id, standing.person, jsonb_build_object(
        'id', standing.id, 'uses', standing.uses, 'max_uses', standing.max_uses, 'digest', request.digest))
    FROM penstock.approval_request AS request, penstock.standing_grant AS standing
    WHERE request.id = :id AND standing.id = :standing
""")
