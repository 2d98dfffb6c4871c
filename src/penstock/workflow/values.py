"""Plain JSON values: their kinds, their text, their order and when two are the same."""

from __future__ import annotations

import json

from pydantic import JsonValue

from penstock.workflow.limits import Work

KINDS = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
"""JSON Schema's names of types."""

_KINDS_OF: tuple[tuple[type, str], ...] = (
    (str, "string"),
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (list, "array"),
    (dict, "object"),
)
_WORDS = {
    "null": "nothing",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
}


def kind_of(value: JsonValue) -> str:
    """Name a value's JSON type; a whole number is an `integer`."""
    for python_type, kind in _KINDS_OF:
        if isinstance(value, python_type):
            return kind
    return "null"


def say_kinds(kinds: frozenset[str] | set[str]) -> str:
    """Name types in plain words, as in `text or a list`."""
    shown = set(kinds) - ({"integer"} if "number" in kinds else set())
    return " or ".join(_WORDS[kind] for kind in sorted(shown))


def is_true(value: JsonValue) -> bool:
    """Tell whether a value counts as true: null, false, zero and what is empty do not."""
    return bool(value)


def to_json(work: Work, value: JsonValue) -> str:
    """Write a value as compact JSON."""
    work.measure(value)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    work.room(len(text))
    return text


def to_text(work: Work, value: JsonValue) -> str:
    """Give text as it is and everything else as JSON."""
    if isinstance(value, str):
        work.room(len(value))
        return value
    return to_json(work, value)


def same(work: Work, left: JsonValue, right: JsonValue) -> bool:
    """Compare two values; numbers by size, and true is not 1."""
    waiting: list[tuple[JsonValue, JsonValue]] = [(left, right)]
    while waiting:
        one, other = waiting.pop()
        work.spend(1)
        if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            work.spend(len(one))
            waiting.extend(zip(one, other, strict=True))
        elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            work.spend(len(one))
            waiting.extend((one[key], other[key]) for key in one)
        elif not _same_scalar(one, other):
            return False
    return True


def _same_scalar(one: JsonValue, other: JsonValue) -> bool:
    if isinstance(one, (list, dict)) or isinstance(other, (list, dict)):
        return False
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def is_number(value: JsonValue) -> bool:
    """Tell whether a value is a number; true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
