"""How values are written on pages: characters nobody sees are named, times are told as people tell them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import groupby, pairwise
from typing import Any

from markupsafe import Markup, escape

from penstock.approvals.characters import is_unseen, visible, written_out

__all__ = ["FILTERS", "ago", "duration", "moment", "plain", "seen", "span", "urgency", "value_text"]

_SECOND, _MINUTE, _HOUR, _DAY = 1, 60, 3600, 86400
_UNITS = ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (_SECOND, "s"))
_LATE_S, _NEAR_S = 15 * _MINUTE, 2 * _HOUR
_NOW_S = 5
_UNSEEN = Markup('<span class="unseen" title="{}">{}</span>')


def plain(value: Any) -> str:
    """Write a text where nothing can be marked, such as in attributes; unseen characters are written out."""
    return visible(str(value))


def seen(value: Any) -> Markup:
    """Write a text: what people would not see is written out and marked, so that no text fakes it."""
    text = str(value).replace("\r\n", "\n")
    parts = groupby(text, is_unseen)
    return Markup("").join(
        Markup("").join(map(_marked, chars)) if unseen else escape("".join(chars)) for unseen, chars in parts
    )


def value_text(value: Any) -> Markup:
    """Write a value of whatever type: a text as it is, anything else as JSON."""
    return seen(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2))


def _marked(char: str) -> Markup:
    name = unicodedata.name(char, "a character without a name")
    return _UNSEEN.format(name.lower(), written_out(char))


def moment(value: str | None) -> datetime | None:
    """Read a time as it stands in JSON."""
    return None if value is None else datetime.fromisoformat(value)


def duration(seconds: float) -> str:
    """Tell a length of time in its largest unit, or two of them when the first is small: `2 h 10 min`."""
    whole = max(0, int(seconds))
    for (size, unit), (smaller, smaller_unit) in pairwise(_UNITS):
        if whole >= size:
            count, rest = divmod(whole, size)
            more = rest // smaller
            short = size > _MINUTE and count < 10 and more
            return f"{count} {unit} {more} {smaller_unit}" if short else f"{count} {unit}"
    return f"{whole} s"


def span(value: str | None, now: datetime) -> str:
    """Tell how far a time is from now, in either direction; empty when there is none."""
    at = moment(value)
    return "" if at is None else duration(abs((now - at).total_seconds()))


def ago(value: str | None, now: datetime) -> str:
    """Tell how long ago something was; empty when it was not."""
    at = moment(value)
    if at is None:
        return ""
    return "just now" if (now - at).total_seconds() < _NOW_S else f"{span(value, now)} ago"


def urgency(expires_at: str | None, now: datetime) -> str:
    """Say how near the end of a request is: `late`, `near` or nothing."""
    at = moment(expires_at)
    left = float("inf") if at is None else (at - now).total_seconds()
    return "late" if left < _LATE_S else "near" if left < _NEAR_S else ""


FILTERS: Mapping[str, Callable[..., Any]] = {
    "seen": seen,
    "plain": plain,
    "shown": value_text,
    "span": span,
    "ago": ago,
    "urgency": urgency,
}
"""What templates know these by."""
