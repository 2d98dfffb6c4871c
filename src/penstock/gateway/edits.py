"""The form in which an approver changes inputs, made from the JSON Schemas of their values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["FormField", "form_fields"]

Kind = Literal["text", "long", "choice", "integer", "number", "flag", "json"]

_LONG = 80
_KINDS: Mapping[str, Kind] = {"integer": "integer", "number": "number", "boolean": "flag"}
_RANGE = {"minimum": "min", "maximum": "max"}
_LENGTH = {"maxLength": "maxlength"}
_LIMITS: Mapping[str, Mapping[str, str]] = {
    "integer": _RANGE,
    "number": _RANGE,
    "text": _LENGTH,
    "long": _LENGTH,
}
"""HTML attribute by what it is called in a JSON Schema, by kind."""


@dataclass(frozen=True)
class FormField:
    """One input that may be changed."""

    name: str
    kind: Kind
    """`choice` and `json` hold JSON texts, the others plain ones."""
    value: str
    """What stands in the field at first; `true` for a flag that is set."""
    label: str
    help: str
    choices: tuple[tuple[str, str], ...] = ()
    """Value as JSON text, and what people read."""
    limits: Mapping[str, str] | None = None
    """HTML attributes such as `min`."""


def form_fields(
    editable: Mapping[str, Mapping[str, Any]],
    inputs: Mapping[str, Any],
    edits: Mapping[str, Any] | None = None,
) -> tuple[FormField, ...]:
    """Make a field for each input that may be changed.

    Args:
        editable: JSON Schema of the value, by input.
        inputs: What the inputs are now.
        edits: What somebody changed before; it goes before the inputs.
    """
    values = {**inputs, **(edits or {})}
    return tuple(_field(name, schema, values.get(name)) for name, schema in editable.items())


def _field(name: str, schema: Mapping[str, Any], value: Any) -> FormField:
    kind = _kind(schema, value)
    return FormField(
        name=name,
        kind=kind,
        value=_text(kind, value),
        label=str(schema.get("title") or name.replace("_", " ")),
        help=str(schema.get("description") or ""),
        choices=_choices(schema, value) if kind == "choice" else (),
        limits=_limits(kind, schema),
    )


def _kind(schema: Mapping[str, Any], value: Any) -> Kind:
    if "enum" in schema:
        return "choice"
    type_ = schema.get("type")
    if type_ == "string" and (value is None or isinstance(value, str)):
        return "long" if value and (len(value) > _LONG or "\n" in value) else "text"
    if type_ == "boolean":
        return "flag" if isinstance(value, bool) else "json"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _KINDS.get(str(type_), "json")
    return "json"


def _text(kind: Kind, value: Any) -> str:
    if kind in {"text", "long"}:
        return "" if value is None else str(value)
    return json.dumps(value, ensure_ascii=False, indent=2 if kind == "json" else None)


def _choices(schema: Mapping[str, Any], value: Any) -> tuple[tuple[str, str], ...]:
    """Give what may be chosen; what is there now can stay, allowed or not."""
    listed = list(schema["enum"])
    options = listed if value in listed else [value, *listed]
    return tuple((json.dumps(option, ensure_ascii=False), _read(option)) for option in options)


def _read(option: Any) -> str:
    return option if isinstance(option, str) else json.dumps(option, ensure_ascii=False)


def _limits(kind: Kind, schema: Mapping[str, Any]) -> Mapping[str, str]:
    steps = {"integer": {"step": "1"}, "number": {"step": "any"}}.get(kind, {})
    named = _LIMITS.get(kind, {}).items()
    return {**steps, **{html: str(schema[name]) for name, html in named if name in schema}}
