from __future__ import annotations

from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.approvals.changes import changes_between

BEFORE: dict[str, Any] = {
    "title": "Patch",
    "revision": 3,
    "agent": {"name": "patcher", "version": "1", "does": "Patches."},
    "inputs": {"path": "a.py", "lines": [1, 2], "options": {"force": False}},
    "plan": {"summary": "s", "targets": ["a.py"], "changes": [], "diff": "-x"},
    "undo": "git revert",
    "run": "brave-otter",
    "why": "because",
}


def test_changes_are_named_by_their_place() -> None:
    after = {
        **BEFORE,
        "revision": 4,
        "inputs": {"path": "a.py", "lines": [2], "options": {"force": True}, "more": "é"},
        "plan": {**BEFORE["plan"], "diff": "-y"},
        "undo": "",
    }

    assert changes_between(BEFORE, after) == [
        {"what": "revision", "before": "3", "after": "4"},
        {"what": "inputs.lines", "before": "[1, 2]", "after": "[2]"},
        {"what": "inputs.options.force", "before": "false", "after": "true"},
        {"what": "inputs.more", "before": "", "after": "é"},
        {"what": "plan.diff", "before": "-x", "after": "-y"},
        {"what": "undo", "before": "git revert", "after": ""},
    ]


def test_what_does_not_run_is_no_change() -> None:
    told: dict[str, Any] = {"title": "x", "run": "x", "why": "x", "round": 2, "note": "x", "history": []}
    after = {**BEFORE, **told}

    assert changes_between(BEFORE, after) == []


def test_plan_that_comes_or_goes_is_one_change() -> None:
    (gone,) = changes_between(BEFORE, {**BEFORE, "plan": None})
    (come,) = changes_between({**BEFORE, "plan": None}, BEFORE)

    assert (gone["what"], gone["after"], come["before"]) == ("plan", "", "")
    assert gone["before"] == come["after"]
    assert '"diff": "-x"' in gone["before"]


def test_long_texts_are_cut_and_say_so() -> None:
    after = {**BEFORE, "undo": "x" * 5_000, "inputs": {**BEFORE["inputs"], "lines": [1] * 2_000}}

    lines, undo = changes_between(BEFORE, after)

    assert undo["after"] == "x" * 2_000 + "… (5,000 characters)"
    assert lines["after"].endswith("… (6,000 characters)")


# Python takes true for 1, and so does whoever compares two cards.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(2, 4) | st.text("ab.", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)
cards = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("revision", "agent", "inputs", "plan", "undo", "title"), json_values)
)


def compared(value: Any) -> Any:
    """Leave out of a mapping what is null: nobody can tell it from what is not there."""
    if not isinstance(value, dict):
        return value
    known = cast("dict[str, Any]", value)
    return {key: compared(inner) for key, inner in known.items() if inner is not None}


@settings(derandomize=True, max_examples=500, deadline=None)
@given(cards, cards)
def test_there_are_no_changes_exactly_when_all_that_counts_is_equal(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    one, other = ({key: card.get(key) for key in card if key != "title"} for card in (before, after))

    found = changes_between(before, after)

    assert (found == []) == (compared(one) == compared(other))
    assert [(one["before"], one["after"]) for one in found] == [
        (one["after"], one["before"])
        for what in (one["what"] for one in found)
        for one in changes_between(after, before)
        if one["what"] == what
    ]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(cards)
def test_card_does_not_differ_from_itself(card: dict[str, Any]) -> None:
    assert changes_between(card, card) == []
