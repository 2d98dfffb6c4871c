"""Characters that nobody sees are written out, so that a text cannot look like another one."""

from __future__ import annotations

import unicodedata

__all__ = ["is_unseen", "visible", "written_out"]

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of characters that nobody sees, or that change how others are seen."""
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters, marks and symbols that are drawn as nothing."""
_SELECTORS = (("\u180b", "\u180f"), ("\ufe00", "\ufe0f"), ("\U000e0100", "\U000e01ef"))
"""First and last of the marks that choose a variant of the character before."""


def is_unseen(char: str) -> bool:
    """Say whether a character is one that people do not see; ends of lines and tabs they do."""
    if char.isascii():
        return not (char.isprintable() or char in "\n\t")
    return unicodedata.category(char) in _UNSEEN or char in _BLANK or _selects_variant(char)


def visible(text: str) -> str:
    """Write out what would not be seen, such as marks that turn the direction of a line."""
    lines = text.replace("\r\n", "\n")
    return "".join(written_out(char) if is_unseen(char) else char for char in lines)


def written_out(char: str) -> str:
    r"""Give a character as its number: `\u202e`."""
    return f"\\u{ord(char):04x}"


def _selects_variant(char: str) -> bool:
    return any(first <= char <= last for first, last in _SELECTORS)
