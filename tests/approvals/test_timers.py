from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.approvals.terms import Clause, Terms
from penstock.approvals.timers import Schedule, due, next_after, timers_of

NONE = frozenset[str]()
OPENED = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return OPENED + timedelta(seconds=seconds)


def freeze(seconds: float) -> Clause:
    return Clause("freeze f/weekend", "weekend", break_glass=True, until=at(seconds))


def look(terms: Terms, since: float, now: float) -> Schedule:
    return due(terms, opened_at=OPENED, since=at(since), now=at(now))


TERMS = Terms(
    (Clause("workflow", "", of=("group:sre",)), freeze(50)),
    remind_s=(10, 20, 30),
    escalate_after_s=25,
    escalate_to=("group:leads",),
)


@pytest.mark.parametrize(
    ("since", "now", "kinds", "following"),
    [
        (0, 9.9, NONE, 10),
        (0, 10, frozenset({"reminder"}), 20),
        (10, 10, NONE, 20),
        (10, 29, frozenset({"reminder", "escalation"}), 30),
        (0, 49, frozenset({"reminder", "escalation"}), 50),
        (30, 50, frozenset({"thaw"}), None),
        (0, 1e6, frozenset({"reminder", "escalation", "thaw"}), None),
        (50, 1e6, NONE, None),
    ],
)
def test_due_is_what_has_come_since(
    since: float, now: float, kinds: set[str], following: float | None
) -> None:
    found = look(TERMS, since, now)

    assert (found.kinds, found.next_at) == (kinds, None if following is None else at(following))


def test_nothing_is_ever_due_without_timers() -> None:
    terms = Terms((Clause("risk", ""),))

    assert look(terms, 0, 1e9) == Schedule(frozenset(), None)
    assert timers_of(terms) == ([], [])


def test_timers_are_listed_for_the_first_look() -> None:
    assert timers_of(TERMS) == ([10, 20, 30, 25], [at(50)])


def test_request_escalates_at_its_timeout_when_that_is_what_the_timeout_does() -> None:
    terms = Terms((), timeout_s=60, on_timeout="escalate", escalate_to=("user:eve",))

    assert look(terms, 0, 60) == Schedule(frozenset({"escalation"}), None)


def test_freeze_that_ended_before_anybody_was_asked_is_seen_to() -> None:
    """Planning takes a while, and the request is opened with what held when it began."""
    assert look(Terms((freeze(-5),)), 0, 1).kinds == {"thaw"}
    assert look(Terms((freeze(0),)), 0, 1).kinds == {"thaw"}
    assert look(Terms((freeze(-5),)), 1, 1e6) == Schedule(frozenset(), None)


offsets = st.integers(1, 12)


@st.composite
def all_terms(draw: st.DrawFn) -> Terms:
    return Terms(
        tuple(freeze(seconds) for seconds in draw(st.lists(st.integers(-3, 12), max_size=2))),
        remind_s=tuple(draw(st.lists(offsets, max_size=4))),
        escalate_after_s=draw(st.none() | offsets),
        escalate_to=("user:eve",),
    )


@settings(derandomize=True, max_examples=300, deadline=None)
@given(all_terms(), st.lists(st.integers(1, 14), max_size=12))
def test_whatever_is_due_is_seen_to_once_however_often_one_looks(terms: Terms, gaps: list[int]) -> None:
    """Looks as a worker does: only once the time has come that the last look named."""
    seconds, moments = timers_of(terms)
    firsts = [*(at(one) for one in seconds), *moments]
    following = min(firsts, default=None)
    left: list[tuple[str, float]] = [("reminder", one) for one in terms.remind_s]
    left += [] if terms.escalate_after_s is None else [("escalation", terms.escalate_after_s)]
    left += [("thaw", max(0, (one - OPENED).total_seconds())) for one in moments]
    since, now = 0, 0
    for gap in (*gaps, 20):
        now += gap
        if following is None or following > at(now):
            assert not [one for one in left if one[1] <= now]
            continue
        found = look(terms, since, now)
        assert found.kinds == {kind for kind, when in left if when <= now}
        left = [one for one in left if one[1] > now]
        assert found.next_at == min((at(when) for _, when in left), default=None)
        assert found.next_at == next_after(terms, opened_at=OPENED, now=at(now))
        since, following = now, found.next_at
    assert left == []
