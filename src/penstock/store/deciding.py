"""Requests for approval are decided, by one person after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.errors import (
    AlreadyDecided,
    ApprovalClosed,
    ApprovalError,
    InputInvalid,
    PenstockError,
    StaleDecision,
)
from penstock.store.approval_rows import ApprovalRequest, Decision
from penstock.store.database import Database
from penstock.store.states import ApprovalState, Verdict
from penstock.store.votes import (
    Judge,
    Said,
    close_request,
    known_request,
    lock_run_of,
    note_refusal,
    note_vote,
    write_vote,
)

__all__ = ["closed_error", "decide", "verdict_of"]


async def decide(
    database: Database,
    request_id: UUID,
    said: Said,
    *,
    judge: Judge,
    digest: str | None = None,
    valid_s: float = 86_400.0,
) -> ApprovalRequest:
    """Count a person's decision.

    One rejection rejects, one note sends it back, one change of inputs closes it as edited; an
    approval approves when the judge says that it is enough. The same decision of the same person
    counts once, however often it comes. What is refused leaves a line in the audit chain.

    Args:
        digest: What the person has seen; None when that is not known.
        valid_s: How long an approval may be used, in seconds from now.
    Returns:
        The request with the decision.
    Raises:
        NotFound: There is no such request.
        ApprovalClosed: It is not open any more.
        AlreadyDecided: The person decided otherwise before.
        StaleDecision: The digest is another one.
        PenstockError: The judge says that this person may not say that.
    """

    async def work(connection: AsyncConnection) -> ApprovalRequest | PenstockError:
        await lock_run_of(connection, request_id)
        found = await known_request(connection, request_id)
        earlier = next((known for known in found.decisions if known.person == said.person), None)
        if earlier is not None and _is_same(earlier, said):
            return found
        refused = _refused(found, earlier, said, digest) or judge.refusal(found, said)
        if refused is None:
            return await _count(connection, request_id, said, judge, valid_s=valid_s)
        if found.state is ApprovalState.EXPIRED:
            await connection.execute(_EXPIRE_ONE, {"id": request_id})
        await note_refusal(connection, found, said, refused)
        return refused

    outcome = await database.transact(work)
    if isinstance(outcome, PenstockError):
        raise outcome
    return outcome


async def _count(
    connection: AsyncConnection, request_id: UUID, said: Said, judge: Judge, *, valid_s: float
) -> ApprovalRequest:
    """Write a decision down and close the request if that settles it."""
    await write_vote(connection, request_id, said)
    state = _state_after(said.verdict, said.edits)
    if state is None:
        enough = judge.met(await known_request(connection, request_id))
        state = ApprovalState.APPROVED if enough else ApprovalState.OPEN
    if state is not ApprovalState.OPEN:
        await close_request(connection, request_id, state, valid_s=valid_s)
    decided = await known_request(connection, request_id)
    await note_vote(connection, decided, said)
    return decided


def verdict_of(decision: str) -> Verdict:
    """Read a decision.

    Raises:
        InputInvalid: It is none.
    """
    try:
        return Verdict(decision)
    except ValueError as error:
        known = ", ".join(verdict.value for verdict in Verdict)
        raise InputInvalid(f"{decision!r} is no decision; give one of {known}") from error


def _is_same(earlier: Decision, said: Said) -> bool:
    return (earlier.decision, earlier.edits, earlier.break_glass) == (
        said.verdict,
        said.edits,
        said.break_glass,
    )


def _refused(
    found: ApprovalRequest, earlier: Decision | None, said: Said, digest: str | None
) -> ApprovalError | None:
    if found.state is not ApprovalState.OPEN:
        return _closed(found)
    if digest is not None and digest != found.digest:
        return StaleDecision(f"{found.title!r} asks for something else than what was decided; look again")
    breaks = said.break_glass and said.verdict is Verdict.APPROVE
    in_advance = earlier is not None and earlier.via == "standing"  # he has not seen this request before
    if earlier is not None and not in_advance and not (breaks and earlier.decision is Verdict.APPROVE):
        return AlreadyDecided(f"{said.person} has decided to {earlier.decision.value} {found.title!r} before")
    return None


def _state_after(verdict: Verdict, edits: Mapping[str, Any] | None) -> ApprovalState | None:
    """Give the state that a decision brings by itself; None when it only counts."""
    if verdict is Verdict.REJECT:
        return ApprovalState.REJECTED
    if verdict is Verdict.SEND_BACK:
        return ApprovalState.SENT_BACK
    return None if edits is None else ApprovalState.EDITED


def closed_error(found: ApprovalRequest) -> ApprovalClosed:
    """Make the error for a request that is not open any more."""
    return _closed(found)


def _closed(found: ApprovalRequest) -> ApprovalClosed:
    people = ", ".join(
        known.person
        for known in found.decisions
        if (_state_after(known.decision, known.edits) or ApprovalState.APPROVED) is found.state
    )
    by = f" by {people}" if people else ""
    state = found.state.value.replace("_", " ")
    return ApprovalClosed(f"{found.title!r} is {state}{by}", details={"state": found.state.value})


_EXPIRE_ONE = text("""
    WITH expired AS (
        UPDATE penstock.approval_request SET state = 'expired', decided_at = now(), next_at = NULL
        WHERE id = :id AND state = 'open' AND expires_at <= now()
        RETURNING id, run_id, node_id, digest
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, 'approval.expired', node_id, jsonb_build_object('id', id) FROM expired
    )
    SELECT run_id, penstock.signal(run_id),
           penstock.audit('request.expired', run_id, id, NULL, jsonb_build_object('digest', digest))
    FROM expired
""")
