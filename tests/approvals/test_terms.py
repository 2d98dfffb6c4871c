from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.approvals.terms import Clause, Terms, terms_from, terms_to

texts = st.text(max_size=8)
names = st.lists(st.sampled_from(["user:ann", "group:sre", "group:dba"]), max_size=3).map(tuple)
seconds = st.floats(0, 1e9, allow_nan=False)
zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))])
moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=zones)  # noqa: DTZ001  given zones
clauses = st.builds(
    Clause,
    source=texts,
    why=texts,
    count=st.integers(1, 9),
    of=names,
    distinct_groups=st.booleans(),
    forbid=st.lists(st.sampled_from(["requester", "last_editor"]), max_size=2).map(tuple),
    break_glass=st.booleans(),
    until=st.none() | moments,
)
schemas = st.fixed_dictionaries({"type": st.just("integer"), "maximum": st.integers(0, 9)})
all_terms = st.builds(
    Terms,
    clauses=st.lists(clauses, max_size=3).map(tuple),
    requester=texts,
    last_editor=texts,
    timeout_s=st.none() | seconds,
    on_timeout=st.sampled_from(["reject", "fail", "escalate"]),
    remind_s=st.lists(seconds, max_size=3).map(tuple),
    escalate_after_s=st.none() | seconds,
    escalate_to=names,
    editable=st.dictionaries(texts, schemas, max_size=2),
    valid_s=seconds,
    policy=texts,
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(all_terms)
def test_terms_come_back_from_json_as_they_were(terms: Terms) -> None:
    assert terms_from(json.loads(json.dumps(terms_to(terms)))) == terms


def test_request_from_before_it_had_terms_has_no_clause() -> None:
    assert terms_from({}) == Terms(())


@pytest.mark.parametrize("wrong", [{"on_timeout": "never"}, {"clauses": [{"source": "x"}]}])
def test_what_are_no_terms_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        terms_from(wrong)


@pytest.mark.parametrize(
    ("changes", "hard", "escalates"),
    [
        ({}, None, None),
        ({"timeout_s": 60.0}, 60, None),
        ({"timeout_s": 60.0, "on_timeout": "fail"}, 60, None),
        ({"timeout_s": 60.0, "on_timeout": "escalate", "escalate_to": ("user:eve",)}, 120, 60),
        (
            {
                "timeout_s": 60.0,
                "on_timeout": "escalate",
                "escalate_to": ("user:eve",),
                "escalate_after_s": 20.0,
            },
            120,
            20,
        ),
        ({"escalate_after_s": 20.0, "escalate_to": ("user:eve",)}, None, 20),
        ({"escalate_after_s": 20.0}, None, None),
        ({"escalate_to": ("user:eve",)}, None, None),
    ],
)
def test_times_of_the_end_and_of_the_escalation(
    changes: dict[str, object], hard: float | None, escalates: float | None
) -> None:
    terms = terms_from(changes)

    assert (terms.hard_timeout_s, terms.escalates_after_s) == (hard, escalates)


def test_people_are_those_whom_the_clauses_name_unless_one_takes_everybody() -> None:
    sre, both = Clause("workflow", "", of=("group:sre",)), Clause("p", "", of=("user:ann", "group:sre"))
    named = Terms((sre, both), escalate_to=("user:eve", "user:ann"))
    everybody = Terms((sre, Clause("risk", "")), escalate_to=("user:eve",))

    assert named.people(escalated=False) == ("group:sre", "user:ann")
    assert named.people(escalated=True) == ("group:sre", "user:ann", "user:eve")
    assert everybody.people(escalated=False) == everybody.people(escalated=True) == ()
