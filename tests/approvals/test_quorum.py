"""Whether approvals are enough, who may give one, and laws that hold for all terms and votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.approvals.people import Person
from penstock.approvals.quorum import Counted, Tally, Vote, matching, refusal, tally
from penstock.approvals.terms import Clause, Terms

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
RISK = Clause("risk", "it changes things")
SRE = Clause("workflow", "asked for", of=("group:sre",))
FREEZE = Clause("freeze prod/holidays", "nobody is here", count=2, break_glass=True, until=LATER)


def vote(person: str, *groups: str, glass: bool = False) -> Vote:
    return Vote(person, frozenset(groups), glass)


def count(terms: Terms | Clause, *votes: Vote, now: datetime = NOW, escalated: bool = False) -> Tally:
    whole = Terms((terms,)) if isinstance(terms, Clause) else terms
    return tally(whole, votes, now=now, escalated=escalated)


def test_nothing_is_met_without_a_clause() -> None:
    empty = count(Terms(()), vote("ada"))

    assert not empty.met
    assert empty.clauses == ()
    assert empty.needs == "its conditions have fallen away; it is asked anew"


def test_any_approver_counts_when_nobody_is_named() -> None:
    before, after = count(RISK), count(RISK, vote("ada"))

    assert (before.met, before.needs) == (False, "1 approval")
    assert (after.met, after.needs) == (True, "")
    assert after.clauses == (Counted(RISK, ("ada",), 0),)


def test_people_count_once_and_by_the_case_of_their_names() -> None:
    two = replace(RISK, count=2)

    assert not count(two, vote("ada"), vote("ada")).met
    assert count(two, vote("ada"), vote("ada")).needs == "1 more approval"
    assert count(two, vote("ada"), vote("Ada")).met


def test_votes_of_one_person_are_taken_together() -> None:
    glass = replace(FREEZE, count=1, of=("group:sre",))

    assert count(glass, vote("ada", "sre"), vote("ada", glass=True)).met


def test_only_those_who_are_named_count() -> None:
    named = replace(SRE, of=("group:sre", "user:bob"))

    assert not count(named, vote("sre"), vote("carol", "dev"), vote("group:sre")).met
    assert count(named, vote("bob")).met
    assert count(named, vote("carol", "dev", "sre")).met
    assert count(named).needs == "1 approval from group:sre or user:bob"
    assert not count(replace(SRE, of=("user:sre",)), vote("x", "sre")).met


def test_every_clause_must_be_met() -> None:
    terms = Terms((RISK, SRE, replace(SRE, source="policy a/b", of=("group:dev",), count=2)))
    votes = [vote("ada", "sre"), vote("bob", "dev")]

    found = count(terms, *votes)

    assert not found.met
    assert [counted.missing for counted in found.clauses] == [0, 0, 1]
    assert [counted.given for counted in found.clauses] == [("ada", "bob"), ("ada",), ("bob",)]
    assert found.needs == "1 more approval from group:dev"
    assert count(terms, *votes, vote("cy", "dev")).met


@pytest.mark.parametrize("part", ["requester", "last_editor"])
def test_who_is_forbidden_by_one_clause_counts_for_none(part: str) -> None:
    terms = Terms((RISK, replace(SRE, forbid=(part,))), requester="ada", last_editor="ada")
    other = replace(terms, requester="bob", last_editor="bob")

    assert [counted.given for counted in count(terms, vote("ada", "sre")).clauses] == [(), ()]
    assert count(other, vote("ada", "sre")).met


def test_nobody_is_forbidden_by_a_part_that_nobody_has() -> None:
    assert count(Terms((replace(RISK, forbid=("requester",)),)), vote("")).met


def test_a_freeze_counts_only_approvals_that_break_the_glass() -> None:
    terms = Terms((RISK, FREEZE))
    found = count(terms, vote("ada"), vote("bob", glass=True))

    assert found.needs == "1 more approval that breaks the freeze prod/holidays"
    assert [counted.given for counted in found.clauses] == [("ada", "bob"), ("bob",)]
    assert count(terms, vote("ada", glass=True), vote("bob", glass=True)).met
    assert count(Terms((SRE, FREEZE)), vote("ada", "sre")).needs == (
        "2 approvals that break the freeze prod/holidays"
    )


def test_a_clause_falls_away_when_its_time_has_come() -> None:
    terms = Terms((RISK, FREEZE))

    assert not count(terms, vote("ada"), now=LATER - timedelta(microseconds=1)).met
    assert count(terms, vote("ada"), now=LATER).met
    assert not count(Terms((FREEZE,)), vote("ada", glass=True), vote("bob", glass=True), now=LATER).met


def test_those_who_were_asked_later_count_for_the_workflow_alone() -> None:
    policy = replace(SRE, source="policy a/b")
    terms = Terms((SRE,), escalate_to=("user:boss", "group:sre"))

    assert not count(terms, vote("boss")).met
    assert count(terms, vote("boss"), escalated=True).met
    assert count(terms, escalated=True).needs == "1 approval from group:sre or user:boss"
    assert not count(replace(terms, clauses=(policy,)), vote("boss"), escalated=True).met
    anybody = replace(terms, clauses=(replace(SRE, of=()),))
    assert count(anybody, vote("x"), escalated=True).met
    assert count(anybody, escalated=True).clauses[0].clause.of == ()


def test_distinct_groups_need_people_who_stand_for_different_ones() -> None:
    both = replace(SRE, count=2, of=("group:sre", "group:dev"), distinct_groups=True)

    assert count(both).needs == "2 approvals from group:sre or group:dev, each for another of these"
    assert not count(both, vote("ada", "sre"), vote("bob", "sre")).met
    assert not count(both, vote("ada", "sre", "dev")).met
    assert count(both, vote("ada", "sre", "dev"), vote("bob", "sre")).met
    assert count(both, vote("ada", "sre"), vote("bob", "sre", "dev")).met
    assert count(both, vote("ada", "sre"), vote("bob", "sre")).clauses[0] == Counted(both, ("ada",), 1)


def test_one_of_distinct_groups_is_asked_for_like_one_of_any() -> None:
    one = replace(SRE, of=("group:sre", "group:dev"), distinct_groups=True)

    assert count(one).needs == "1 approval from group:sre or group:dev"


def test_an_approval_breaks_no_glass_unless_it_says_so() -> None:
    assert not count(replace(FREEZE, count=1), Vote("ada")).met


def test_a_user_stands_for_himself_among_distinct_groups() -> None:
    both = replace(SRE, count=2, of=("group:sre", "user:bob"), distinct_groups=True)

    assert count(both, vote("ada", "sre"), vote("bob", "sre")).met
    assert not count(both, vote("bob", "sre")).met


def test_an_entry_that_is_named_twice_is_one() -> None:
    twice = replace(SRE, count=2, of=("group:sre", "group:sre"), distinct_groups=True)

    assert not count(twice, vote("ada", "sre"), vote("bob", "sre")).met


@pytest.mark.parametrize(
    ("clauses", "needs"),
    [
        ((RISK, SRE), "1 approval from group:sre"),
        ((RISK, replace(RISK, count=3)), "3 approvals"),
        ((replace(RISK, count=2), SRE), "2 approvals; 1 approval from group:sre"),
        ((RISK, replace(RISK, source="workflow")), "1 approval"),
        (
            (RISK, FREEZE),
            "1 approval; 2 approvals that break the freeze prod/holidays",
        ),
        (
            (replace(FREEZE, of=("group:sre",), count=3),),
            "3 approvals that break the freeze prod/holidays from group:sre",
        ),
    ],
)
def test_what_is_needed_is_said_without_what_goes_without_saying(
    clauses: tuple[Clause, ...], needs: str
) -> None:
    assert count(Terms(clauses)).needs == needs


ADA = Person("ada", frozenset({"sre"}))
REFUSED = {
    "no approver": (Terms((RISK,)), replace(ADA, approver=False), False, "ada is no approver"),
    "no clause": (Terms(()), ADA, False, "there is nothing to approve"),
    "requester": (
        Terms((RISK, replace(SRE, forbid=("last_editor", "requester"))), requester="ada"),
        ADA,
        False,
        "ada asked for it and may not approve it",
    ),
    "last editor": (
        Terms((replace(RISK, forbid=("last_editor",)),), last_editor="ada"),
        ADA,
        False,
        "ada applied the workflow and may not approve it",
    ),
    "not named": (
        Terms((replace(SRE, of=("group:dev", "user:bob")), replace(SRE, of=("group:dev",)))),
        ADA,
        False,
        "ada is not among those who may approve: group:dev or user:bob",
    ),
    "no freeze": (Terms((RISK,)), ADA, True, "there is no glass to break: no freeze is on"),
    "not named by the freeze": (
        Terms((RISK, replace(FREEZE, of=("group:boss",)))),
        ADA,
        True,
        "ada is not among those who may break the freeze prod/holidays",
    ),
    "freeze alone": (
        Terms((FREEZE, replace(SRE, of=("group:dev",)))),
        ADA,
        False,
        "the freeze prod/holidays is on: only an approval that breaks the glass counts",
    ),
}


@pytest.mark.parametrize(("terms", "person", "glass", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_who_may_not_approve_is_told_why(terms: Terms, person: Person, glass: bool, reason: str) -> None:
    found = refusal(terms, person, now=NOW, escalated=False, break_glass=glass)

    assert found.startswith(reason)


def test_who_may_approve_is_not_refused() -> None:
    both = Terms((SRE, FREEZE), requester="ada", last_editor="ada", escalate_to=("user:boss",))

    assert refusal(both, ADA, now=NOW, escalated=False) == ""
    assert refusal(both, ADA, now=NOW, escalated=False, break_glass=True) == ""
    assert refusal(both, Person("boss"), now=NOW, escalated=False) != ""
    assert refusal(both, Person("boss"), now=NOW, escalated=True) == ""
    assert refusal(both, ADA, now=LATER, escalated=False, break_glass=True) != ""
    assert refusal(Terms((FREEZE,)), ADA, now=LATER, escalated=False) != ""


# Laws.

laws = settings(derandomize=True, max_examples=200, deadline=None)
NAMES, GROUPS = ("ada", "bob", "cy", "dan", "eve"), ("sre", "dev", "ops")
ENTRIES = [*(f"group:{name}" for name in GROUPS), "user:ada", "user:bob"]

votes_of_many = st.lists(
    st.builds(Vote, st.sampled_from(NAMES), st.frozensets(st.sampled_from(GROUPS)), st.booleans()), max_size=7
)


@st.composite
def clauses(draw: st.DrawFn) -> Clause:
    of = tuple(draw(st.lists(st.sampled_from(ENTRIES), unique=True, max_size=4)))
    return Clause(
        source=draw(st.sampled_from(["workflow", "risk", "policy a/b"])),
        why="",
        count=draw(st.integers(1, 3)),
        of=of,
        distinct_groups=bool(of) and draw(st.booleans()),
        forbid=tuple(draw(st.lists(st.sampled_from(["requester", "last_editor"]), unique=True, max_size=2))),
        break_glass=draw(st.booleans()),
        until=draw(st.sampled_from([None, NOW, LATER])),
    )


terms_of_all_kinds = st.builds(
    Terms,
    st.lists(clauses(), max_size=4).map(tuple),
    requester=st.sampled_from(["", "ada"]),
    last_editor=st.sampled_from(["", "bob"]),
    escalate_to=st.sampled_from([(), ("user:cy", "group:ops")]),
)


@laws
@given(terms=terms_of_all_kinds, votes=votes_of_many, more=votes_of_many, escalated=st.booleans())
def test_more_approvals_never_take_one_away(
    terms: Terms, votes: list[Vote], more: list[Vote], escalated: bool
) -> None:
    before = count(terms, *votes, escalated=escalated)
    after = count(terms, *votes, *more, escalated=escalated)

    assert after.met or not before.met
    for one, other in zip(before.clauses, after.clauses, strict=True):
        assert other.missing <= one.missing


@laws
@given(terms=terms_of_all_kinds, votes=votes_of_many, chance=st.randoms(use_true_random=False))
def test_the_order_of_votes_does_not_matter(terms: Terms, votes: list[Vote], chance: object) -> None:
    mixed = [*votes]
    chance.shuffle(mixed)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

    assert count(terms, *mixed) == count(terms, *votes)


@laws
@given(terms=terms_of_all_kinds, votes=votes_of_many, more=votes_of_many, escalated=st.booleans())
def test_votes_of_people_who_are_forbidden_or_not_named_change_nothing(
    terms: Terms, votes: list[Vote], more: list[Vote], escalated: bool
) -> None:
    names = {one.person for one in votes}
    strangers = {one.person: one for one in more if one.person not in names}
    refused = [
        one
        for one in strangers.values()
        if all(
            refusal(terms, Person(one.person, one.groups), now=NOW, escalated=escalated, break_glass=glass)
            for glass in (False, True)
        )
    ]

    found = count(terms, *votes, *refused, escalated=escalated)

    assert found == count(terms, *votes, escalated=escalated)


@laws
@given(terms=terms_of_all_kinds, further=clauses(), votes=votes_of_many, escalated=st.booleans())
def test_a_further_clause_makes_nothing_easier(
    terms: Terms, further: Clause, votes: list[Vote], escalated: bool
) -> None:
    before = count(terms, *votes, escalated=escalated)
    more = replace(terms, clauses=(*terms.clauses, further))
    after = count(more, *votes, escalated=escalated)

    if before.clauses:
        assert before.met or not after.met
    for one, other in zip(before.clauses, after.clauses, strict=False):
        assert other.missing >= one.missing


@laws
@given(terms=terms_of_all_kinds, votes=votes_of_many, escalated=st.booleans())
def test_what_is_missing_is_said(terms: Terms, votes: list[Vote], escalated: bool) -> None:
    found = count(terms, *votes, escalated=escalated)

    assert (found.needs == "") is found.met


@laws
@given(terms=terms_of_all_kinds, votes=votes_of_many)
def test_it_is_met_only_by_people_who_may_approve(terms: Terms, votes: list[Vote]) -> None:
    found = count(terms, *votes)

    for counted in found.clauses:
        for name in counted.given:
            groups = frozenset[str]().union(*(one.groups for one in votes if one.person == name))
            glass = counted.clause.break_glass
            assert refusal(terms, Person(name, groups), now=NOW, escalated=False, break_glass=glass) == ""


@laws
@given(
    able=st.dictionaries(
        st.sampled_from(NAMES), st.lists(st.sampled_from("wxyz"), unique=True, max_size=4), max_size=5
    )
)
def test_matching_agrees_with_trying_everything(able: dict[str, list[str]]) -> None:
    found = matching(able)

    assert len(found) == _best(able)
    assert _best({name: able[name] for name in found}) == len(found)


def _best(able: dict[str, Sequence[str]] | dict[str, list[str]]) -> int:
    entries = [*"wxyz", *[""] * len(able)]
    return max(
        sum(entry in able[name] for name, entry in zip(able, order, strict=False))
        for order in permutations(entries, len(able))
    )
