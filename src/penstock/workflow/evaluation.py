"""Evaluates expressions over plain JSON data."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from penstock.errors import ExpressionError, MissingError
from penstock.workflow.filters import FILTERS
from penstock.workflow.limits import Work
from penstock.workflow.suggestions import suggest
from penstock.workflow.syntax import Compare, Const, Expr, Get, ListOf, Logic, Not, Piped, Ref
from penstock.workflow.values import is_number, is_true, kind_of, same, say_kinds

Scope = Mapping[str, JsonValue]
"""What the names of an expression stand for: `inputs`, `nodes`, `trigger`, `run` and locals."""

_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TEXT_ORDER: dict[str, Callable[[str, str], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def evaluate(expr: Expr, scope: Scope, work: Work) -> JsonValue:
    """Evaluate an expression.

    Args:
        work: The budget; one per template.
    Raises:
        MissingError: A value is not there and has no default.
        ExpressionError: It cannot be evaluated, or needs too much.
    """
    work.spend(1)
    work.offset = expr.offset
    value: JsonValue
    match expr:
        case Const():
            value = expr.value
        case Ref():
            value = _lookup(expr, scope, work)
        case Get():
            value = _step(evaluate(expr.base, scope, work), expr.key, work, expr.offset)
        case Piped():
            value = _pipe(expr, scope, work)
        case ListOf():
            value = [evaluate(item, scope, work) for item in expr.items]
        case Not():
            value = not is_true(evaluate(expr.inner, scope, work))
        case Logic():
            value = _logic(expr, scope, work)
        case _:
            value = _compare(expr, scope, work)
    return value


def show_path(steps: tuple[str | int, ...]) -> str:
    """Write a path as in an expression, `a.b[0]`."""
    first, *rest = steps
    return str(first) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest)


def _lookup(ref: Ref, scope: Scope, work: Work) -> JsonValue:
    name = str(ref.steps[0])
    if name not in scope:
        raise MissingError(f"{name!r} is not known here{suggest(name, scope)}", offset=ref.offset)
    value = scope[name]
    for number, key in enumerate(ref.steps[1:], start=2):
        try:
            value = _step(value, key, work, ref.offset)
        except MissingError:
            raise MissingError(f"{show_path(ref.steps[:number])} is missing", offset=ref.offset) from None
        except ExpressionError as error:
            message = f"{show_path(ref.steps[: number - 1])}: {error.message}"
            raise ExpressionError(message, offset=ref.offset) from None
    return value


def _step(value: JsonValue, key: str | int, work: Work, offset: int) -> JsonValue:
    work.spend(1)
    work.offset = offset
    if value is None:
        raise MissingError(f"{key!r} is missing: the value is null", offset=offset)
    if isinstance(value, dict) and isinstance(key, str):
        if key in value:
            return value[key]
        raise MissingError(f"{key!r} is missing", offset=offset)
    if isinstance(value, list) and isinstance(key, int):
        if -len(value) <= key < len(value):
            return value[key]
        raise MissingError(f"the list has no item {key}", offset=offset)
    raise work.fail(f"{say_kinds({kind_of(value)})} has no key {key!r}")


def _pipe(expr: Piped, scope: Scope, work: Work) -> JsonValue:
    if expr.name == "default":
        return _default(expr, scope, work)
    base = evaluate(expr.base, scope, work)
    arguments = [evaluate(argument, scope, work) for argument in expr.arguments]
    work.offset = expr.offset
    known = FILTERS[expr.name]
    for value, kinds in zip([base, *arguments], [known.takes, *known.arguments], strict=False):
        if kind_of(value) not in kinds:
            raise work.fail(f"{expr.name} takes {say_kinds(kinds)}, not {say_kinds({kind_of(value)})}")
    return known.apply(work, base, arguments)


def _default(expr: Piped, scope: Scope, work: Work) -> JsonValue:
    try:
        value = evaluate(expr.base, scope, work)
    except MissingError:
        value = None
    argument = evaluate(expr.arguments[0], scope, work) if value is None else None
    return FILTERS["default"].apply(work, value, [argument])


def _logic(expr: Logic, scope: Scope, work: Work) -> JsonValue:
    *others, last = expr.operands
    for operand in others:
        value = evaluate(operand, scope, work)
        if is_true(value) == (expr.op == "or"):
            return value
    return evaluate(last, scope, work)


def _compare(expr: Compare, scope: Scope, work: Work) -> bool:
    left = evaluate(expr.left, scope, work)
    for op, operand in expr.pairs:
        right = evaluate(operand, scope, work)
        work.offset = expr.offset
        if not _holds(op, left, right, work):
            return False
        left = right
    return True


def _holds(op: str, left: JsonValue, right: JsonValue, work: Work) -> bool:
    if op in ("==", "!="):
        return same(work, left, right) == (op == "==")
    if op in ("in", "not in"):
        return _contains(left, right, work) == (op == "in")
    if isinstance(left, str) and isinstance(right, str):
        return _TEXT_ORDER[op](left, right)
    if isinstance(left, (int, float)) and isinstance(right, (int, float)) and _numbers(left, right):
        return _ORDER[op](left, right)
    raise work.fail(f"{op} compares two numbers or two texts, not {_both(left, right)}")


def _contains(item: JsonValue, container: JsonValue, work: Work) -> bool:
    if isinstance(container, list):
        return any(same(work, item, other) for other in container)
    if isinstance(item, str) and isinstance(container, (str, dict)):
        return item in container
    raise work.fail(f"'in' looks into a list, or for text in text or in keys, not {_both(item, container)}")


def _numbers(left: JsonValue, right: JsonValue) -> bool:
    return is_number(left) and is_number(right)


def _both(left: JsonValue, right: JsonValue) -> str:
    return f"{say_kinds({kind_of(left)})} and {say_kinds({kind_of(right)})}"
