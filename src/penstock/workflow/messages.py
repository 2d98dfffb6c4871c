"""Plain sentences for what a JSON Schema validator finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, cast

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from pydantic import JsonValue

from penstock.workflow.suggestions import shorten, suggest
from penstock.workflow.values import kind_of, say_kinds

_SHOWN = 20

FORMATS = FormatChecker(formats=("date", "email", "ipv4", "ipv6", "uuid"))
"""The formats that are checked."""


def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


FORMATS.checks("date-time", raises=ValueError)(_is_date_time)

_PHRASES = {
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be above {}",
    "exclusiveMaximum": "must be below {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "pattern": "must match {}",
    "format": "is not a valid {}",
    "multipleOf": "must be a multiple of {}",
}


def find_errors(value: JsonValue, schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Validate a value.

    Yields:
        The path inside the value, and a message that never echoes a huge value.
    """
    validator = Draft202012Validator(schema, format_checker=FORMATS)
    for error in sorted(_all(validator, value), key=_path):
        yield _path(error), describe(error)


def find_schema_error(schema: Mapping[str, Any]) -> str:
    """Say what is wrong with a schema; empty when nothing is."""
    try:
        Draft202012Validator.check_schema(schema, format_checker=_SCHEMA_FORMATS)
    except SchemaError as error:
        where = ".".join(str(step) for step in _path(error))
        return (
            f"not a JSON Schema: {where}: {describe(error)}"
            if where
            else f"not a JSON Schema: {describe(error)}"
        )
    return ""


_SCHEMA_FORMATS = FormatChecker(formats=("regex",))


def describe(error: ValidationError | SchemaError) -> str:
    """Say in plain words what a validator complains about."""
    facts: Any = error
    keyword, expected = str(facts.validator), facts.validator_value
    special = _SPECIAL.get(keyword)
    if special is not None:
        return special(facts)
    phrase = _PHRASES.get(keyword, f"breaks the rule {keyword}")
    return phrase.format(shorten(expected) if keyword == "pattern" else expected)


def _wrong_type(facts: Any) -> str:
    expected = facts.validator_value
    kinds = {expected} if isinstance(expected, str) else set(expected)
    return f"must be {say_kinds(kinds)}, not {say_kinds({kind_of(facts.instance)})}"


def _not_a_choice(facts: Any) -> str:
    return f"{shorten(facts.instance)} is not allowed{choices(facts.instance, facts.validator_value)}"


def _not_the_value(facts: Any) -> str:
    return f"must be {shorten(facts.validator_value)}"


def _missing_key(facts: Any) -> str:
    missing = [name for name in facts.validator_value if name not in facts.instance]
    return f"{missing[0]!r} is missing"


def _no_form(facts: Any) -> str:
    return f"{shorten(facts.instance)} fits none of the allowed forms"


def choices(value: object, allowed: list[JsonValue]) -> str:
    """List the allowed values, the closest first when one is close."""
    texts = [item for item in allowed if isinstance(item, str)]
    if isinstance(value, str) and len(texts) == len(allowed):
        return suggest(value, texts)
    more = ", …" if len(allowed) > _SHOWN else ""
    return f"; known: {', '.join(shorten(item) for item in allowed[:_SHOWN])}{more}"


def _unknown_key(facts: Any) -> str:
    known = [str(name) for name in facts.schema.get("properties", {})]
    unknown = next(str(name) for name in facts.instance if name not in known)
    return f"unknown key {shorten(unknown)}{suggest(unknown, known)}"


_SPECIAL: dict[str, Callable[[Any], str]] = {
    "type": _wrong_type,
    "enum": _not_a_choice,
    "const": _not_the_value,
    "required": _missing_key,
    "additionalProperties": _unknown_key,
    "anyOf": _no_form,
    "oneOf": _no_form,
}


def _all(validator: Draft202012Validator, value: JsonValue) -> Iterator[ValidationError]:
    return cast("Iterator[ValidationError]", cast("Any", validator).iter_errors(value))


def _path(error: ValidationError | SchemaError) -> tuple[str | int, ...]:
    return tuple(cast("Any", error).absolute_path)
