"""Whether the approvals that were given are enough, and who may give one. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from penstock.approvals.people import Person
from penstock.approvals.terms import Clause, Terms

__all__ = ["Counted", "Tally", "Vote", "live_clauses", "matching", "refusal", "stands_for", "tally"]


@dataclass(frozen=True)
class Vote:
    """One approval."""

    person: str
    groups: frozenset[str] = frozenset()
    """The person's groups at that time."""
    break_glass: bool = False
    """Whether it was given to break a freeze, with a reason."""


@dataclass(frozen=True)
class Counted:
    """How far one clause is met."""

    clause: Clause
    given: tuple[str, ...]
    """The people who count for it, by name."""
    missing: int
    """How many more are needed; 0 when it is met."""


@dataclass(frozen=True)
class Tally:
    """How far a request is approved."""

    clauses: tuple[Counted, ...]
    """The clauses that are live, in the order of the terms."""

    @property
    def met(self) -> bool:
        """Whether everything is met; without any clause nothing ever is."""
        return bool(self.clauses) and all(not counted.missing for counted in self.clauses)

    @property
    def needs(self) -> str:
        """What is missing, for people: `1 more approval from group:sre; ...`; empty when it is met."""
        if not self.clauses:
            return "its conditions have fallen away; it is asked anew"
        return "; ".join(dict.fromkeys(_need(counted) for counted in _telling(self.clauses)))


def tally(terms: Terms, votes: Iterable[Vote], *, now: datetime, escalated: bool) -> Tally:
    """Count the approvals of a request.

    Args:
        votes: Approvals only; several of one person count as one.
        now: With a time zone; clauses whose `until` has come have fallen away.
        escalated: Whether further people have been asked.
    """
    live = live_clauses(terms, now=now, escalated=escalated)
    counting = [vote for vote in _one_each(votes) if not _forbidden(terms, live, vote.person)]
    return Tally(tuple(_count(clause, counting) for clause in live))


def live_clauses(terms: Terms, *, now: datetime, escalated: bool) -> tuple[Clause, ...]:
    """Give the clauses that hold now, with those who were asked later."""
    return tuple(
        _widened(clause, terms) if escalated else clause
        for clause in terms.clauses
        if clause.until is None or now < clause.until
    )


def _widened(clause: Clause, terms: Terms) -> Clause:
    if clause.source != "workflow" or not clause.of:
        return clause
    return replace(clause, of=tuple(dict.fromkeys((*clause.of, *terms.escalate_to))))


def _one_each(votes: Iterable[Vote]) -> list[Vote]:
    """Join the votes of one person, sorted by name."""
    found: dict[str, Vote] = {}
    for vote in votes:
        other = found.get(vote.person, vote)
        found[vote.person] = Vote(
            vote.person, vote.groups | other.groups, vote.break_glass or other.break_glass
        )
    return [found[name] for name in sorted(found)]


def _forbidden(terms: Terms, live: Sequence[Clause], name: str) -> str:
    """Give the part for which a person may not approve; empty when there is none."""
    parts = {"requester": terms.requester, "last_editor": terms.last_editor}
    return next((part for clause in live for part in clause.forbid if name and parts[part] == name), "")


def _count(clause: Clause, votes: Sequence[Vote]) -> Counted:
    entries = {
        vote.person: stands_for(clause, vote.person, vote.groups)
        for vote in votes
        if vote.break_glass or not clause.break_glass
    }
    able = {name: found for name, found in entries.items() if found or not clause.of}
    given = matching(able) if clause.distinct_groups and clause.of else tuple(able)
    return Counted(clause, given, max(0, clause.count - len(given)))


def stands_for(clause: Clause, name: str, groups: Iterable[str]) -> tuple[str, ...]:
    """Give the entries of a clause's `of` that somebody stands for."""
    own = {f"user:{name}", *(f"group:{group}" for group in groups)}
    return tuple(entry for entry in dict.fromkeys(clause.of) if entry in own)


def matching(able: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Find the most people who can each stand for an entry of their own.

    Args:
        able: Entries that each person may stand for.
    Returns:
        The people, in the order given.
    """
    held: dict[str, str] = {}

    def seat(name: str, tried: set[str]) -> bool:
        for entry in able[name]:
            if entry not in tried:
                tried.add(entry)
                if entry not in held or seat(held[entry], tried):
                    held[entry] = name
                    return True
        return False

    return tuple(name for name in able if seat(name, set()))


def refusal(
    terms: Terms, person: Person, *, now: datetime, escalated: bool, break_glass: bool = False
) -> str:
    """Say why somebody may not approve; empty when he may.

    Args:
        now: With a time zone.
        escalated: Whether further people have been asked.
        break_glass: Whether the approval is to break a freeze.
    """
    live = live_clauses(terms, now=now, escalated=escalated)
    return next(_refusals(terms, live, person, break_glass=break_glass), "")


def _refusals(terms: Terms, live: Sequence[Clause], person: Person, *, break_glass: bool) -> Iterator[str]:
    name = person.name
    if not person.approver:
        yield f"{name} is no approver"
    if not live:
        yield "there is nothing to approve: the conditions have fallen away, and it is asked anew"
    if part := _forbidden(terms, live, name):
        yield f"{name} {_PARTS[part]} and may not approve it"
    named = [clause for clause in live if _names(clause, person)]
    if not named:
        yield f"{name} is not among those who may approve: {' or '.join(_people(live))}"
    yield from _glass_refusals(live, named, name, break_glass=break_glass)


def _glass_refusals(
    live: Sequence[Clause], named: Sequence[Clause], name: str, *, break_glass: bool
) -> Iterator[str]:
    freezes = [clause for clause in live if clause.break_glass]
    own = [clause for clause in named if clause.break_glass]
    if break_glass and not freezes:
        yield "there is no glass to break: no freeze is on"
    if break_glass and not own:
        yield f"{name} is not among those who may break the {freezes[0].source}"
    if not break_glass and own == named:
        yield f"the {own[0].source} is on: only an approval that breaks the glass counts"


_PARTS = {"requester": "asked for it", "last_editor": "applied the workflow"}


def _names(clause: Clause, person: Person) -> bool:
    return not clause.of or bool(stands_for(clause, person.name, person.groups))


def _people(clauses: Iterable[Clause]) -> list[str]:
    return list(dict.fromkeys(entry for clause in clauses for entry in clause.of))


def _telling(clauses: Sequence[Counted]) -> Iterator[Counted]:
    """Leave out what is met, and what is met as soon as something else is."""
    missing = [counted for counted in clauses if counted.missing]
    anybody = max((counted.missing for counted in missing if _takes_anybody(counted.clause)), default=0)
    named = max(
        (counted.missing for counted in missing if counted.clause.of and not counted.clause.break_glass),
        default=0,
    )
    for counted in missing:
        if not _takes_anybody(counted.clause) or named < counted.missing == anybody:
            yield counted


def _takes_anybody(clause: Clause) -> bool:
    return not clause.of and not clause.break_glass


def _need(counted: Counted) -> str:
    clause, missing = counted.clause, counted.missing
    more = " more" if counted.given else ""
    who = f" from {' or '.join(clause.of)}" if clause.of else ""
    each = ", each for another of these" if clause.distinct_groups and clause.count > 1 else ""
    glass = f" that break{'s' if missing == 1 else ''} the {clause.source}" if clause.break_glass else ""
    return f"{missing}{more} approval{'' if missing == 1 else 's'}{glass}{who}{each}"
