"""The grammar of expressions: Jinja2's parser, and the part of its tree that is allowed.

Jinja2 only parses here; nothing of it ever runs. Its nodes know their line and not their
place, so tokens are handed to it with their character offset in place of the line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.lexer import Lexer, TokenStream
from jinja2.parser import Parser
from pydantic import JsonValue

from penstock.errors import ExpressionError
from penstock.workflow.filters import FILTERS
from penstock.workflow.limits import LIMITS
from penstock.workflow.suggestions import suggest


@dataclass(frozen=True, slots=True)
class Const:
    """A literal."""

    offset: int
    value: JsonValue


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of expressions."""

    offset: int
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Ref:
    """A name and the keys after it, such as `nodes.scan.output`."""

    offset: int
    steps: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Get:
    """A key of the value of another expression."""

    offset: int
    base: Expr
    key: str | int


@dataclass(frozen=True, slots=True)
class Piped:
    """A value through a filter."""

    offset: int
    base: Expr
    name: str
    arguments: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison, or a chain of them."""

    offset: int
    left: Expr
    pairs: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True, slots=True)
class Logic:
    """Operands joined by `and` or by `or`."""

    offset: int
    op: str
    operands: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """A negation."""

    offset: int
    inner: Expr


Expr = Const | ListOf | Ref | Get | Piped | Compare | Logic | Not

_REFUSED: dict[type[nodes.Node], str] = {
    nodes.Call: "nothing can be called; use a filter, as in `x | length`",
    nodes.Test: "'is' tests are not part of the language; compare, or use `| default(…)`",
    nodes.CondExpr: "inline 'if' is not part of the language; use `when` or `| default(…)`",
    nodes.Concat: "'~' is not part of the language; write text around the {{ }}",
    nodes.Slice: "slices are not part of the language",
    nodes.Tuple: "write a list in square brackets",
    nodes.Dict: "mappings cannot be written in an expression",
}
_OPERATORS = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "lteq": "<=",
    "gt": ">",
    "gteq": ">=",
    "in": "in",
    "notin": "not in",
}
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_NUMBER_CHARS = 30
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[\\'\"nrt])")


class _Environment(Environment):
    """Gives the parser tokens whose line number is their character offset."""

    def _tokenize(
        self,
        source: str,
        name: str | None,
        filename: str | None = None,
        state: str | None = None,  # noqa: ARG002  the parser's own signature
    ) -> TokenStream:
        return TokenStream(self.lexer.wrap(_tokens(self.lexer, source), name, filename), name, filename)


def parse_expression(text: str, *, at: int = 0) -> Expr:
    """Parse one `{{ … }}`, braces included.

    Args:
        at: Where it starts in its template; offsets count from there.
    Raises:
        ExpressionError: It is not in the language, or too large.
    """
    try:
        tree = Parser(_ENVIRONMENT, text).parse()
    except TemplateSyntaxError as error:
        raise ExpressionError(f"not an expression: {error.message}", offset=at + error.lineno) from None
    except ExpressionError as error:
        raise ExpressionError(error.message, offset=at + error.offset) from None
    return _Converter(at).convert(cast("nodes.Output", tree.body[0]).nodes[0])


_ENVIRONMENT = _Environment(autoescape=False)


def _tokens(lexer: Lexer, source: str) -> Iterator[tuple[int, str, str]]:
    """Yield Jinja2's tokens with their offset, and refuse what would make its parser run away."""
    offset = count = depth = 0
    pieces = lexer.tokeniter(source, None)
    while True:
        try:
            piece = next(pieces, None)
        except TemplateSyntaxError as error:
            raise ExpressionError(f"not an expression: {error.message}", offset=offset) from None
        if piece is None:
            return
        _, kind, text = piece
        if kind != "whitespace":
            count += 1
            depth = _deeper(depth, text)
            _check_token(kind, text, offset=offset, count=count, depth=depth)
        yield offset, kind, text
        offset += len(text)


def _deeper(depth: int, text: str) -> int:
    # A prefix operator nests like a bracket but has no end, so every one in the text counts.
    if text in _OPENING or text in ("not", "-", "+"):
        return depth + 1
    return depth - 1 if text in _CLOSING else depth


def _check_token(kind: str, text: str, *, offset: int, count: int, depth: int) -> None:
    if count > LIMITS.tokens:
        raise ExpressionError(f"an expression has at most {LIMITS.tokens} tokens", offset=offset)
    if depth > LIMITS.depth:
        raise ExpressionError(f"nested deeper than {LIMITS.depth} levels", offset=offset)
    if kind in ("integer", "float") and len(text) > _NUMBER_CHARS:
        raise ExpressionError(f"a number has at most {_NUMBER_CHARS} characters", offset=offset)
    if kind == "float" and not math.isfinite(float(text.replace("_", ""))):
        raise ExpressionError("a number must be finite", offset=offset)
    if kind == "string" and "\\" in _ESCAPE.sub("", text):
        raise ExpressionError(r"only \\ \' \" \n \r \t \xNN and \uNNNN are known escapes", offset=offset)


class _Converter:
    """Turns Jinja2's nodes into ours and refuses the rest."""

    def __init__(self, at: int) -> None:
        self.at = at

    def convert(self, node: nodes.Node, depth: int = 0) -> Expr:
        offset = self.at + node.lineno
        if depth > LIMITS.operations:
            raise ExpressionError(
                f"more than {LIMITS.operations} operations applied one on another", offset=offset
            )
        match node:
            case nodes.Const():
                return Const(offset, self._constant(node.value, offset))
            case nodes.Name():
                return Ref(offset, (node.name,))
            case nodes.Getattr() | nodes.Getitem():
                return self._get(node, depth)
            case nodes.Filter():
                return self._filter(node, depth)
            case _:
                return self._combined(node, offset, depth)

    def _combined(self, node: nodes.Node, offset: int, depth: int) -> Expr:
        match node:
            case nodes.List():
                return ListOf(offset, self._all(node.items, depth))
            case nodes.Compare():
                pairs = tuple((_OPERATORS[one.op], self.convert(one.expr, depth + 1)) for one in node.ops)
                left = self.convert(node.expr, depth + 1)
                return Compare(left.offset, left, pairs)
            case nodes.And() | nodes.Or():
                operands = self._all(_operands(node), depth)
                return Logic(operands[0].offset, "and" if isinstance(node, nodes.And) else "or", operands)
            case nodes.Not():
                return Not(offset, self.convert(node.node, depth + 1))
            case nodes.Neg(node=nodes.Const(value=int() | float() as number)) if not isinstance(number, bool):
                return Const(offset, -number)
            case _:
                raise ExpressionError(_refusal(node), offset=offset)

    def _all(self, parts: list[nodes.Expr], depth: int) -> tuple[Expr, ...]:
        return tuple(self.convert(part, depth + 1) for part in parts)

    def _constant(self, value: object, offset: int) -> JsonValue:
        if isinstance(value, str) and not _encodable(value):
            raise ExpressionError("the text holds half a character", offset=offset)
        return value if isinstance(value, (str, bool, int, float)) else None

    def _get(self, node: nodes.Getattr | nodes.Getitem, depth: int) -> Expr:
        base = self.convert(node.node, depth + 1)
        key = node.attr if isinstance(node, nodes.Getattr) else self._key(node.arg)
        if isinstance(base, Ref):
            return Ref(base.offset, (*base.steps, key))
        return Get(self.at + node.lineno, base, key)

    def _key(self, argument: nodes.Expr) -> str | int:
        key = self.convert(argument)
        if isinstance(key, Const) and isinstance(key.value, (str, int)) and not isinstance(key.value, bool):
            return key.value
        raise ExpressionError("a key in square brackets is a text or a whole number", offset=key.offset)

    def _filter(self, node: nodes.Filter, depth: int) -> Expr:
        offset = self.at + node.lineno
        known = FILTERS.get(node.name)
        if known is None:
            raise ExpressionError(f"unknown filter {node.name!r}{suggest(node.name, FILTERS)}", offset=offset)
        if node.kwargs or node.dyn_args or node.dyn_kwargs:
            raise ExpressionError(f"{node.name} takes its arguments by position", offset=offset)
        low, high = known.required, len(known.arguments)
        if not low <= len(node.args) <= high:
            wanted = f"{low}" if low == high else f"{low} to {high}"
            raise ExpressionError(
                f"{node.name} takes {wanted} arguments, not {len(node.args)}", offset=offset
            )
        return Piped(
            offset,
            self.convert(cast("nodes.Expr", node.node), depth + 1),
            node.name,
            self._all(node.args, depth),
        )


def _operands(node: nodes.And | nodes.Or) -> list[nodes.Expr]:
    """Flatten `a and b and c`, which Jinja2 nests to the left."""
    found = [node.right]
    while isinstance(node.left, type(node)):
        node = node.left
        found.append(node.right)
    return [node.left, *reversed(found)]


def _refusal(node: nodes.Node) -> str:
    if isinstance(node, (nodes.BinExpr, nodes.UnaryExpr)):
        return "arithmetic is not part of the language"
    return _REFUSED.get(type(node), f"{type(node).__name__} is not part of the language")


def _encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)
