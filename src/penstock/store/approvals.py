"""Requests for approval, the decisions about them, and the grants that come of it.

A request is for one node (or item) of one run and for exactly what its digest stands for. It
stays open until enough people approved, one rejected or sent it back, its time ran out, or the
run no longer wants to know. A worker runs a gated node only after `use_grant` said so.

Who may decide, and when it is enough, is not for the store to know: a `Judge` says so, inside
the transaction that holds the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID, uuid4

from sqlalchemy import RowMapping, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.errors import (
    AlreadyDecided,
    ApprovalClosed,
    ApprovalError,
    InputInvalid,
    PenstockError,
    StaleDecision,
)
from penstock.store.approval_rows import (
    GET_REQUEST,
    ApprovalPage,
    ApprovalRequest,
    Decision,
    PastUse,
    alike_of,
    get_approval,
    latest_request,
    list_requests,
    past_uses,
    request_of,
    requests_of_run,
    time_of,
    unknown_request,
    used_request,
)
from penstock.store.database import Database
from penstock.store.documents import encode, plain_text
from penstock.store.fencing import fenced, lock_run
from penstock.store.states import ApprovalState, Verdict

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


@dataclass(frozen=True)
class Said:
    """What one person says to a request."""

    person: str
    verdict: Verdict
    via: str
    """The way it comes: `cli`, `api`, `web`, `prefect`, `standing`, `edit`."""
    groups: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()
    """What an identity provider said of the person's groups."""
    comment: str = ""
    edits: Mapping[str, Any] | None = None
    """Inputs to change; None changes none."""
    break_glass: bool = False


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


class Judge(Protocol):
    """Says who may decide and when it is enough."""

    def refusal(self, request: ApprovalRequest, said: Said) -> PenstockError | None:
        """Give the reason why a person may not say that, if there is one."""
        ...

    def met(self, request: ApprovalRequest) -> bool:
        """Say whether the decisions so far are enough."""
        ...


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
    values: dict[str, Any] = {
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

    async def work(connection: AsyncConnection) -> ApprovalRequest:
        await lock_run(connection, run_id, token)
        same = (await connection.execute(_STANDING, values)).scalar()
        found = None if same is None else await _known(connection, same)
        # What stands as approved without enough decisions was not approved by people.
        if found is not None and (found.state is ApprovalState.OPEN or judge.met(found)):
            return found
        # The rows of standing grants are locked before the head of the audit chain, and in one order.
        taken = {one: vote for one in sorted(standing) if (vote := await _from_standing(connection, one))}
        votes = [*given, *taken.values()]
        await connection.execute(_VOID, values)
        await connection.execute(_OPEN, values)
        for vote in votes:
            await _write(connection, values["id"], vote)
        opened = await _known(connection, values["id"])
        if votes and judge.met(opened):
            await _close(connection, opened.id, ApprovalState.APPROVED, valid_s=ask.valid_s)
        for one in taken:
            await connection.execute(_NOTE_STANDING, {"id": opened.id, "standing": one})
        for vote in votes:
            await _note_vote(connection, opened, vote)
        return await _known(connection, opened.id) if votes else opened

    return await database.transact(work)


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
        await connection.execute(_LOCK_RUN_OF, {"id": request_id})
        return (await connection.execute(_USE, values)).mappings().all()

    rows = await database.transact(work)
    if not rows:
        raise unknown_request(request_id)
    return bool(fenced(rows, rows[0]["run_id"])[0]["granted"])


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
        await connection.execute(_LOCK_RUN_OF, {"id": request_id})
        found = await _known(connection, request_id)
        earlier = next((known for known in found.decisions if known.person == said.person), None)
        if earlier is not None and _is_same(earlier, said):
            return found
        refused = _refused(found, earlier, said, digest) or judge.refusal(found, said)
        if refused is not None:
            if found.state is ApprovalState.EXPIRED:
                await connection.execute(_EXPIRE_ONE, {"id": request_id})
            await _note_refusal(connection, found, said, refused)
            return refused
        await _write(connection, request_id, said)
        state = _state_after(said.verdict, said.edits)
        if state is None:
            enough = judge.met(await _known(connection, request_id))
            state = ApprovalState.APPROVED if enough else ApprovalState.OPEN
        if state is not ApprovalState.OPEN:
            await _close(connection, request_id, state, valid_s=valid_s)
        decided = await _known(connection, request_id)
        await _note_vote(connection, decided, said)
        return decided

    outcome = await database.transact(work)
    if isinstance(outcome, PenstockError):
        raise outcome
    return outcome


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
    if earlier is not None and not (breaks and earlier.decision is Verdict.APPROVE):
        return AlreadyDecided(f"{said.person} has decided to {earlier.decision.value} {found.title!r} before")
    return None


def _state_after(verdict: Verdict, edits: Mapping[str, Any] | None) -> ApprovalState | None:
    """Give the state that a decision brings by itself; None when it only counts."""
    if verdict is Verdict.REJECT:
        return ApprovalState.REJECTED
    if verdict is Verdict.SEND_BACK:
        return ApprovalState.SENT_BACK
    return None if edits is None else ApprovalState.EDITED


async def _from_standing(connection: AsyncConnection, standing_id: UUID) -> Said | None:
    """Take one use of a standing grant; None when it has none left, has ended or was revoked."""
    row = (await connection.execute(_TAKE_STANDING, {"id": standing_id})).mappings().first()
    if row is None:
        return None
    comment = f"standing grant {standing_id}, use {row['uses']} of {row['max_uses']}"
    claims = frozenset(row["claims"])
    return Said(row["person"], Verdict.APPROVE, "standing", claims=claims, comment=comment)


async def _write(connection: AsyncConnection, request_id: UUID, said: Said) -> None:
    values: dict[str, Any] = {
        "id": request_id,
        "person": said.person,
        "decision": said.verdict.value,
        "comment": plain_text(said.comment),
        "via": said.via,
        "groups": sorted(said.groups),
        "claims": sorted(said.claims),
        "edits": None if said.edits is None else encode(said.edits),
        "break_glass": said.break_glass,
    }
    await connection.execute(_WRITE, values)


async def _close(
    connection: AsyncConnection, request_id: UUID, state: ApprovalState, *, valid_s: float
) -> None:
    await connection.execute(_CLOSE, {"id": request_id, "state": state.value, "valid_s": valid_s})


async def _note_vote(connection: AsyncConnection, found: ApprovalRequest, said: Said) -> None:
    values = {**_facts(found, said), "id": found.id, "person": said.person, "state": found.state.value}
    await connection.execute(_NOTE_VOTE, values)


async def _note_refusal(
    connection: AsyncConnection, found: ApprovalRequest, said: Said, refused: PenstockError
) -> None:
    facts = {"because": refused.code, "message": refused.message, "state": found.state.value}
    values = {**_facts(found, said, **facts), "id": found.id, "person": said.person}
    await connection.execute(_NOTE_REFUSAL, values)


def _facts(found: ApprovalRequest, said: Said, **more: Any) -> dict[str, str]:
    """Give what the audit chain keeps of a decision."""
    facts: dict[str, Any] = {
        "decision": said.verdict.value,
        "comment": said.comment,
        "via": said.via,
        "groups": sorted(said.groups),
        "digest": found.digest,
        "node": found.label,
        "policy": found.terms.get("policy", ""),
        "state": found.state.value,
        **more,
    }
    if said.edits is not None:
        facts["edits"] = dict(said.edits)
    if said.break_glass:
        facts["break_glass"] = True
    return {"facts": encode(facts)}


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

_LOCK_RUN_OF = text("""
    SELECT id FROM penstock.run
    WHERE id = (SELECT run_id FROM penstock.approval_request WHERE id = :id) FOR NO KEY UPDATE
""")
_WRITE = text("""
    INSERT INTO penstock.approval_decision
        (request_id, person, decision, comment, via, groups, claims, edits, break_glass)
    VALUES (:id, :person, :decision, :comment, :via, CAST(:groups AS text[]), CAST(:claims AS text[]),
            CAST(:edits AS jsonb), :break_glass)
    ON CONFLICT (request_id, person) DO UPDATE SET
        comment = excluded.comment, via = excluded.via, groups = excluded.groups, claims = excluded.claims,
        edits = excluded.edits, break_glass = excluded.break_glass, at = excluded.at
""")
_CLOSE = text("""
    UPDATE penstock.approval_request SET
        state = CAST(:state AS text), decided_at = now(), next_at = NULL,
        usable_until = CASE WHEN CAST(:state AS text) = 'approved'
                            THEN now() + make_interval(secs => CAST(:valid_s AS float)) END
    WHERE id = :id
""")
_NOTE_VOTE = text("""
    WITH known AS (
        SELECT id, run_id, node_id FROM penstock.approval_request WHERE id = :id
    ), told AS (
        INSERT INTO penstock.run_event (run_id, type, node_id, data)
        SELECT run_id, CASE CAST(:state AS text) WHEN 'open' THEN 'approval.voted'
                            ELSE 'approval.decided' END, node_id,
               jsonb_build_object('id', id, 'state', CAST(:state AS text), 'person', CAST(:person AS text),
                                  'decision', CAST(:facts AS jsonb) -> 'decision')
        FROM known
    )
    SELECT CASE WHEN CAST(:state AS text) <> 'open' THEN penstock.signal(run_id) END,
           penstock.audit('decision', run_id, id, CAST(:person AS text), CAST(:facts AS jsonb))
    FROM known
""")
_NOTE_REFUSAL = text("""
    SELECT penstock.audit('decision.refused', run_id, id, CAST(:person AS text), CAST(:facts AS jsonb))
    FROM penstock.approval_request WHERE id = :id
""")
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
