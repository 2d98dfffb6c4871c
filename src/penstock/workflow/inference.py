"""What an expression gives, as far as that is known when a file is saved."""

from __future__ import annotations

from pydantic import JsonValue

from penstock.errors import ExpressionError
from penstock.workflow.filters import FILTERS
from penstock.workflow.shapes import Shape
from penstock.workflow.syntax import Compare, Const, Expr, Get, ListOf, Logic, Not, Piped, Ref
from penstock.workflow.values import say_kinds

_ORDERED = frozenset({"integer", "number"})
_KEEPS_ITEMS = ("sort", "unique")


def infer(expr: Expr, scope: Shape) -> Shape:
    """Infer the shape of an expression's value.

    Args:
        scope: The shape of the names it may use; paths in it must exist.
    Raises:
        ExpressionError: A filter or a comparison can never work on what it is given.
    """
    shape = Shape()
    match expr:
        case Const(value=value):
            shape = Shape.constant(value)
        case Ref(steps=steps):
            shape = follow(scope, steps) or Shape()
        case Get():
            shape = infer(expr.base, scope).child(expr.key) or Shape()
        case Piped():
            shape = _piped(expr, scope)
        case ListOf(items=items):
            shape = Shape({"type": "array"})
            for item in items:
                infer(item, scope)
        case Not():
            infer(expr.inner, scope)
            shape = Shape({"type": "boolean"})
        case Logic():
            shape = _either([infer(operand, scope) for operand in expr.operands])
        case _:
            shape = _compared(expr, scope)
    return shape


def follow(shape: Shape, steps: tuple[str | int, ...]) -> Shape | None:
    """Walk along a path; None when it leads nowhere."""
    found: Shape | None = shape
    for step in steps:
        found = found.child(step) if found else None
    return found


def _piped(expr: Piped, scope: Shape) -> Shape:
    known = FILTERS[expr.name]
    base = infer(expr.base, scope)
    arguments = [infer(argument, scope) for argument in expr.arguments]
    if expr.name == "default":
        return _either([_without_null(base), arguments[0]])
    for shape, kinds in zip([base, *arguments], [known.takes, *known.arguments], strict=False):
        if not shape.kinds & kinds:
            message = f"{expr.name} takes {say_kinds(kinds)}, not {say_kinds(shape.kinds)}"
            raise ExpressionError(message, offset=expr.offset)
    if expr.name in ("first", "last"):
        return base.items
    return base if expr.name in _KEEPS_ITEMS else Shape.kinds_only(known.gives)


def _without_null(shape: Shape) -> Shape:
    kinds = shape.kinds - {"null"}
    return shape if kinds == shape.kinds or not kinds else Shape.kinds_only(kinds)


def _either(shapes: list[Shape]) -> Shape:
    """Join alternatives; what is not known of one is not known of all."""
    kinds = frozenset[str]().union(*(shape.kinds for shape in shapes))
    return Shape.kinds_only(kinds)


def _compared(expr: Compare, scope: Shape) -> Shape:
    left = infer(expr.left, scope)
    for op, operand in expr.pairs:
        right = infer(operand, scope)
        if not _comparable(op, left, right):
            message = f"{op} cannot compare {say_kinds(left.kinds)} with {say_kinds(right.kinds)}"
            raise ExpressionError(message, offset=expr.offset)
        _check_choice(op, left, right, expr.offset)
        left = right
    return Shape({"type": "boolean"})


def _comparable(op: str, left: Shape, right: Shape) -> bool:
    if op in ("==", "!="):
        return bool(_wide(left) & _wide(right))
    if op in ("in", "not in"):
        return bool(right.kinds & {"array", "object", "string"})
    return bool(left.kinds & right.kinds & {"string"} or (_wide(left) & _wide(right) & _ORDERED))


def _wide(shape: Shape) -> frozenset[str]:
    return shape.kinds | _ORDERED if shape.kinds & _ORDERED else shape.kinds


def _check_choice(op: str, left: Shape, right: Shape, offset: int) -> None:
    """Refuse to compare an enumerated value with one that it never has."""
    if op not in ("==", "!="):
        return
    for one, other in ((left, right), (right, left)):
        choices, value = one.schema.get("enum"), other.schema.get("const")
        if isinstance(choices, list) and isinstance(value, str) and value not in choices:
            raise ExpressionError(f"{value!r} is never equal: {_list_of(choices)}", offset=offset)


def _list_of(choices: list[JsonValue]) -> str:
    return f"the value is one of {', '.join(repr(choice) for choice in choices[:8])}"
