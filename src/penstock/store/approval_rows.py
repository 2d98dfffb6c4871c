"""Requests for approval as they come out of the table, and how they are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text

from penstock.errors import NotFound
from penstock.store.database import Database
from penstock.store.paging import cut, read_cursor, write_cursor
from penstock.store.states import ApprovalState, Verdict


@dataclass(frozen=True)
class Decision:
    """What one person said."""

    person: str
    decision: Verdict
    comment: str
    via: str
    """The way it came, for example `cli`."""
    at: datetime
    groups: frozenset[str] = frozenset()
    """Groups of the person at that time."""
    claims: frozenset[str] = frozenset()
    """What an identity provider said of them."""
    edits: Mapping[str, Any] | None = None
    """Inputs that the person changed."""
    break_glass: bool = False
    """Whether it counts although nothing may be changed now."""


@dataclass(frozen=True)
class ApprovalRequest:
    """A request for approval, with the decisions so far."""

    id: UUID
    run_id: UUID
    node_id: str
    item: str
    """Key of the item; empty for a node without `foreach`."""
    epoch: int
    round: int
    """Counts from 1 per node and item."""
    state: ApprovalState
    """An open one whose time has run out is shown as expired."""
    digest: str
    """Of what would run."""
    title: str
    card: Mapping[str, Any]
    """What approvers see."""
    agent: str
    targets: tuple[str, ...]
    terms: Mapping[str, Any]
    """Who has to agree, until when, and what may be changed; the store does not look inside."""
    edits: Mapping[str, Any] | None
    """Inputs that somebody changed before, in effect for this request."""
    opened_at: datetime
    expires_at: datetime | None
    decided_at: datetime | None
    """When it was closed, in whatever way."""
    usable_until: datetime | None
    """Until when an approval may be used."""
    used_at: datetime | None
    """When the node first ran under it."""
    escalated_at: datetime | None
    timed_until: datetime
    """Reminders and the like that were due by then have been seen to."""
    reason: str | None
    """Why it was withdrawn or is void, for people."""
    read_at: datetime
    """When this was read, by the clock of the database."""
    alike: int
    """Open requests with the same digest, this one included."""
    decisions: tuple[Decision, ...]
    """Oldest first."""

    @property
    def label(self) -> str:
        """What people see of the node: `apply`, or `apply[3]`."""
        return f"{self.node_id}[{self.item}]" if self.item else self.node_id


@dataclass(frozen=True)
class ApprovalPage:
    """One page of a listing."""

    requests: tuple[ApprovalRequest, ...]
    """Their cards are without the diff."""
    cursor: str | None
    """Pass it on to get the next page; None at the end."""


@dataclass(frozen=True)
class PastUse:
    """What came of a grant that was used earlier."""

    at: datetime
    run_id: UUID
    workflow: str
    state: str
    """Of the node, as it is now."""
    approved_by: tuple[str, ...]


async def get_approval(database: Database, request_id: UUID) -> ApprovalRequest:
    """Get a request for approval.

    Raises:
        NotFound: There is none.
    """
    rows = await database.fetch(GET_REQUEST, {"id": request_id})
    if not rows:
        raise unknown_request(request_id)
    return request_of(rows[0])


async def latest_request(
    database: Database, run_id: UUID, node_id: str, item: str, epoch: int
) -> ApprovalRequest | None:
    """Get the newest request of a node in one epoch of its run; None when there is none."""
    values = {"run_id": run_id, "node_id": node_id, "item": item, "epoch": epoch}
    rows = await database.fetch(_LATEST, values)
    return request_of(rows[0]) if rows else None


async def used_request(database: Database, run_id: UUID, node_id: str, item: str) -> ApprovalRequest | None:
    """Get the request under which a node ran last, in whatever epoch; None when it needed none."""
    values = {"run_id": run_id, "node_id": node_id, "item": item}
    rows = await database.fetch(_USED, values)
    return request_of(rows[0]) if rows else None


async def time_of(database: Database) -> datetime:
    """Give the time by the clock of the database."""
    return (await database.fetch(_NOW))[0]["now"]


async def requests_of_run(database: Database, run_id: UUID) -> list[ApprovalRequest]:
    """List the open requests of a run with their whole cards, oldest first."""
    return [request_of(row) for row in await database.fetch(_OF_RUN, {"run_id": run_id})]


async def alike_of(database: Database, request_id: UUID, *, limit: int = 1000) -> list[UUID]:
    """List the open requests with the digest and the terms of one, that one left out, oldest first."""
    rows = await database.fetch(_ALIKE, {"id": request_id, "limit": limit})
    return [row["id"] for row in rows]


async def past_uses(
    database: Database, agent: str, targets: Sequence[str], *, limit: int = 5
) -> list[PastUse]:
    """List what came of the last grants of an agent that had one of these targets, newest first."""
    if not targets:
        return []
    values = {"agent": agent, "targets": list(targets), "limit": limit}
    rows = await database.fetch(_PAST, values)
    return [_past_use(row) for row in rows]


async def list_requests(
    database: Database,
    *,
    states: Sequence[str] = (ApprovalState.OPEN,),
    run_id: UUID | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> ApprovalPage:
    """List requests for approval, newest first.

    Args:
        states: Only requests in one of these; empty means all.
        run_id: Only requests of this run.
        limit: Requests per page, at least 1.
        cursor: `ApprovalPage.cursor` of the page before.
    Raises:
        InputInvalid: The cursor is not one of ours.
    """
    wanted = {ApprovalState(state) for state in states or ApprovalState}
    # One that was not marked yet when its time ran out is kept as open and shown as expired.
    kept = wanted | {ApprovalState.OPEN} if ApprovalState.EXPIRED in wanted else wanted
    before_at, before_id = (None, None) if cursor is None else read_cursor(cursor)
    values = {
        "kept": [state.value for state in kept],
        "open": ApprovalState.OPEN in wanted,
        "expired": ApprovalState.EXPIRED in wanted,
        "run_id": run_id,
        "before_at": before_at,
        "before_id": before_id,
        "limit": limit + 1,
    }
    page, last = cut([request_of(row) for row in await database.fetch(_LIST, values)], limit)
    return ApprovalPage(page, write_cursor(last.opened_at, last.id) if last else None)


def _past_use(row: RowMapping) -> PastUse:
    columns: dict[str, Any] = dict(row)
    columns["approved_by"] = tuple(row["approved_by"])
    return PastUse(**columns)


def request_of(row: RowMapping) -> ApprovalRequest:
    """Make a request of a row that `REQUEST` gave."""
    columns: dict[str, Any] = dict(row)
    columns["state"] = ApprovalState(row["state"])
    columns["targets"] = tuple(row["targets"])
    columns["decisions"] = tuple(_decision(known) for known in row["decisions"] or ())
    return ApprovalRequest(**columns)


def _decision(known: Mapping[str, Any]) -> Decision:
    return Decision(
        person=known["person"],
        decision=Verdict(known["decision"]),
        comment=known["comment"],
        via=known["via"],
        at=datetime.fromisoformat(known["at"]),
        groups=frozenset(known["groups"]),
        claims=frozenset(known["claims"]),
        edits=known["edits"],
        break_glass=known["break_glass"],
    )


def unknown_request(request_id: UUID) -> NotFound:
    """Make the error for a request that is not there."""
    return NotFound(f"there is no request for approval {str(request_id)!r}")


def _columns(card: str) -> str:
    """Give the columns of a request; whatever reads one sees it closed when its time has run out."""
    return f"""
    SELECT request.id, request.run_id, request.node_id, request.item, request.epoch, request.round,
           CASE WHEN request.state = 'open' AND request.expires_at <= now() THEN 'expired'
                ELSE request.state END AS state,
           request.digest, request.title, {card} AS card, request.agent, request.targets, request.terms,
           request.edits, request.opened_at, request.expires_at, request.decided_at, request.usable_until,
           request.used_at, request.escalated_at, request.timed_until, request.reason, now() AS read_at,
           CASE WHEN request.state = 'open' THEN (
               SELECT count(*) FROM penstock.approval_request AS other
               WHERE other.digest = request.digest AND other.state = 'open'
                   AND other.terms = request.terms
                   AND (other.expires_at IS NULL OR other.expires_at > now())) ELSE 1 END AS alike,
           (SELECT jsonb_agg(jsonb_build_object('person', said.person, 'decision', said.decision,
                   'comment', said.comment, 'via', said.via, 'at', said.at, 'groups', said.groups,
                   'claims', said.claims,
                   'edits', said.edits, 'break_glass', said.break_glass) ORDER BY said.id)
            FROM penstock.approval_decision AS said WHERE said.request_id = request.id) AS decisions
    FROM penstock.approval_request AS request
"""  # noqa: S608  both texts are our own


REQUEST = _columns("request.card")
_NOW = text("SELECT now() AS now")
GET_REQUEST = text(REQUEST + "WHERE request.id = :id")
_LATEST = text(
    REQUEST
    + """
    WHERE request.run_id = :run_id AND request.node_id = :node_id AND request.item = :item
        AND request.epoch = :epoch ORDER BY request.round DESC LIMIT 1
"""
)
_USED = text(
    REQUEST
    + """
    WHERE request.run_id = :run_id AND request.node_id = :node_id AND request.item = :item
        AND request.used_at IS NOT NULL ORDER BY request.round DESC LIMIT 1
"""
)
_OF_RUN = text(
    REQUEST
    + """
    WHERE request.run_id = :run_id AND request.state = 'open'
        AND (request.expires_at IS NULL OR request.expires_at > now())
    ORDER BY request.opened_at, request.id
"""
)
_ALIKE = text("""
    SELECT other.id FROM penstock.approval_request AS request
    JOIN penstock.approval_request AS other ON other.digest = request.digest AND other.terms = request.terms
    WHERE request.id = :id AND other.id <> request.id AND other.state = 'open'
        AND (other.expires_at IS NULL OR other.expires_at > now())
    ORDER BY other.opened_at, other.id LIMIT :limit
""")
_PAST = text("""
    SELECT request.used_at AS at, request.run_id, run.workflow, node.state,
           ARRAY(SELECT said.person FROM penstock.approval_decision AS said
                 WHERE said.request_id = request.id AND said.decision = 'approve'
                 ORDER BY said.id) AS approved_by
    FROM penstock.approval_request AS request
    JOIN penstock.run ON run.id = request.run_id
    JOIN penstock.node ON node.run_id = request.run_id AND node.node_id = request.node_id
        AND node.item = request.item
    WHERE request.agent = :agent AND request.used_at IS NOT NULL
        AND request.targets && CAST(:targets AS text[])
    ORDER BY request.used_at DESC LIMIT :limit
""")
_LIST = text(
    _columns("request.card #- '{plan,diff}'")
    + """
    WHERE request.state = ANY (CAST(:kept AS text[]))
        AND (request.state <> 'open'
             OR CASE WHEN request.expires_at <= now() THEN CAST(:expired AS boolean)
                     ELSE CAST(:open AS boolean) END)
        AND (CAST(:run_id AS uuid) IS NULL OR request.run_id = CAST(:run_id AS uuid))
        AND (CAST(:before_at AS timestamptz) IS NULL OR (request.opened_at, request.id)
             < (CAST(:before_at AS timestamptz), CAST(:before_id AS uuid)))
    ORDER BY request.opened_at DESC, request.id DESC LIMIT :limit
"""
)
