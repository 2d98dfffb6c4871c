"""Whether the inputs that a file gives fit the schema that an agent states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import JsonValue

from penstock.workflow.compiled import Report
from penstock.workflow.expressions import Structure, Template
from penstock.workflow.messages import find_errors
from penstock.workflow.shapes import Shape
from penstock.workflow.source import Path
from penstock.workflow.suggestions import shorten, suggest
from penstock.workflow.values import say_kinds

ShapeOf = Callable[[Path, Template], "Shape | None"]


@dataclass(frozen=True)
class Fit:
    """Checks one structure of templates against a shape."""

    report: Report
    path: Path
    structure: Structure
    shape_of: ShapeOf
    """Checks a template at a place and infers what it gives."""

    def check(self, target: Shape, *, owner: str) -> None:
        """Report every key and value that does not fit.

        Args:
            owner: Who takes the inputs, for messages.
        """
        value = self.structure.value
        given = value if isinstance(value, dict) else {}
        for name, item in given.items():
            child = target.child(name)
            if child is None:
                hint = suggest(name, target.keys)
                self.report.add((*self.path, name), f"{owner} has no input {shorten(name)}{hint}", key=True)
            self._value((name,), item, child or Shape())
        for name in target.required:
            if name not in given:
                self.report.add(self.path, f"{owner} needs the input {name!r}")

    def _value(self, inner: Path, value: JsonValue, target: Shape) -> None:
        if inner in self.structure.templates:
            self._template(inner, self.structure.templates[inner], target)
        elif not any(path[: len(inner)] == inner for path in self.structure.templates):
            for where, message in find_errors(value, target.document()):
                self.report.add((*self.path, *inner, *where), message)
        elif isinstance(value, dict):
            self._mapping(inner, value, target)
        else:
            self._list(inner, value if isinstance(value, list) else [], target)

    def _mapping(self, inner: Path, value: dict[str, JsonValue], target: Shape) -> None:
        if not self._has_kind(inner, "object", target):
            return
        for name, item in value.items():
            child = target.child(name)
            if child is None:
                message = f"unknown key {shorten(name)}{suggest(name, target.keys)}"
                self.report.add((*self.path, *inner, name), message, key=True)
            self._value((*inner, name), item, child or Shape())
        for name in target.required:
            if name not in value:
                self.report.add((*self.path, *inner), f"{name!r} is missing")

    def _list(self, inner: Path, value: list[JsonValue], target: Shape) -> None:
        if self._has_kind(inner, "array", target):
            for index, item in enumerate(value):
                self._value((*inner, index), item, target.items)

    def _has_kind(self, inner: Path, kind: str, target: Shape) -> bool:
        if kind in target.kinds:
            return True
        message = f"must be {say_kinds(target.kinds)}, not {say_kinds({kind})}"
        self.report.add((*self.path, *inner), message)
        return False

    def _template(self, inner: Path, template: Template, target: Shape) -> None:
        path = (*self.path, *inner)
        shape = self.shape_of(path, template)
        if shape is None:
            return
        if not shape.kinds & target.kinds:
            message = f"must be {say_kinds(target.kinds)}, but the expression gives {say_kinds(shape.kinds)}"
            self.report.add(path, message)
        elif strange := _strange_choices(shape, target):
            self.report.add(
                path, f"may be {strange[0]!r}, which is not allowed here{suggest('', _enum(target))}"
            )


def _strange_choices(shape: Shape, target: Shape) -> list[str]:
    allowed = _enum(target)
    return [choice for choice in _enum(shape) if choice not in allowed] if allowed else []


def _enum(shape: Shape) -> list[str]:
    found: list[str] = []
    for variant in shape.variants():
        choices = variant.schema.get("enum")
        if isinstance(choices, list):
            found.extend(choice for choice in choices if isinstance(choice, str))
        elif "string" in variant.kinds:
            return []
    return found
