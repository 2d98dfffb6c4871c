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
    if meant := closest(word, names):
        return f"; did you mean {meant!r}?"
    if not names:
        return ""
    more = ", …" if len(names) > _SHOWN else ""
    return f"; known: {', '.join(names[:_SHOWN])}{more}"


def closest(word: str, known: Iterable[str]) -> str | None:
    """Give the known name that was probably meant, if there is one."""
    return next(iter(get_close_matches(word[:_LONGEST], sorted(known), n=1, cutoff=0.6)), None)


def shorten(value: object, limit: int = _LONGEST) -> str:
    """Show a value in a message without echoing a huge one."""
    text = repr(value[: limit * 2]) if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
