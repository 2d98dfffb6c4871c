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
    required: int
    """How many people must approve."""
    opened_at: datetime
    expires_at: datetime | None
    decided_at: datetime | None
    """When it was closed, in whatever way."""
    used_at: datetime | None
    """When the node first ran under it."""
    reason: str | None
    """Why it was withdrawn or is void, for people."""
    decisions: tuple[Decision, ...]
    """Oldest first."""


@dataclass(frozen=True)
class ApprovalPage:
    """One page of a listing."""

    requests: tuple[ApprovalRequest, ...]
    cursor: str | None
    """Pass it on to get the next page; None at the end."""


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


def request_of(row: RowMapping) -> ApprovalRequest:
    """Make a request of a row that `REQUEST` gave."""
    columns: dict[str, Any] = dict(row)
    columns["state"] = ApprovalState(row["state"])
    columns["decisions"] = tuple(_decision(known) for known in row["decisions"] or ())
    return ApprovalRequest(**columns)


def _decision(known: Mapping[str, Any]) -> Decision:
    return Decision(
        known["person"],
        Verdict(known["decision"]),
        known["comment"],
        known["via"],
        datetime.fromisoformat(known["at"]),
    )


def unknown_request(request_id: UUID) -> NotFound:
    """Make the error for a request that is not there."""
    return NotFound(f"there is no request for approval {str(request_id)!r}")


# Whatever reads a request sees it closed when its time has run out, marked or not.
REQUEST = """
    SELECT request.id, request.run_id, request.node_id, request.item, request.epoch, request.round,
           CASE WHEN request.state = 'open' AND request.expires_at <= now() THEN 'expired'
                ELSE request.state END AS state,
           request.digest, request.title, request.card, request.required, request.opened_at,
           request.expires_at, request.decided_at, request.used_at, request.reason,
           (SELECT jsonb_agg(jsonb_build_object('person', said.person, 'decision', said.decision,
                   'comment', said.comment, 'via', said.via, 'at', said.at) ORDER BY said.id)
            FROM penstock.approval_decision AS said WHERE said.request_id = request.id) AS decisions
    FROM penstock.approval_request AS request
"""
GET_REQUEST = text(REQUEST + "WHERE request.id = :id")
_LATEST = text(
    REQUEST
    + """
    WHERE request.run_id = :run_id AND request.node_id = :node_id AND request.item = :item
        AND request.epoch = :epoch ORDER BY request.round DESC LIMIT 1
"""
)
_LIST = text(
    REQUEST
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
