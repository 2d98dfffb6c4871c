"""Pages: the inbox of what waits for people, and the card of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from penstock.engine.services import Services
from penstock.errors import NotFound
from penstock.gateway.diffs import FileDiff, parse_diff
from penstock.gateway.edits import form_fields
from penstock.gateway.opened import Cursor, Opened
from penstock.gateway.pages import page, templates
from penstock.gateway.shown import FILTERS, moment
from penstock.gateway.signed import Signed
from penstock.store.approvals import list_requests

__all__ = ["router"]

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

View = Literal["open", "decided", "closed"]

_PAGE = 100
_RECENT = 8
_UNFOLDED = 400
"""Lines of one file that are shown at once; more are folded."""
_UNFOLDED_IN_ALL = 3000
_STATES: Mapping[View, tuple[str, ...]] = {
    "open": ("open",),
    "decided": ("approved", "rejected", "sent_back", "edited"),
    "closed": ("withdrawn", "expired", "void"),
}
_NO_CARD: Mapping[str, Any] = {
    "why": "",
    "undo": "",
    "agent": {"name": "", "version": "", "does": ""},
    "inputs": {},
    "plan": None,
    "history": (),
    "changed": (),
    "note": None,
    "edited": None,
}
"""What cards of earlier versions may lack."""
_SAID = {"approve": "approved it", "reject": "rejected it", "send_back": "sent it back"}
_SUCCESSORS = ("open", "approved")

templates.filters.update(FILTERS)


@dataclass(frozen=True)
class Row:
    """One line of the inbox: a request, or several that are alike."""

    request: Mapping[str, Any]
    alike: int
    why_not: str
    """Why whoever looks cannot decide it; empty when he can."""

    @property
    def urgent(self) -> tuple[datetime, datetime]:
        """What to sort by: what ends first, then what waits longest."""
        ends = moment(self.request["expires_at"]) or datetime.max.replace(tzinfo=UTC)
        return ends, datetime.fromisoformat(self.request["opened_at"])


@router.get("/")
async def start() -> RedirectResponse:
    """Lead to the inbox."""
    return RedirectResponse("/approvals", 303)


@router.get("/approvals")
async def inbox(
    request: Request,
    services: Opened,
    signed: Signed,
    view: Annotated[View, Query()] = "open",
    cursor: Cursor = None,
) -> HTMLResponse:
    """Show what waits for people: what this person may decide first."""
    listed = await services.approvals.list(
        states=_STATES[view], limit=_PAGE, cursor=cursor, person=signed.person
    )
    name = signed.name
    rows, recent = _rows(listed["approvals"], name, fold=view == "open"), []
    if view == "open":
        rows.sort(key=lambda row: row.urgent)
        if cursor is None:
            decided = await services.approvals.list(
                states=_STATES["decided"], limit=_RECENT, person=signed.person
            )
            recent = _rows(decided["approvals"], name, fold=False)
    return page(
        request,
        "inbox.html",
        view=view,
        mine=[row for row in rows if view == "open" and not row.why_not],
        others=[row for row in rows if view != "open" or row.why_not],
        recent=recent,
        cursor=listed["cursor"],
        first=cursor is None,
        now=datetime.now(UTC),
    )


@router.get("/approvals/{request_id}")
async def one(
    request: Request,
    services: Opened,
    signed: Signed,
    request_id: str,
    part: Annotated[Literal["all", "side"], Query()] = "all",
) -> HTMLResponse:
    """Show one request with all that a decision needs, or only what changes while people look at it."""
    try:
        shown = await services.approvals.show(_read_id(request_id), person=signed.person)
    except NotFound as error:
        return page(request, "problem.html", status=404, title="No such request", detail=error.message)
    now, card = datetime.now(UTC), {**_NO_CARD, **shown["card"]}
    side: dict[str, Any] = {
        "asked": shown,
        "fields": form_fields(shown["editable"], card["inputs"], shown["edits"]),
        "why_not": _why_not(shown, signed.name),
        "freezes": _freezes(shown, signed.name, now),
        "newer": await _newer(services, shown),
        "now": now,
    }
    if part == "side":
        return page(request, "card_side.html", **side)
    # A diff of many thousand lines takes a while; others are answered meanwhile.
    return await asyncio.to_thread(_whole, request, card, side)


def _whole(request: Request, card: Mapping[str, Any], side: Mapping[str, Any]) -> HTMLResponse:
    plan = card["plan"]
    files = parse_diff(plan["diff"]) if plan else ()
    listed = list(zip(files, _folded(files), strict=True))
    return page(request, "card.html", card=card, plan=plan, files=listed, **side)


def _read_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"{text!r} is not the id of a request for approval") from None


def _rows(requests: Iterable[Mapping[str, Any]], name: str, *, fold: bool) -> list[Row]:
    """Make one row of requests that are alike, under one that the person may decide if there is any."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for request in requests:
        groups.setdefault(request["digest"] if fold else request["id"], []).append(request)
    return [_row(group, name) for group in groups.values()]


def _row(group: Sequence[Mapping[str, Any]], name: str) -> Row:
    chosen = next((request for request in group if not _why_not(request, name)), group[0])
    return Row(chosen, max(len(group), chosen["alike"]), _why_not(chosen, name))


def _why_not(request: Mapping[str, Any], name: str) -> str:
    """Say why somebody cannot decide, or need not any more; empty when he can."""
    if request["may_decide"]:
        return request["may_decide"]
    said = next((said for said in request["decisions"] if said["person"] == name), None)
    return "" if said is None else f"you have {_SAID[said['decision']]} already"


def _folded(files: Sequence[FileDiff]) -> Iterable[bool]:
    """Say of each file whether it is folded: long ones are, and all that come after a great many lines."""
    before = 0
    for file in files:
        before += file.size
        yield file.size > _UNFOLDED or before > _UNFOLDED_IN_ALL


def _freezes(shown: Mapping[str, Any], name: str, now: datetime) -> list[Mapping[str, Any]]:
    """List the clauses that this person can still help to meet by breaking the glass."""
    if shown["may_decide"] or any(
        said["person"] == name and (said["break_glass"] or said["decision"] != "approve")
        for said in shown["decisions"]
    ):
        return []
    live = (clause for clause in shown["clauses"] if clause["break_glass"] and clause["missing"])
    return [clause for clause in live if (moment(clause["until"]) or now) >= now]


async def _newer(services: Services, shown: Mapping[str, Any]) -> UUID | None:
    """Find the request that took the place of one that is closed."""
    if shown["state"] == "open":
        return None
    run_id = UUID(shown["run_id"])
    listed = await list_requests(services.database, run_id=run_id, states=_SUCCESSORS, limit=1000)
    later = [
        known for known in listed.requests if known.label == shown["node"] and known.round > shown["round"]
    ]
    return max(later, key=lambda known: known.round).id if later else None
