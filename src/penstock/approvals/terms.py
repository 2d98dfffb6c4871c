"""The terms of a request for approval: who has to agree, until when, and what may be changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import TypeAdapter

__all__ = ["Clause", "OnTimeout", "Terms", "terms_from", "terms_to"]

OnTimeout = Literal["reject", "fail", "escalate"]

DAY_S = 86_400.0


@dataclass(frozen=True)
class Clause:
    """One condition; a request is approved when all of its clauses are met."""

    source: str
    """Where it comes from: `risk`, `workflow`, `policy <file>/<rule>` or `freeze <file>/<freeze>`."""
    why: str
    """For people: why the gate is here."""
    count: int = 1
    """Distinct people who must approve."""
    of: tuple[str, ...] = ()
    """Who may approve, each as `user:name` or `group:name`; empty means every approver."""
    distinct_groups: bool = False
    """Whether those who are counted must stand for different groups of `of`."""
    forbid: tuple[str, ...] = ()
    """Who may not approve: `requester`, `last_editor`."""
    break_glass: bool = False
    """Whether only approvals count that say, with a reason, that they break the glass: a freeze."""
    until: datetime | None = None
    """When the clause falls away: the end of a freeze."""


@dataclass(frozen=True)
class Terms:
    """What a request was opened with; it never changes afterwards."""

    clauses: tuple[Clause, ...]
    requester: str = ""
    last_editor: str = ""
    """Who applied the workflow's revision."""
    timeout_s: float | None = None
    """How long the request waits, in seconds; None means for ever."""
    on_timeout: OnTimeout = "reject"
    remind_s: tuple[float, ...] = ()
    """When to remind, in seconds from the opening."""
    escalate_after_s: float | None = None
    escalate_to: tuple[str, ...] = ()
    """Who may approve as well for the workflow's own clause once it is escalated."""
    editable: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """Inputs that an approver may change, each with the JSON Schema of its value."""
    valid_s: float = DAY_S
    """How long an approval may be used, in seconds from the decision."""
    policy: str = ""
    """Version of the policies it was made with: a digest."""

    @property
    def hard_timeout_s(self) -> float | None:
        """Seconds from the opening after which nobody can decide any more; None means never.

        With `on_timeout: escalate` the time runs a second time for those who were asked then.
        """
        if self.timeout_s is None:
            return None
        return self.timeout_s * 2 if self.on_timeout == "escalate" else self.timeout_s

    @property
    def escalates_after_s(self) -> float | None:
        """Seconds from the opening after which further people are asked; None means never."""
        if not self.escalate_to:
            return None
        by_timeout = self.timeout_s if self.on_timeout == "escalate" else None
        times = [time for time in (self.escalate_after_s, by_timeout) if time is not None]
        return min(times, default=None)

    def people(self, *, escalated: bool) -> Sequence[str]:
        """List whom the request is for, each once; empty means every approver."""
        if any(not clause.of for clause in self.clauses):
            named: tuple[str, ...] = ()
        else:
            named = tuple(dict.fromkeys(who for clause in self.clauses for who in clause.of))
        return tuple(dict.fromkeys((*named, *self.escalate_to))) if escalated and named else named


_ADAPTER = TypeAdapter(Terms)


def terms_to(terms: Terms) -> dict[str, Any]:
    """Write terms in JSON types."""
    return _ADAPTER.dump_python(terms, mode="json")


def terms_from(data: Mapping[str, Any]) -> Terms:
    """Read what `terms_to` wrote; a request from before it had terms counts as one that nobody can meet."""
    return _ADAPTER.validate_python({"clauses": (), **data})
