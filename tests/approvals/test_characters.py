from __future__ import annotations

import pytest

from penstock.approvals.characters import is_unseen, visible, written_out


@pytest.mark.parametrize(
    "char",
    [
        *("\x00", "\x1b", "\x7f", "\x85", "\xad", "\r"),
        *("\u200b", "\u200f", "\u2028", "\u202e", "\u2066", "\ufeff", "\ud800", "\ue000", "\U000e0041"),
        *("\u034f", "\u115f", "\u2800", "\u3164", "\uffa0", "\u180e", "\ufe0f", "\U000e0100"),
    ],
)
def test_what_nobody_sees_is_written_out(char: str) -> None:
    assert is_unseen(char)
    assert visible(f"a{char}b") == f"a{written_out(char)}b"
    assert written_out(char).isascii()


@pytest.mark.parametrize("text", ["plain", "a b\n\tc", "äöü ñ", "漢字 العربية", "→ ✓ 😀", "e\u0301"])
def test_what_people_see_stays(text: str) -> None:
    assert visible(text) == text


def test_windows_ends_of_lines_are_ends_of_lines() -> None:
    assert visible("a\r\nb\rc") == "a\nb\\u000dc"
