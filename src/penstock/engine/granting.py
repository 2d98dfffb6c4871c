"""The gate that asks people: requests, decisions and grants are rows of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from penstock.approvals.changes import changes_between
from penstock.approvals.gate import Allowed, GateRequest, Grant, SaidBefore, Waiting
from penstock.approvals.quorum import Tally, Vote, tally
from penstock.approvals.targets import covers
from penstock.approvals.terms import terms_from, terms_to
from penstock.approvals.timers import timers_of
from penstock.engine.judging import RuleJudge
from penstock.errors import ApprovalError, ApprovalLapsed, ApprovalWithdrawn
from penstock.store.approvals import (
    ApprovalRequest,
    Ask,
    Decision,
    Said,
    latest_request,
    open_request,
    past_uses,
    time_of,
    use_grant,
    used_request,
)
from penstock.store.database import Database
from penstock.store.standing import usable_standing
from penstock.store.states import ApprovalState, Verdict

__all__ = ["StoreGate"]

_REPLACED = frozenset(
    {ApprovalState.OPEN, ApprovalState.APPROVED, ApprovalState.SENT_BACK, ApprovalState.EDITED}
)
"""States of a request whose card people have in mind when they see the next one."""


@dataclass(frozen=True)
class StoreGate:
    """The gate of one run."""

    database: Database
    judge: RuleJudge
    run_id: UUID
    token: int
    epoch: int

    async def before(self, node_id: str, item: str, *, done: bool = False) -> SaidBefore:
        """Give what people have said at a gate in this epoch of the run.

        Args:
            done: Up to when the node ran, in whatever epoch that was.
        """
        used = await used_request(self.database, self.run_id, node_id, item) if done else None
        found = used or await self._latest(node_id, item)
        if found is None:
            return SaidBefore(now=await time_of(self.database))
        sent_back, editing = _last(found, Verdict.SEND_BACK), _editing(found)
        edits = {} if found.state is ApprovalState.SENT_BACK else dict(found.edits or {})
        card_note: Mapping[str, Any] = found.card.get("note") or {}
        card_edited: Mapping[str, Any] = found.card.get("edited") or {}
        return SaidBefore(
            round=int(found.card.get("round", 1)) + (sent_back is not None),
            note=sent_back.comment if sent_back else card_note.get("text"),
            note_by=sent_back.person if sent_back else card_note.get("person", ""),
            edits=edits | dict(editing.edits or {}) if editing else edits,
            edited_by=editing.person if editing else card_edited.get("person", ""),
            now=found.read_at,
        )

    async def ask(self, request: GateRequest) -> Grant | Waiting:
        """Give a grant that was made for exactly this; otherwise ask, or ask again."""
        found = await self._latest(request.node_id, request.item)
        because = "what would run has changed"
        if found is not None:
            _refuse_ended(found)
            same = found.digest == request.digest
            covered = set(request.terms.clauses) <= set(terms_from(found.terms).clauses)
            if same and covered:
                if found.state is ApprovalState.OPEN:
                    return self._waiting(found)
                if found.state is ApprovalState.APPROVED:
                    if self.judge.met(found) and await self._use(found, request):
                        return Grant(request)
                    because = "somebody who approved it may not approve any more"
            elif same:
                because = "the policies ask for more now"
        opened = await self._open(request, found, because)
        if opened.state is ApprovalState.APPROVED and await self._use(opened, request):
            return Grant(request)
        return self._waiting(opened)

    async def granted(self, node_id: str) -> Allowed:
        """Give what a grant for all items of a node allows; nothing without one."""
        found = await self._latest(node_id, "")
        if found is None or found.state is not ApprovalState.APPROVED or not self.judge.met(found):
            return Allowed()
        used = await use_grant(
            self.database, found.id, digest=found.digest, epoch=self.epoch, token=self.token
        )
        if not used:
            return Allowed()
        clauses = frozenset(terms_from(found.terms).clauses)
        return Allowed(dict(found.card.get("digests") or {}), clauses)

    async def _latest(self, node_id: str, item: str) -> ApprovalRequest | None:
        return await latest_request(self.database, self.run_id, node_id, item, self.epoch)

    async def _open(
        self, request: GateRequest, found: ApprovalRequest | None, because: str
    ) -> ApprovalRequest:
        terms, given = request.terms, _carried(found)
        seconds, moments = timers_of(terms)
        ask = Ask(
            node_id=request.node_id,
            item=request.item,
            agent=request.agent,
            digest=request.digest,
            title=request.title,
            card=await self._card(request, found),
            targets=request.targets,
            terms=terms_to(terms),
            edits=request.edits or None,
            expires_in_s=terms.hard_timeout_s,
            valid_s=terms.valid_s,
            next_in_s=min(seconds, default=None),
            next_at=min(moments, default=None),
        )
        return await open_request(
            self.database,
            ask,
            run_id=self.run_id,
            token=self.token,
            epoch=self.epoch,
            judge=self.judge,
            given=given,
            standing=await self._standing(request, given),
            because=because,
        )

    async def _card(self, request: GateRequest, found: ApprovalRequest | None) -> dict[str, Any]:
        """Add to a card what came of such things before, and what is new."""
        past = await past_uses(self.database, request.agent, request.targets)
        history = [
            {
                "at": one.at.isoformat(),
                "run_id": str(one.run_id),
                "workflow": one.workflow,
                "state": one.state,
                "approved_by": list(one.approved_by),
            }
            for one in past
        ]
        replaced = found is not None and found.state in _REPLACED and found.digest != request.digest
        changed = changes_between(found.card, request.card) if found and replaced else []
        return {**request.card, "history": history, "changed": changed}

    async def _standing(self, request: GateRequest, given: list[Said]) -> list[UUID]:
        """Choose standing grants, as many as are needed and no more."""
        if not request.targets:
            return []
        workflow, people = str(request.card.get("workflow")), self.judge.rules.current().people
        chosen: list[UUID] = []
        votes = [Vote(said.person, said.groups) for said in given]
        for one in await usable_standing(self.database, request.agent, workflow):
            person = people.find(one.person, claims=one.claims)
            if person is None or not person.approver or not covers(one.targets, request.targets):
                continue
            before = tally(request.terms, votes, now=one.read_at, escalated=False)
            after = tally(
                request.terms, [*votes, Vote(person.name, person.groups)], now=one.read_at, escalated=False
            )
            if _missing(after) < _missing(before):
                chosen.append(one.id)
                votes.append(Vote(person.name, person.groups))
        return chosen

    def _waiting(self, found: ApprovalRequest) -> Waiting:
        return Waiting(str(found.id), f"waits for approval {found.id}, needs {self.judge.tally(found).needs}")

    async def _use(self, found: ApprovalRequest, request: GateRequest) -> bool:
        return await use_grant(
            self.database, found.id, digest=request.digest, epoch=self.epoch, token=self.token
        )


def _missing(counted: Tally) -> int:
    return sum(one.missing for one in counted.clauses)


def _last(found: ApprovalRequest, verdict: Verdict) -> Decision | None:
    return next((said for said in reversed(found.decisions) if said.decision is verdict), None)


def _editing(found: ApprovalRequest) -> Decision | None:
    """Give the decision that closed a request with other inputs."""
    if found.state is not ApprovalState.EDITED:
        return None
    return next((said for said in reversed(found.decisions) if said.edits is not None), None)


def _carried(found: ApprovalRequest | None) -> list[Said]:
    """Whoever approved with other inputs has approved the request with those."""
    editing = _editing(found) if found is not None else None
    if editing is None:
        return []
    return [
        Said(
            editing.person,
            Verdict.APPROVE,
            "edit",
            groups=editing.groups,
            claims=editing.claims,
            comment=editing.comment,
            break_glass=editing.break_glass,
        )
    ]


def _refuse_ended(found: ApprovalRequest) -> None:
    """Raise when a request came to an end that no new request follows."""
    if found.state is ApprovalState.WITHDRAWN:
        raise ApprovalWithdrawn(f"{found.title}: withdrawn: {found.reason}")
    if found.state is ApprovalState.EXPIRED and terms_from(found.terms).on_timeout == "fail":
        raise ApprovalLapsed(f"{found.title}: nobody decided in time")
    if found.state is ApprovalState.EXPIRED:
        raise ApprovalError(f"{found.title}: nobody decided in time")
    if found.state is ApprovalState.REJECTED:
        last = _last(found, Verdict.REJECT)
        who = f" by {last.person}" if last else ""
        why = f": {last.comment}" if last and last.comment else ""
        raise ApprovalError(f"{found.title}: rejected{who}{why}")
