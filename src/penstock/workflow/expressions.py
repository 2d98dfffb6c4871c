"""Templates: text with `{{ }}`, conditions, and whole structures of them.

```python
from penstock.workflow import Template

template = Template.parse("{{ inputs.name | upper }} has {{ nodes.scan.output.total }}")
template.render({"inputs": {"name": "api"}, "nodes": {"scan": {"output": {"total": 3}}}})
# 'API has 3'
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from penstock.errors import ExpressionError, MissingError
from penstock.workflow.evaluation import Scope, evaluate, show_path
from penstock.workflow.limits import LIMITS, Limits, Work
from penstock.workflow.syntax import (
    Const,
    Expr,
    Get,
    ListOf,
    Logic,
    Not,
    Piped,
    Ref,
    parse_expression,
)
from penstock.workflow.values import kind_of, say_kinds, to_text

_OPEN = re.compile(r"\{[{%#]")
_INSIDE = re.compile(r"(?:[^\"'{}]|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')*", re.DOTALL)


@dataclass(frozen=True, order=True)
class Reference:
    """A path that an expression reads, such as `("nodes", "scan", "output", "score")`."""

    path: tuple[str | int, ...]
    guarded: bool
    """Whether `| default(…)` stands in when it is missing."""
    offset: int

    def __str__(self) -> str:
        return show_path(self.path)


@dataclass(frozen=True)
class Template:
    """A parsed text; made by `parse`."""

    text: str
    pieces: tuple[str | Expr, ...]
    references: tuple[Reference, ...]
    """Every path it reads, in the order of the text."""
    limits: Limits = LIMITS

    @classmethod
    def parse(cls, text: str, *, limits: Limits = LIMITS) -> Template:
        """Parse a text.

        Raises:
            ExpressionError: Something in it is not in the language; `offset` is where.
        """
        if len(text) > limits.source_chars:
            raise ExpressionError(f"a template has at most {limits.source_chars} characters")
        pieces = tuple(_pieces(text))
        references = [ref for piece in pieces if not isinstance(piece, str) for ref in _references(piece)]
        return cls(text, pieces, tuple(references), limits)

    @property
    def is_lone(self) -> bool:
        """Whether the whole text is one `{{ }}`, so that the value keeps its type."""
        return self.lone is not None

    @property
    def lone(self) -> Expr | None:
        """The one expression that the text consists of."""
        if len(self.pieces) == 1 and not isinstance(self.pieces[0], str):
            return self.pieces[0]
        return None

    @property
    def is_plain(self) -> bool:
        """Whether there is no expression in the text."""
        return all(isinstance(piece, str) for piece in self.pieces)

    def render(self, scope: Scope) -> JsonValue:
        """Evaluate.

        Raises:
            MissingError: A value is not there and has no default.
            ExpressionError: It cannot be evaluated, or needs too much.
        """
        work = Work(self.limits)
        if (lone := self.lone) is not None:
            value = evaluate(lone, scope, work)
            work.offset = lone.offset
            work.measure(value)
            return value
        return self._join(scope, work)

    def _join(self, scope: Scope, work: Work) -> str:
        texts: list[str] = []
        chars = 0
        for piece in self.pieces:
            if isinstance(piece, str):
                texts.append(piece)
            else:
                value = evaluate(piece, scope, work)
                work.offset = piece.offset
                texts.append(to_text(work, value))
            chars += len(texts[-1])
            work.fits(chars)
        return "".join(texts)


@dataclass(frozen=True)
class Condition:
    """A `when` or `filter`: one expression that gives true or false."""

    template: Template

    def holds(self, scope: Scope) -> bool:
        """Evaluate.

        Raises:
            ExpressionError: The value is neither true nor false, or cannot be evaluated.
        """
        value = self.template.render(scope)
        if not isinstance(value, bool):
            kind = say_kinds({kind_of(value)})
            raise ExpressionError(f"a condition gives true or false, not {kind}; compare it with something")
        return value


def parse_condition(text: str) -> Condition:
    """Parse a condition.

    Raises:
        ExpressionError: It is not one `{{ }}`.
    """
    template = Template.parse(text)
    if not template.is_lone:
        raise ExpressionError("a condition is one expression in {{ }} with nothing around it")
    return Condition(template)


@dataclass(frozen=True)
class Structure:
    """A JSON value whose texts are templates; made by `parse`."""

    value: JsonValue
    templates: dict[tuple[str | int, ...], Template]
    """The texts that hold an expression, by their path in the value."""

    @classmethod
    def parse(cls, value: JsonValue) -> Structure:
        """Parse every text of a value.

        Raises:
            ExpressionError: A text is wrong; the message begins with its path.
        """
        Work().measure(value)
        found: dict[tuple[str | int, ...], Template] = {}
        for path, text in texts_of(value):
            try:
                template = Template.parse(text)
            except ExpressionError as error:
                raise _at(path, error) from None
            if not template.is_plain:
                found[path] = template
        return cls(value, found)

    def render(self, scope: Scope) -> JsonValue:
        """Evaluate every template.

        Raises:
            ExpressionError: One cannot be evaluated; the message begins with its path.
        """
        return self._render(self.value, (), scope)

    def _render(self, value: JsonValue, path: tuple[str | int, ...], scope: Scope) -> JsonValue:
        if isinstance(value, dict):
            return {key: self._render(item, (*path, key), scope) for key, item in value.items()}
        if isinstance(value, list):
            return [self._render(item, (*path, index), scope) for index, item in enumerate(value)]
        if path not in self.templates:
            return value
        try:
            return self.templates[path].render(scope)
        except ExpressionError as error:
            raise _at(path, error) from None


def render_structure(value: JsonValue, scope: Scope) -> JsonValue:
    """Parse and evaluate every text of a JSON value."""
    return Structure.parse(value).render(scope)


def texts_of(
    value: JsonValue, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield every text inside a JSON value with its path; keys are not texts."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_of(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts_of(item, (*path, index))


def _at(path: tuple[str | int, ...], error: ExpressionError) -> ExpressionError:
    if not path:
        return error
    kind = MissingError if isinstance(error, MissingError) else ExpressionError
    return kind(f"{show_path(path)}: {error.message}", offset=error.offset)


def _pieces(text: str) -> Iterator[str | Expr]:
    at = 0
    while found := _OPEN.search(text, at):
        start = found.start()
        if start > at:
            yield text[at:start]
        end = _end_of(text, start)
        yield parse_expression(text[start:end], at=start)
        at = end
    if at < len(text):
        yield text[at:]


def _end_of(text: str, start: int) -> int:
    """Find the end of the `{{ … }}` that begins at `start`."""
    if text[start + 1] != "{":
        raise ExpressionError("only {{ }} is part of the language", offset=start)
    inside = _INSIDE.match(text, start + 2)
    end = inside.end() if inside else start
    if not text.startswith("}}", end):
        reason = "braces cannot be used here" if text[end : end + 1] in ("{", "}") else "it has no }}"
        raise ExpressionError(f"not an expression: {reason}", offset=start if reason[0] == "i" else end)
    body = text[start + 2 : end]
    if body[:1] in ("-", "+") or body[-1:] in ("-", "+"):
        raise ExpressionError("whitespace control is not part of the language", offset=start)
    if any(ord(char) < 32 and char not in "\t\n" for char in body):
        raise ExpressionError("an expression holds no control characters", offset=start)
    return end + 2


def _references(expr: Expr, *, guarded: bool = False) -> Iterator[Reference]:
    match expr:
        case Ref():
            yield Reference(expr.steps, guarded, expr.offset)
        case Piped(name="default"):
            yield from _references(expr.base, guarded=True)
            yield from _references(expr.arguments[0], guarded=guarded)
        case _:
            for part in parts_of(expr):
                yield from _references(part, guarded=guarded)


def parts_of(expr: Expr) -> tuple[Expr, ...]:
    """Give the expressions directly inside an expression."""
    parts: tuple[Expr, ...] = ()
    match expr:
        case Const() | Ref():
            pass
        case Get():
            parts = (expr.base,)
        case Not():
            parts = (expr.inner,)
        case ListOf():
            parts = expr.items
        case Logic():
            parts = expr.operands
        case Piped():
            parts = (expr.base, *expr.arguments)
        case _:
            parts = (expr.left, *(operand for _, operand in expr.pairs))
    return parts
