"""Joins the rows of the store with the rules: who may decide, whether it is enough, and what is due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.approvals.people import Person
from penstock.approvals.quorum import Tally, Vote, live_clauses, refusal, tally
from penstock.approvals.rules import RuleBook
from penstock.approvals.terms import Terms, terms_from
from penstock.approvals.timers import due
from penstock.errors import ApprovalDenied, InputInvalid, PenstockError
from penstock.store.approval_ends import Due
from penstock.store.approvals import ApprovalRequest, Said
from penstock.store.states import ApprovalState, Verdict
from penstock.workflow.messages import find_errors

__all__ = ["RuleJudge"]


@dataclass(frozen=True)
class RuleJudge:
    """Judges by the rules that are in force and by the terms of each request."""

    rules: RuleBook

    def tally(self, request: ApprovalRequest) -> Tally:
        """Count the approvals of people who may still approve."""
        return tally(
            terms_from(request.terms),
            self._votes(request),
            now=request.read_at,
            escalated=request.escalated_at is not None,
        )

    def met(self, request: ApprovalRequest) -> bool:
        """Say whether the approvals so far are enough."""
        return self.tally(request).met

    def refusal(self, request: ApprovalRequest, said: Said) -> PenstockError | None:
        """Say why a person may not say that."""
        person = self.rules.current().people.find(said.person, claims=said.claims)
        if person is None:
            return ApprovalDenied(f"{said.person} is not known here")
        if why := self.why_not(request, person, break_glass=said.break_glass):
            return ApprovalDenied(why)
        if wrong := _wrong(terms_from(request.terms), said):
            return InputInvalid(wrong)
        return None

    def why_not(self, request: ApprovalRequest, person: Person, *, break_glass: bool = False) -> str:
        """Say why a person may not decide; empty when he may.

        In a freeze somebody whose approval counts only when it breaks the glass may decide as well.
        """
        terms, escalated = terms_from(request.terms), request.escalated_at is not None
        why = refusal(terms, person, now=request.read_at, escalated=escalated, break_glass=break_glass)
        if why and not break_glass:
            broken = refusal(terms, person, now=request.read_at, escalated=escalated, break_glass=True)
            return why if broken else ""
        return why

    def due(self, request: ApprovalRequest) -> Due:
        """Say what is due for an open request."""
        terms = terms_from(request.terms)
        now = request.read_at
        found = due(terms, opened_at=request.opened_at, since=request.timed_until, now=now)
        return Due(
            reminder="reminder" in found.kinds,
            escalation="escalation" in found.kinds and request.escalated_at is None,
            closes=self._after_thaw(request, terms) if "thaw" in found.kinds else None,
            valid_s=terms.valid_s,
            next_at=found.next_at,
        )

    def _after_thaw(self, request: ApprovalRequest, terms: Terms) -> ApprovalState | None:
        if not live_clauses(terms, now=request.read_at, escalated=False):
            return ApprovalState.VOID
        return ApprovalState.APPROVED if self.met(request) else None

    def _votes(self, request: ApprovalRequest) -> list[Vote]:
        people = self.rules.current().people
        votes: list[Vote] = []
        for said in request.decisions:
            person = people.find(said.person, claims=said.claims)
            if said.decision is Verdict.APPROVE and person is not None and person.approver:
                votes.append(Vote(person.name, person.groups, said.break_glass))
        return votes


def _wrong(terms: Terms, said: Said) -> str:
    """Say what is wrong with what somebody says, whoever it is; empty when nothing is."""
    if said.verdict is Verdict.SEND_BACK and not said.comment.strip():
        return "comment: say what should be different, when you send it back"
    if said.break_glass and not said.comment.strip():
        return "comment: give the reason for breaking the glass"
    if said.break_glass and said.verdict is not Verdict.APPROVE:
        return "break_glass: only an approval breaks the glass"
    if said.edits is None:
        return ""
    if said.verdict is not Verdict.APPROVE:
        return "edits: only with an approval inputs can be changed"
    return wrong_edits(terms.editable, said.edits)


def wrong_edits(editable: Mapping[str, Mapping[str, Any]], edits: Mapping[str, Any]) -> str:
    """Say what is wrong with changed inputs, all of it; empty when nothing is."""
    if not edits:
        return "edits: nothing is changed"
    known = ", ".join(sorted(editable)) or "none"
    problems = [
        f"edits.{name}: may not be changed (what may be: {known})" for name in edits if name not in editable
    ]
    for name, value in edits.items():
        for path, message in find_errors(value, editable.get(name, {})):
            place = ".".join(["edits", name, *(str(part) for part in path)])
            problems.append(f"{place}: {message}")
    return "\n".join(problems)
