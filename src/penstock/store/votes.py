"""What people say to requests for approval, as it is written down; used inside transactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.errors import PenstockError
from penstock.store.approval_rows import GET_REQUEST, ApprovalRequest, request_of, unknown_request
from penstock.store.documents import encode, plain_text
from penstock.store.states import ApprovalState, Verdict

__all__ = [
    "Judge",
    "Said",
    "close_request",
    "known_request",
    "lock_run_of",
    "note_refusal",
    "note_vote",
    "write_vote",
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


class Judge(Protocol):
    """Says who may decide and when it is enough."""

    def refusal(self, request: ApprovalRequest, said: Said) -> PenstockError | None:
        """Give the reason why a person may not say that, if there is one."""
        ...

    def met(self, request: ApprovalRequest) -> bool:
        """Say whether the decisions so far are enough."""
        ...


async def lock_run_of(connection: AsyncConnection, request_id: UUID) -> None:
    """Lock the run of a request: whoever changes a request, or runs under it, waits for the one before."""
    await connection.execute(_LOCK_RUN_OF, {"id": request_id})


async def write_vote(connection: AsyncConnection, request_id: UUID, said: Said) -> None:
    """Write what a person says; it takes the place of what the person said before."""
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


async def close_request(
    connection: AsyncConnection, request_id: UUID, state: ApprovalState, *, valid_s: float
) -> None:
    """Close a request; an approval may be used for so many seconds from now."""
    await connection.execute(_CLOSE, {"id": request_id, "state": state.value, "valid_s": valid_s})


async def note_vote(connection: AsyncConnection, found: ApprovalRequest, said: Said) -> None:
    """Tell of a decision, in the run's events and in the audit chain; the last thing in a transaction."""
    values = {**_facts(found, said), "id": found.id, "person": said.person, "state": found.state.value}
    await connection.execute(_NOTE_VOTE, values)


async def note_refusal(
    connection: AsyncConnection, found: ApprovalRequest, said: Said, refused: PenstockError
) -> None:
    """Tell of a decision that did not count, in the audit chain; the last thing in a transaction."""
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


async def known_request(connection: AsyncConnection, request_id: UUID) -> ApprovalRequest:
    """Get a request, as this transaction sees it.

    Raises:
        NotFound: There is none.
    """
    found = await _one(connection, GET_REQUEST, {"id": request_id})
    if found is None:
        raise unknown_request(request_id)
    return found


async def _one(
    connection: AsyncConnection, statement: TextClause, values: Mapping[str, Any]
) -> ApprovalRequest | None:
    row = (await connection.execute(statement, dict(values))).mappings().first()
    return None if row is None else request_of(row)


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
        decision = excluded.decision, comment = excluded.comment, via = excluded.via,
        groups = excluded.groups, claims = excluded.claims, edits = excluded.edits,
        break_glass = excluded.break_glass, at = excluded.at
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
