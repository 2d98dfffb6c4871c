"""How values are written on pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from penstock.approvals.characters import is_unseen, visible
from penstock.gateway.shown import ago, duration, moment, plain, seen, span, urgency, value_text

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(**delta: float) -> str:
    return (NOW + timedelta(**delta)).isoformat()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (2 * 3600 + 600, "2 h 10 min"),
        (10 * 3600 + 600, "10 h"),
        (86_400, "1 d"),
        (3 * 86_400 + 4 * 3600, "3 d 4 h"),
        (40 * 86_400, "40 d"),
    ],
)
def test_lengths_of_time_are_told_in_one_unit_or_two(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_times_are_told_from_now() -> None:
    assert (span(at(minutes=5), NOW), span(at(minutes=-5), NOW), span(None, NOW)) == ("5 min", "5 min", "")
    assert (ago(at(seconds=-3), NOW), ago(at(hours=-1), NOW), ago(None, NOW)) == ("just now", "1 h ago", "")
    assert moment(None) is None


@pytest.mark.parametrize(
    ("minutes", "word"), [(14, "late"), (16, "near"), (119, "near"), (121, ""), (-1, "late")]
)
def test_the_end_comes_near(minutes: int, word: str) -> None:
    assert urgency(at(minutes=minutes), NOW) == word
    assert urgency(None, NOW) == ""


def test_unseen_characters_are_written_out_and_told_from_what_looks_like_them() -> None:
    real, fake = seen("a\u202eb<"), seen("a\\u202eb<")

    assert real == ('a<span class="unseen" title="right-to-left override">\\u202e</span>b&lt;')
    assert fake == "a\\u202eb&lt;"
    assert plain("a\u202eb\r\n") == "a\\u202eb\n"
    assert seen("a\r\nb\rc") == 'a\nb<span class="unseen" title="a character without a name">\\u000d</span>c'


def test_values_are_texts_or_json() -> None:
    assert value_text("a\nb") == "a\nb"
    assert value_text({"a": [1, "ü"]}) == Markup("{\n  &#34;a&#34;: [\n    1,\n    &#34;ü&#34;\n  ]\n}")


@given(st.text())
def test_whatever_is_shown_is_seen(text: str) -> None:
    assert not any(is_unseen(char) for char in seen(text))
    assert not any(is_unseen(char) for char in visible(text))
    assert seen(text).striptags() == Markup.escape(visible(text)).striptags()
