"""What happens to an open request by itself, and when: reminders, escalation, the end of a freeze."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from penstock.approvals.terms import Terms

__all__ = ["Schedule", "due", "next_after", "timers_of"]

Kind = Literal["reminder", "escalation", "thaw"]


@dataclass(frozen=True)
class Schedule:
    """What is due now, and when something is due next."""

    kinds: frozenset[Kind]
    next_at: datetime | None


def due(terms: Terms, *, opened_at: datetime, since: datetime, now: datetime) -> Schedule:
    """Say what has become due.

    Several reminders that were missed while nobody was there to send them are one.

    Args:
        since: Everything due by then has been seen to.
    """
    kinds: frozenset[Kind] = frozenset(kind for at, kind in _times(terms, opened_at) if since < at <= now)
    return Schedule(kinds, next_after(terms, opened_at=opened_at, now=now))


def next_after(terms: Terms, *, opened_at: datetime, now: datetime) -> datetime | None:
    """Say when something is due next; None when nothing is."""
    return min((at for at, _ in _times(terms, opened_at) if at > now), default=None)


def timers_of(terms: Terms) -> tuple[list[float], list[datetime]]:
    """List what is due at all: seconds from the opening, and moments."""
    escalates = terms.escalates_after_s
    seconds = [*terms.remind_s, *(() if escalates is None else (escalates,))]
    return seconds, [clause.until for clause in terms.clauses if clause.until is not None]


def _times(terms: Terms, opened_at: datetime) -> Iterator[tuple[datetime, Kind]]:
    for seconds in terms.remind_s:
        yield opened_at + timedelta(seconds=seconds), "reminder"
    if terms.escalates_after_s is not None:
        yield opened_at + timedelta(seconds=terms.escalates_after_s), "escalation"
    for clause in terms.clauses:
        if clause.until is not None:
            # A freeze may end while the node is planned, before anybody is asked.
            yield max(clause.until, opened_at + timedelta.resolution), "thaw"
