"""Hints for mistyped names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 8
_LONGEST = 60


def suggest(word: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant.

    Returns:
        A clause to append to a message, such as `; did you mean 'scan'?`; empty when
        nothing is known.
    """
    names = sorted(set(known))
    close = get_close_matches(word[:_LONGEST], names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not names:
        return ""
    more = ", …" if len(names) > _SHOWN else ""
    return f"; known: {', '.join(names[:_SHOWN])}{more}"


def shorten(value: object, limit: int = _LONGEST) -> str:
    """Show a value in a message without echoing a huge one."""
    text = repr(value[: limit * 2]) if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
