"""What people who decide may do: look at requests, decide them, get a code for Prefect's form."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from penstock.approvals.people import Person
from penstock.approvals.quorum import Counted
from penstock.approvals.terms import terms_from
from penstock.engine.judging import RuleJudge
from penstock.engine.links import Links
from penstock.engine.starting import RunStarter
from penstock.engine.waiting import code_hash
from penstock.errors import ApprovalError, InputInvalid
from penstock.store.approvals import (
    ApprovalRequest,
    Decision,
    Said,
    alike_of,
    decide,
    get_approval,
    list_requests,
    verdict_of,
)
from penstock.store.database import Database
from penstock.store.passes import make_code
from penstock.store.states import ApprovalState, Verdict

__all__ = ["Approvals"]


@dataclass(frozen=True)
class Approvals:
    """Requests for approval, as users know them; everything is in JSON types."""

    database: Database
    starter: RunStarter
    judge: RuleJudge
    links: Links

    async def list(
        self,
        *,
        states: tuple[str, ...] = ("open",),
        limit: int = 50,
        cursor: str | None = None,
        person: Person | None = None,
    ) -> dict[str, Any]:
        """List requests, newest first: `{"approvals": [...], "cursor": str or None}`.

        The plans in their cards are without the diff; `show` gives all.

        Args:
            person: Who asks; each request says whether this person may decide it.
        Raises:
            InputInvalid: There is no such state, or the cursor is not one of ours.
        """
        known = [state.value for state in ApprovalState]
        if wrong := [state for state in states if state not in known]:
            raise InputInvalid(f"there is no state {wrong[0]!r}; the states are {', '.join(known)}")
        page = await list_requests(self.database, states=states, limit=limit, cursor=cursor)
        return {"approvals": [self._data(one, person) for one in page.requests], "cursor": page.cursor}

    async def show(self, request_id: UUID, *, person: Person | None = None) -> dict[str, Any]:
        """Give a request with its card and its decisions.

        Args:
            person: Who asks; the answer says whether this person may decide.
        Raises:
            NotFound: There is none.
        """
        return self._data(await get_approval(self.database, request_id), person)

    async def decide(
        self,
        request_id: UUID,
        decision: str,
        *,
        person: Person,
        via: str,
        comment: str = "",
        digest: str | None = None,
        edits: Mapping[str, Any] | None = None,
        break_glass: bool = False,
        alike: bool = False,
    ) -> dict[str, Any]:
        """Record a decision and, when it settles the matter, let the run go on.

        Args:
            decision: `approve`, `reject` or `send_back`.
            person: Who decides.
            via: Where: `cli`, `api`, `web`.
            digest: Digest of what the person has seen; None when it is not known.
            edits: Inputs to change, with an approval.
            break_glass: Approve although a freeze is on; the comment gives the reason.
            alike: Decide every open request with this digest and these terms.
        Returns:
            The request; with `alike` it also has `decided`, the number of requests.
        Raises:
            NotFound: There is no such request.
            ApprovalError: It is not open any more, or this person may not.
            InputInvalid: It is no decision, or something about it is missing or wrong.
        """
        said = Said(
            person.name,
            verdict_of(decision),
            via,
            groups=person.groups,
            claims=person.claims,
            comment=comment,
            edits=edits,
            break_glass=break_glass,
        )
        others = await alike_of(self.database, request_id) if alike else []
        request = await self._decide(request_id, said, digest=digest)
        if not alike:
            return self._data(request, person)
        decided = 1
        for other in others:
            decided += await self._decide_too(other, said, digest=request.digest)
        return {**self._data(request, person), "decided": decided}

    async def _decide(self, request_id: UUID, said: Said, *, digest: str | None) -> ApprovalRequest:
        known = terms_from((await get_approval(self.database, request_id)).terms)
        request = await decide(
            self.database, request_id, said, judge=self.judge, digest=digest, valid_s=known.valid_s
        )
        if request.state is not ApprovalState.OPEN:
            await self.starter.wake_for_news(request.run_id)
        return request

    async def _decide_too(self, request_id: UUID, said: Said, *, digest: str) -> bool:
        """Decide one that is alike; False when somebody or something was faster."""
        try:
            await self._decide(request_id, said, digest=digest)
        except ApprovalError:
            return False
        return True

    async def code(self, request_id: UUID, *, person: Person) -> str:
        """Make a one-time code with which a person decides in Prefect's own form.

        An earlier code of the same person for the same request is void.

        Raises:
            NotFound: There is no such request.
            ApprovalError: It is not open any more, or this person may not decide it.
        """
        request = await get_approval(self.database, request_id)
        asking = Said(person.name, Verdict.APPROVE, "prefect", claims=person.claims)
        if request.state is ApprovalState.OPEN and (refused := self.judge.refusal(request, asking)):
            raise refused
        code = "-".join(secrets.token_hex(2) for _ in range(4))
        await make_code(
            self.database,
            request_id,
            person=person.name,
            claims=person.claims,
            code_hash=code_hash(code),
        )
        return code

    def _data(self, request: ApprovalRequest, person: Person | None) -> dict[str, Any]:
        card: Mapping[str, Any] = request.card
        terms, is_open = terms_from(request.terms), request.state is ApprovalState.OPEN
        tally = self.judge.tally(request)
        why_not = None if person is None else self.judge.why_not(request, person)
        return {
            "id": str(request.id),
            "run_id": str(request.run_id),
            "run": card.get("run"),
            "workflow": card.get("workflow"),
            "revision": card.get("revision"),
            "node": request.label,
            "agent": request.agent,
            "state": request.state.value,
            "title": request.title,
            "digest": request.digest,
            "round": request.round,
            "requester": terms.requester or card.get("requester"),
            "reason": request.reason,
            **_times(request),
            "needs": tally.needs if is_open else "",
            "alike": request.alike,
            "clauses": [_clause(counted) for counted in tally.clauses],
            "editable": {name: dict(schema) for name, schema in terms.editable.items()},
            "edits": None if request.edits is None else dict(request.edits),
            "on_timeout": terms.on_timeout,
            "decisions": [_decision(decision) for decision in request.decisions],
            "may_decide": why_not if is_open or person is None else f"it is {request.state.value}",
            "url": self.links.request(request.id),
            "run_url": self.links.run(request.run_id),
            "card": dict(card),
        }


def _times(request: ApprovalRequest) -> dict[str, str | None]:
    times = {
        "opened_at": request.opened_at,
        "expires_at": request.expires_at,
        "decided_at": request.decided_at,
        "usable_until": request.usable_until,
        "used_at": request.used_at,
        "escalated_at": request.escalated_at,
    }
    return {name: None if at is None else at.isoformat() for name, at in times.items()}


def _clause(counted: Counted) -> dict[str, Any]:
    clause = counted.clause
    return {
        "source": clause.source,
        "why": clause.why,
        "count": clause.count,
        "of": list(clause.of),
        "distinct_groups": clause.distinct_groups,
        "forbid": list(clause.forbid),
        "break_glass": clause.break_glass,
        "until": None if clause.until is None else clause.until.isoformat(),
        "given": list(counted.given),
        "missing": counted.missing,
    }


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "person": decision.person,
        "decision": decision.decision.value,
        "comment": decision.comment,
        "via": decision.via,
        "at": decision.at.isoformat(),
        "groups": sorted(decision.groups),
        "edits": None if decision.edits is None else dict(decision.edits),
        "break_glass": decision.break_glass,
    }
