from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.approvals.targets import covers


@pytest.mark.parametrize(
    ("patterns", "targets", "covered"),
    [
        (["/srv/*"], ["/srv/a", "/srv/b/c"], True),
        (["/srv/*"], ["/srv/a", "/etc/a"], False),
        (["/srv/*", "/etc/a"], ["/srv/a", "/etc/a"], True),
        (["*"], ["anything\nat all"], True),
        (["a"], ["ab"], False),
        (["b"], ["ab"], False),
        (["A"], ["a"], False),
        (["a?"], ["ab"], False),
        (["a?"], ["a?"], True),
        (["[ab]"], ["a"], False),
        (["a.c"], ["abc"], False),
        (["a*c"], ["a/b/c"], True),
        (["a*"], ["a"], True),
        (["a"], ["a\n"], False),
        (["*"], [], False),
        ([], ["a"], False),
        ([], [], False),
        ([""], ["a"], False),
    ],
)
def test_every_target_must_fit_a_pattern(patterns: list[str], targets: list[str], *, covered: bool) -> None:
    assert covers(patterns, targets) is covered


def fits(pattern: str, target: str) -> bool:
    """Say the same by trying every way in which stars can stand for something."""
    if not pattern:
        return not target
    if pattern[0] == "*":
        return any(fits(pattern[1:], target[cut:]) for cut in range(len(target) + 1))
    return target[:1] == pattern[0] and fits(pattern[1:], target[1:])


patterns_ = st.lists(st.text("ab*.?[\\\n", max_size=5), max_size=3)
targets_ = st.lists(st.text("ab*.?[\\\n", max_size=5), max_size=3)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(patterns_, targets_)
def test_covers_agrees_with_trying_everything(patterns: list[str], targets: list[str]) -> None:
    expected = bool(targets) and all(any(fits(one, target) for one in patterns) for target in targets)

    assert covers(patterns, targets) is expected
    assert not covers(patterns, [])


@settings(derandomize=True, max_examples=200, deadline=None)
@given(patterns_, targets_, targets_)
def test_more_targets_are_never_easier_to_cover(
    patterns: list[str], targets: list[str], more: list[str]
) -> None:
    assert not (targets and covers(patterns, [*targets, *more]) and not covers(patterns, targets))
