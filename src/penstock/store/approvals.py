"""Requests for approval, the decisions about them, and the grants that come of it.

A request is for one node (or item) of one run and for exactly what its digest stands for. It
stays open until enough people approved, one rejected, its time ran out, or the run no longer
wants to know. A worker runs a gated node only after `use_grant` said so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.errors import AlreadyDecided, ApprovalClosed, InputInvalid
from penstock.store.approval_rows import (
    GET_REQUEST,
    REQUEST,
    ApprovalPage,
    ApprovalRequest,
    Decision,
    get_approval,
    latest_request,
    list_requests,
    request_of,
    unknown_request,
)
from penstock.store.database import Database
from penstock.store.documents import encode, plain_text
from penstock.store.fencing import fenced, lock_run
from penstock.store.states import ApprovalState, Verdict

__all__ = [
    "ApprovalPage",
    "ApprovalRequest",
    "Decision",
    "decide",
    "expire_requests",
    "get_approval",
    "latest_request",
    "list_requests",
    "open_request",
    "set_code",
    "take_code",
    "use_grant",
    "withdraw_requests",
]


async def open_request(
    database: Database,
    *,
    run_id: UUID,
    token: int,
    node_id: str,
    item: str,
    epoch: int,
    digest: str,
    title: str,
    card: Mapping[str, Any],
    required: int,
    expires_in_s: float | None,
) -> ApprovalRequest:
    """Ask for approval of a node, or find the request that already does.

    A request in the same epoch with the same digest that is open, or was approved and can
    still be used, is given back. Any other that is open or unused becomes void.

    Raises:
        NotFound: There is no such run.
        LeaseLost: Another worker has taken it over.
    """
    values: dict[str, Any] = {
        "id": uuid4(),
        "run_id": run_id,
        "node_id": node_id,
        "item": item,
        "epoch": epoch,
        "digest": digest,
        "title": plain_text(title),
        "card": encode(card),
        "required": required,
        "expires_in_s": expires_in_s,
    }

    async def work(connection: AsyncConnection) -> ApprovalRequest:
        await lock_run(connection, run_id, token)
        standing = await _one(connection, _STANDING, values)
        if standing is not None:
            return standing
        await connection.execute(_VOID, values)
        await connection.execute(_OPEN, values)
        return await _known(connection, values["id"])

    return await database.transact(work)


async def use_grant(database: Database, request_id: UUID, *, digest: str, epoch: int, token: int) -> bool:
    """Use an approval, right before what it allows is done.

    Returns:
        Whether the node may run: the request was approved for this digest, in this epoch of
        the run, and its time has not run out. One that was used before may be used again in
        the same epoch, by retries.
    Raises:
        NotFound: There is no such request.
        LeaseLost: Another worker has taken the run over.
    """
    values = {"id": request_id, "digest": digest, "epoch": epoch, "token": token}
    rows = await database.fetch(_USE, values)
    if not rows:
        raise unknown_request(request_id)
    return bool(fenced(rows, rows[0]["run_id"])[0]["granted"])


async def decide(
    database: Database, request_id: UUID, *, person: str, decision: str, comment: str = "", via: str
) -> ApprovalRequest:
    """Count a person's decision: one rejection rejects, `required` approvals approve.

    The same decision of the same person counts once, however often it comes.

    Args:
        decision: `approve` or `reject`.
        via: The way it came, for example `cli`.
    Returns:
        The request with the decision.
    Raises:
        NotFound: There is no such request.
        InputInvalid: That is no decision.
        ApprovalClosed: It is not open any more.
        AlreadyDecided: The person decided otherwise before.
    """
    verdict = _verdict(decision)

    async def work(connection: AsyncConnection) -> tuple[ApprovalRequest, bool]:
        await connection.execute(_LOCK_RUN_OF, {"id": request_id})
        found = await _known(connection, request_id)
        earlier = next((known for known in found.decisions if known.person == person), None)
        if earlier is not None and earlier.decision is verdict:
            return found, True
        if found.state is not ApprovalState.OPEN:
            await connection.execute(_EXPIRE_ONE, {"id": request_id})
            return found, False
        if earlier is not None:
            raise AlreadyDecided(f"{person} has decided to {earlier.decision.value} {found.title!r} before")
        values = {"person": person, "comment": plain_text(comment), "via": via}
        await connection.execute(_VOTE, {**values, **_count(found, verdict)})
        return await _known(connection, request_id), True

    found, counted = await database.transact(work)
    if not counted:
        raise _closed(found)
    return found


async def expire_requests(database: Database) -> list[UUID]:
    """Close every open request whose time has run out and give their runs, by id."""
    return [row["run_id"] for row in await database.fetch(_EXPIRE)]


async def withdraw_requests(database: Database, run_id: UUID, reason: str) -> int:
    """Close every open request of a run, for its answer is no longer wanted; give their number."""
    return len(await database.fetch(_WITHDRAW, {"run_id": run_id, "reason": plain_text(reason)}))


async def set_code(database: Database, request_id: UUID, *, person: str, code_hash: str) -> None:
    """Keep the hash of a one-time code with which one person may decide; an earlier code is dropped.

    Raises:
        NotFound: There is no such request.
        ApprovalClosed: It is not open any more.
    """
    if not await database.fetch(_SET_CODE, {"id": request_id, "person": person, "hash": code_hash}):
        raise _closed(await get_approval(database, request_id))


async def take_code(database: Database, run_id: UUID, code_hash: str) -> tuple[ApprovalRequest, str] | None:
    """Use up a one-time code and give the open request and the person that it stands for.

    Returns:
        None when no open request of the run has this code. As a code is taken once, a call
        whose answer is lost with the connection is followed by None.
    """
    rows = await database.fetch(_TAKE_CODE, {"run_id": run_id, "hash": code_hash})
    if not rows:
        return None
    return await get_approval(database, rows[0]["id"]), rows[0]["code_person"]


def _verdict(decision: str) -> Verdict:
    try:
        return Verdict(decision)
    except ValueError as error:
        raise InputInvalid(f"a decision is 'approve' or 'reject', not {decision!r}") from error


def _count(found: ApprovalRequest, verdict: Verdict) -> dict[str, Any]:
    """Give the verdict and the state that the request has with it."""
    approvals = sum(known.decision is Verdict.APPROVE for known in found.decisions) + 1
    enough = ApprovalState.APPROVED if approvals >= found.required else ApprovalState.OPEN
    state = ApprovalState.REJECTED if verdict is Verdict.REJECT else enough
    return {"id": found.id, "decision": verdict.value, "state": state.value}


async def _known(connection: AsyncConnection, request_id: UUID) -> ApprovalRequest:
    found = await _one(connection, GET_REQUEST, {"id": request_id})
    if found is None:
        raise unknown_request(request_id)
    return found


async def _one(
    connection: AsyncConnection, statement: TextClause, values: Mapping[str, Any]
) -> ApprovalRequest | None:
    row = (await connection.execute(statement, dict(values))).mappings().first()
    return None if row is None else request_of(row)


def _closed(found: ApprovalRequest) -> ApprovalClosed:
    people = ", ".join(known.person for known in found.decisions)
    by = f" by {people}" if people and found.state in {ApprovalState.APPROVED, ApprovalState.REJECTED} else ""
    return ApprovalClosed(f"{found.title!r} is {found.state.value}{by}", details={"state": found.state.value})


_STANDING = text(
    REQUEST
    + """
    WHERE request.run_id = :run_id AND request.node_id = :node_id AND request.item = :item
        AND request.epoch = :epoch AND request.digest = :digest AND request.used_at IS NULL
        AND request.state IN ('open', 'approved')
        AND (request.expires_at IS NULL OR request.expires_at > now())
    ORDER BY request.round DESC LIMIT 1
"""
)
_VOID = text("""
    WITH gone AS (
        UPDATE penstock.approval_request SET
            state = CASE WHEN expires_at <= now() THEN 'expired' ELSE 'void' END,
            decided_at = coalesce(decided_at, now()),
            reason = CASE WHEN expires_at <= now() THEN 'its time ran out'
                          WHEN digest <> :digest THEN 'what would run has changed'
                          ELSE 'the run was opened again' END
        WHERE run_id = :run_id AND node_id = :node_id AND item = :item AND used_at IS NULL
            AND state IN ('open', 'approved')
        RETURNING id, run_id, node_id, state, reason
    )
    INSERT INTO penstock.run_event (run_id, type, node_id, data)
    SELECT run_id, 'approval.' || state, node_id, jsonb_build_object('id', id, 'reason', reason) FROM gone
""")
_OPEN = text("""
    WITH opened AS (
        INSERT INTO penstock.approval_request
            (id, run_id, node_id, item, epoch, round, state, digest, title, card, required, expires_at)
        SELECT :id, CAST(:run_id AS uuid), CAST(:node_id AS text), CAST(:item AS text), :epoch,
               coalesce(max(known.round), 0) + 1, 'open', :digest, :title, CAST(:card AS jsonb), :required,
               now() + make_interval(secs => CAST(:expires_in_s AS float))
        FROM penstock.approval_request AS known
        WHERE known.run_id = :run_id AND known.node_id = :node_id AND known.item = :item
        RETURNING id, run_id, node_id, item
    )
    INSERT INTO penstock.run_event (run_id, type, node_id, data)
    SELECT run_id, 'approval.requested', node_id,
           jsonb_strip_nulls(jsonb_build_object('id', id, 'item', nullif(item, '')))
    FROM opened
""")

# The row of the run is always locked before that of a request.
_USE = text("""
    WITH locked AS (
        SELECT id, epoch, token = :token AS held FROM penstock.run
        WHERE id = (SELECT run_id FROM penstock.approval_request WHERE id = :id) FOR NO KEY UPDATE
    ), used AS (
        UPDATE penstock.approval_request AS request SET used_at = now()
        FROM locked
        WHERE request.id = :id AND locked.held AND locked.epoch = :epoch AND request.epoch = :epoch
            AND request.state = 'approved' AND request.digest = :digest AND request.used_at IS NULL
            AND (request.expires_at IS NULL OR request.expires_at > now())
        RETURNING request.id, request.run_id, request.node_id
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.used', node_id, jsonb_build_object('id', id) FROM used
    )
    SELECT locked.id AS run_id, locked.held, EXISTS (SELECT FROM used) OR EXISTS (
               SELECT FROM penstock.approval_request
               WHERE id = :id AND state = 'approved' AND digest = :digest AND epoch = :epoch
                   AND locked.epoch = :epoch AND used_at IS NOT NULL) AS granted
    FROM locked
""")

_LOCK_RUN_OF = text("""
    SELECT id FROM penstock.run
    WHERE id = (SELECT run_id FROM penstock.approval_request WHERE id = :id) FOR NO KEY UPDATE
""")
_VOTE = text("""
    WITH said AS (
        INSERT INTO penstock.approval_decision (request_id, person, decision, comment, via)
        VALUES (:id, :person, :decision, :comment, :via)
    ), counted AS (
        UPDATE penstock.approval_request SET
            state = :state, decided_at = CASE WHEN :state = 'open' THEN NULL ELSE now() END
        WHERE id = :id
        RETURNING id, run_id, node_id, state
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, CASE WHEN state = 'open' THEN 'approval.voted' ELSE 'approval.decided' END, node_id,
               jsonb_build_object('id', id, 'state', state, 'person', CAST(:person AS text),
                                  'decision', CAST(:decision AS text))
        FROM counted
    )
    SELECT penstock.signal(run_id) FROM counted WHERE state <> 'open'
""")

_EXPIRE_ONE = text("""
    WITH expired AS (
        UPDATE penstock.approval_request SET state = 'expired', decided_at = now()
        WHERE id = :id AND state = 'open' AND expires_at <= now()
        RETURNING id, run_id, node_id
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.expired', node_id, jsonb_build_object('id', id) FROM expired
    )
    SELECT run_id, penstock.signal(run_id) FROM expired
""")
_EXPIRE = text("""
    WITH locked AS (
        SELECT id FROM penstock.run WHERE id IN (
            SELECT run_id FROM penstock.approval_request WHERE state = 'open' AND expires_at <= now())
        ORDER BY id FOR NO KEY UPDATE
    ), expired AS (
        UPDATE penstock.approval_request AS request SET state = 'expired', decided_at = now()
        FROM locked
        WHERE request.run_id = locked.id AND request.state = 'open' AND request.expires_at <= now()
        RETURNING request.id, request.run_id, request.node_id
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.expired', node_id, jsonb_build_object('id', id) FROM expired
    )
    SELECT run_id, penstock.signal(run_id) FROM (SELECT DISTINCT run_id FROM expired) AS runs ORDER BY run_id
""")
_WITHDRAW = text("""
    WITH locked AS (
        SELECT id FROM penstock.run WHERE id = :run_id FOR NO KEY UPDATE
    ), withdrawn AS (
        UPDATE penstock.approval_request AS request SET
            state = 'withdrawn', decided_at = now(), reason = :reason
        FROM locked WHERE request.run_id = locked.id AND request.state = 'open'
        RETURNING request.id, request.run_id, request.node_id, request.reason
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.withdrawn', node_id, jsonb_build_object('id', id, 'reason', reason)
        FROM withdrawn
    )
    SELECT id, penstock.signal(run_id) FROM withdrawn
""")

_SET_CODE = text("""
    UPDATE penstock.approval_request SET code_hash = :hash, code_person = :person
    WHERE id = :id AND state = 'open' AND (expires_at IS NULL OR expires_at > now()) RETURNING id
""")
# Of several that come with one code, all but the first find it gone when they get the lock.
_TAKE_CODE = text("""
    WITH found AS (
        SELECT id, code_person FROM penstock.approval_request
        WHERE run_id = :run_id AND code_hash = :hash AND state = 'open'
            AND (expires_at IS NULL OR expires_at > now())
        FOR UPDATE
    )
    UPDATE penstock.approval_request AS request SET code_hash = NULL, code_person = NULL
    FROM found WHERE request.id = found.id
    RETURNING request.id, found.code_person
""")
