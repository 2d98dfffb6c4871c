"""The filters of the expression language; there are no others."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from penstock.workflow.limits import Work
from penstock.workflow.values import KINDS, is_number, kind_of, same, to_json, to_text

Apply = Callable[[Work, "JsonValue", "Sequence[JsonValue]"], "JsonValue"]

_TEXT = frozenset({"string"})
_LIST = frozenset({"array"})
_NUMBER = frozenset({"integer", "number"})
_WHOLE = frozenset({"integer"})
_SCALAR = frozenset({"string", "integer", "number"})
_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*):[0-9]{1,5}")
_DIGITS = 300
_MAX_ROUND = 15


@dataclass(frozen=True)
class Filter:
    """One filter: what it takes, what it gives, and how it is computed."""

    apply: Apply
    takes: frozenset[str]
    gives: frozenset[str]
    does: str
    """One line for the guide."""
    arguments: tuple[frozenset[str], ...] = ()
    required: int = 0
    """How many of the arguments must be given."""


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _whole(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0


def _length(work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    work.spend(1)
    return len(value) if isinstance(value, (str, list, dict)) else 0


def _lower(work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    work.room(3 * len(_text(value)))
    return _text(value).lower()


def _upper(work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    work.room(3 * len(_text(value)))
    return _text(value).upper()


def _trim(_work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    return _text(value).strip()


def _join(work: Work, value: JsonValue, args: Sequence[JsonValue]) -> JsonValue:
    separator = _text(args[0]) if args else ""
    items = _list(value)
    work.spend(len(items))
    texts: list[str] = []
    chars = 0
    for item in items:
        texts.append(to_text(work, item))
        chars += len(texts[-1]) + len(separator)
        work.fits(chars)
    return separator.join(texts)


def _replace(work: Work, value: JsonValue, args: Sequence[JsonValue]) -> JsonValue:
    text, old, new = _text(value), _text(args[0]), _text(args[1])
    if not old:
        raise work.fail("replace needs a text to look for")
    count = text.count(old)
    work.spend(count)
    work.room(len(text) + count * (len(new) - len(old)))
    return text.replace(old, new)


def _truncate(work: Work, value: JsonValue, args: Sequence[JsonValue]) -> JsonValue:
    text, limit = _text(value), _whole(args[0])
    if limit < 1:
        raise work.fail("truncate needs a length above 0")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _split(work: Work, value: JsonValue, args: Sequence[JsonValue]) -> JsonValue:
    separator = _text(args[0])
    if not separator:
        raise work.fail("split needs a separator")
    work.spend(_text(value).count(separator) + 1)
    return [*_text(value).split(separator)]


def _strip_port(_work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    found = _PORT.fullmatch(_text(value))
    return found[1] if found else value


def _sort(work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    items = _list(value)
    work.spend(len(items) * max(1, len(items).bit_length()))
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) == len(items):
        return [*sorted(texts)]
    numbers = [item for item in items if isinstance(item, (int, float)) and is_number(item)]
    if len(numbers) == len(items):
        return [*sorted(numbers)]
    raise work.fail("sort takes a list of texts or a list of numbers")


def _unique(work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    kept: list[JsonValue] = []
    seen: set[tuple[str, JsonValue]] = set()
    for item in _list(value):
        work.spend(1)
        if isinstance(item, (list, dict)):
            if not any(same(work, item, other) for other in kept):
                kept.append(item)
        elif (mark := ("number" if is_number(item) else kind_of(item), item)) not in seen:
            seen.add(mark)
            kept.append(item)
    return kept


def _round(work: Work, value: JsonValue, args: Sequence[JsonValue]) -> JsonValue:
    digits = _whole(args[0]) if args else 0
    if not 0 <= digits <= _MAX_ROUND:
        raise work.fail(f"round takes 0 to {_MAX_ROUND} digits")
    if isinstance(value, int):
        return value
    number = float(value) if isinstance(value, float) else 0.0
    return round(number, digits) if digits else round(number)


def _int(work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    try:
        if isinstance(value, str):
            return int(_number_text(work, value))
        return int(value) if isinstance(value, (int, float)) else 0
    except (ValueError, OverflowError):
        raise work.fail(f"{_shown(value)} is not a whole number") from None


def _float(work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    try:
        if isinstance(value, str):
            number = float(_number_text(work, value))
        else:
            number = float(value) if isinstance(value, (int, float)) else 0.0
    except (ValueError, OverflowError):
        raise work.fail(f"{_shown(value)} is not a number") from None
    if not math.isfinite(number):
        raise work.fail("a number must be finite")
    return number


def _number_text(work: Work, text: str) -> str:
    if len(text) > _DIGITS:
        raise work.fail("the text is too long for a number")
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return text


def _shown(value: JsonValue) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _string(work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    return to_text(work, value)


def _tojson(work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    return to_json(work, value)


def _default(_work: Work, value: JsonValue, args: Sequence[JsonValue]) -> JsonValue:
    return args[0] if value is None else value


def _first(work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    return _item(work, _list(value), 0)


def _last(work: Work, value: JsonValue, _args: Sequence[JsonValue]) -> JsonValue:
    return _item(work, _list(value), -1)


def _item(work: Work, items: list[JsonValue], index: int) -> JsonValue:
    if not items:
        raise work.missing("the list is empty")
    return items[index]


FILTERS: dict[str, Filter] = {
    "default": Filter(_default, KINDS, KINDS, "the argument, when the value is missing or null", (KINDS,), 1),
    "first": Filter(_first, _LIST, KINDS, "the first item; missing when there is none"),
    "last": Filter(_last, _LIST, KINDS, "the last item; missing when there is none"),
    "length": Filter(
        _length, frozenset({"string", "array", "object"}), _WHOLE, "how many characters or items"
    ),
    "lower": Filter(_lower, _TEXT, _TEXT, "lower case"),
    "upper": Filter(_upper, _TEXT, _TEXT, "upper case"),
    "trim": Filter(_trim, _TEXT, _TEXT, "without spaces at both ends"),
    "join": Filter(_join, _LIST, _TEXT, "the items as one text, with the argument between them", (_TEXT,)),
    "split": Filter(_split, _TEXT, _LIST, "the parts between the separator", (_TEXT,), 1),
    "replace": Filter(_replace, _TEXT, _TEXT, "the first text replaced by the second", (_TEXT, _TEXT), 2),
    "truncate": Filter(_truncate, _TEXT, _TEXT, "at most so many characters, ending in …", (_WHOLE,), 1),
    "strip_port": Filter(_strip_port, _TEXT, _TEXT, "`host:9100` without the port"),
    "sort": Filter(_sort, _LIST, _LIST, "texts or numbers in order"),
    "unique": Filter(_unique, _LIST, _LIST, "each item once, in order"),
    "round": Filter(_round, _NUMBER, _NUMBER, "rounded, to so many digits when given", (_WHOLE,)),
    "int": Filter(_int, _SCALAR, _WHOLE, "a whole number, cut off at the point"),
    "float": Filter(_float, _SCALAR, _NUMBER, "a number with a point"),
    "string": Filter(_string, KINDS, _TEXT, "text as it is, everything else as JSON"),
    "tojson": Filter(_tojson, KINDS, _TEXT, "JSON text"),
}
"""Every filter by name."""
