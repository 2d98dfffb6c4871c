"""What people who decide may do: look at requests, approve, reject, get a code for Prefect's form."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from penstock.engine.starting import RunStarter
from penstock.engine.waiting import code_hash
from penstock.errors import InputInvalid
from penstock.store.approvals import (
    ApprovalRequest,
    decide,
    get_approval,
    list_requests,
    set_code,
)
from penstock.store.database import Database
from penstock.store.states import ApprovalState, Verdict

__all__ = ["Approvals"]


@dataclass(frozen=True)
class Approvals:
    """Requests for approval, as users know them; everything is in JSON types."""

    database: Database
    starter: RunStarter

    async def list(
        self, *, states: tuple[str, ...] = ("open",), limit: int = 50, cursor: str | None = None
    ) -> dict[str, Any]:
        """List requests, newest first: `{"approvals": [...], "cursor": str or None}`.

        Raises:
            InputInvalid: There is no such state, or the cursor is not one of ours.
        """
        known = [state.value for state in ApprovalState]
        if wrong := [state for state in states if state not in known]:
            raise InputInvalid(f"there is no state {wrong[0]!r}; the states are {', '.join(known)}")
        page = await list_requests(self.database, states=states, limit=limit, cursor=cursor)
        return {"approvals": [_data(request) for request in page.requests], "cursor": page.cursor}

    async def show(self, request_id: UUID) -> dict[str, Any]:
        """Give a request with its card and its decisions.

        Raises:
            NotFound: There is none.
        """
        return _data(await get_approval(self.database, request_id))

    async def decide(
        self, request_id: UUID, decision: str, *, person: str, comment: str = "", via: str
    ) -> dict[str, Any]:
        """Record a decision and, when it settles the matter, let the run go on.

        Args:
            decision: `approve` or `reject`.
            person: Who decides.
            via: Where: `cli`, `api`, `prefect`.
        Raises:
            NotFound: There is no such request.
            ApprovalClosed: It was decided before, has expired, or its run is over.
            InputInvalid: It is no decision.
        """
        if decision not in list(Verdict):
            raise InputInvalid(f"{decision!r} is no decision; give approve or reject")
        request = await decide(
            self.database, request_id, person=person, decision=decision, comment=comment, via=via
        )
        if request.state != ApprovalState.OPEN:
            await self.starter.wake_for_news(request.run_id)
        return _data(request)

    async def code(self, request_id: UUID, *, person: str) -> str:
        """Make a one-time code with which a person decides in Prefect's own form.

        An earlier code of the same request is void.

        Raises:
            NotFound: There is no such request.
            ApprovalClosed: It is not open any more.
        """
        code = "-".join(secrets.token_hex(2) for _ in range(4))
        await set_code(self.database, request_id, person=person, code_hash=code_hash(code))
        return code


def _data(request: ApprovalRequest) -> dict[str, Any]:
    card: Mapping[str, Any] = request.card
    return {
        "id": str(request.id),
        "run_id": str(request.run_id),
        "node": f"{request.node_id}[{request.item}]" if request.item else request.node_id,
        "state": request.state,
        "title": request.title,
        "digest": request.digest,
        "required": request.required,
        "reason": request.reason,
        "opened_at": request.opened_at.isoformat(),
        "expires_at": request.expires_at.isoformat() if request.expires_at else None,
        "decided_at": request.decided_at.isoformat() if request.decided_at else None,
        "decisions": [
            {
                "person": decision.person,
                "decision": decision.decision,
                "comment": decision.comment,
                "via": decision.via,
                "at": decision.at.isoformat(),
            }
            for decision in request.decisions
        ],
        "card": dict(card),
    }
