"""Which inputs an approver may change, and to what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from penstock.workflow.compiled import Report
from penstock.workflow.messages import find_schema_error
from penstock.workflow.shapes import Schema, Shape, as_schema
from penstock.workflow.source import Path
from penstock.workflow.suggestions import shorten, suggest
from penstock.workflow.values import say_kinds

_REFERENCES = ("$ref", "$dynamicRef")


def check_editable(
    report: Report, path: Path, editable: Mapping[str, Schema], target: Shape, *, owner: str
) -> None:
    """Report every input that cannot be changed, and every schema that does not do.

    Args:
        path: Where `editable` stands in the file.
        target: What the node takes.
        owner: Who takes the inputs, for messages.
    """
    for name, schema in editable.items():
        child = target.child(name)
        if child is None:
            hint = suggest(name, target.keys)
            report.add((*path, name), f"{owner} has no input {shorten(name)}{hint}", key=True)
        elif problem := next(_problems(name, schema, child), ""):
            report.add((*path, name), problem)


def _problems(name: str, schema: Schema, target: Shape) -> Iterator[str]:
    if problem := find_schema_error(schema):
        yield problem
    if reference := next(_references({**schema}), ""):
        yield f"{reference} is not taken here; write the schema out"
    kinds = Shape.of(schema).kinds
    if not kinds & target.kinds:
        yield f"input {name!r} must be {say_kinds(target.kinds)}, but the schema asks for {say_kinds(kinds)}"
    if (slots := target.slots()) and not _is_closed(schema):
        yield f"input {name!r} holds a {' and a '.join(slots)}; give an enum of what it may be"


def _is_closed(schema: Schema) -> bool:
    """Tell whether a schema lists everything that it allows."""
    items = as_schema(schema.get("items"))
    return "enum" in schema or (schema.get("type") == "array" and "enum" in items)


def _references(value: JsonValue) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (key for key in _REFERENCES if isinstance(value.get(key), str))
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)
