"""Fields made from the JSON Schemas of inputs."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.gateway.edits import FormField, form_fields


def field(schema: dict[str, Any], value: Any) -> FormField:
    (made,) = form_fields({"some_input": schema}, {"some_input": value})
    return made


@pytest.mark.parametrize(
    ("schema", "value", "kind", "text"),
    [
        ({"type": "string"}, "main", "text", "main"),
        ({"type": "string"}, None, "text", ""),
        ({"type": "string"}, "a\nb", "long", "a\nb"),
        ({"type": "string"}, "x" * 81, "long", "x" * 81),
        ({"type": "string"}, 5, "json", "5"),
        ({"type": "integer"}, 5, "integer", "5"),
        ({"type": "integer"}, "5", "json", '"5"'),
        ({"type": "number"}, 0.5, "number", "0.5"),
        ({"type": "number"}, True, "json", "true"),
        ({"type": "boolean"}, False, "flag", "false"),
        ({"type": "boolean"}, None, "json", "null"),
        ({"type": "array"}, ["ü"], "json", '[\n  "ü"\n]'),
        ({"type": ["string", "null"]}, "a", "json", '"a"'),
        ({}, {"a": 1}, "json", '{\n  "a": 1\n}'),
        ({"enum": ["a", "b"]}, "a", "choice", '"a"'),
    ],
)
def test_kind_fits_schema_and_value(schema: dict[str, Any], value: Any, kind: str, text: str) -> None:
    made = field(schema, value)

    assert (made.kind, made.value) == (kind, text)


def test_choices_hold_what_is_there_now() -> None:
    assert field({"enum": ["a", 1, None]}, "a").choices == (('"a"', "a"), ("1", "1"), ("null", "null"))
    assert field({"enum": ["a"]}, "gone").choices == (('"gone"', "gone"), ('"a"', "a"))


def test_limits_are_attributes() -> None:
    assert field({"type": "integer", "minimum": 1, "maximum": 9}, 2).limits == {
        "step": "1",
        "min": "1",
        "max": "9",
    }
    assert field({"type": "number", "exclusiveMinimum": 0}, 2).limits == {"step": "any"}
    assert field({"type": "string", "maxLength": 5}, "a").limits == {"maxlength": "5"}
    assert field({"type": "array", "maxLength": 5}, []).limits == {}


def test_words_come_from_the_schema_or_the_name() -> None:
    told = field({"type": "string", "title": "Branch", "description": "Where."}, "a")
    bare = field({"type": "string"}, "a")

    assert (told.label, told.help) == ("Branch", "Where.")
    assert (bare.label, bare.help) == ("some input", "")


def test_earlier_edits_go_before_the_inputs() -> None:
    (made,) = form_fields({"a": {"type": "string"}}, {"a": "input"}, {"a": "edited"})

    assert made.value == "edited"
    assert form_fields({}, {"a": 1}) == ()
