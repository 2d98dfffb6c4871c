"""Caps that keep an expression from running away."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import JsonValue

from penstock.errors import ExpressionError, MissingError


@dataclass(frozen=True)
class Limits:
    """How large an expression and its result may be."""

    source_chars: int = 16 * 1024
    """Text of one template."""
    tokens: int = 400
    """Tokens of one `{{ }}`."""
    depth: int = 16
    """Nested brackets, `not` and minus signs in one `{{ }}`."""
    operations: int = 40
    """Filters, lookups and operators applied one on another."""
    steps: int = 500_000
    """Steps of one evaluation; a step touches one value or 64 characters."""
    chars: int = 4 * 1024 * 1024
    """Characters of a result, or of any text on the way."""
    data_depth: int = 100
    """Nesting of a result."""


LIMITS = Limits()

_INTEGER_BITS = 1024


class Work:
    """What one evaluation has used up, and the place it is at."""

    def __init__(self, limits: Limits = LIMITS, *, offset: int = 0) -> None:
        self.limits = limits
        self.offset = offset
        self._left = limits.steps

    def fail(self, message: str) -> ExpressionError:
        """Make the error for the place that is being evaluated."""
        return ExpressionError(message, offset=self.offset)

    def missing(self, message: str) -> MissingError:
        """Make the error for a value that is not there, at the place that is being evaluated."""
        return MissingError(message, offset=self.offset)

    def spend(self, steps: int) -> None:
        """Count steps.

        Raises:
            ExpressionError: There were too many.
        """
        self._left -= steps
        if self._left < 0:
            raise self.fail(f"the expression needs more than {self.limits.steps} steps")

    def room(self, chars: int) -> None:
        """Make sure that a text of this many characters may be built, and count its cost.

        Raises:
            ExpressionError: It would be too long.
        """
        self.spend(chars // 64)
        self.fits(chars)

    def fits(self, chars: int) -> None:
        """Make sure that a result of this many characters is allowed.

        Raises:
            ExpressionError: It is too long.
        """
        if chars > self.limits.chars:
            raise self.fail(f"the result would have more than {self.limits.chars} characters")

    def measure(self, value: JsonValue) -> None:
        """Make sure that a value is plain JSON data within the limits.

        Raises:
            ExpressionError: It is too large, too deep, or not JSON.
        """
        chars = 0
        waiting: list[tuple[JsonValue, int]] = [(value, 0)]
        while waiting:
            part, depth = waiting.pop()
            self.spend(1)
            if depth > self.limits.data_depth:
                raise self.fail(f"the result is nested deeper than {self.limits.data_depth} levels")
            chars += self._size(part)
            self.fits(chars)
            waiting.extend((inner, depth + 1) for inner in _parts(part))

    def _size(self, value: JsonValue) -> int:
        match value:
            case None | bool():
                return 4
            case str():
                return len(value)
            case int() | float():
                self._check_number(value)
                return 8
            case list():
                self.spend(len(value))
                return 2
            case dict():
                self.spend(len(value))
                return sum(len(key) for key in value)
            case _:
                raise self.fail(f"{type(value).__name__} is not JSON data")

    def _check_number(self, value: float) -> None:
        if isinstance(value, int):
            if value.bit_length() > _INTEGER_BITS:
                raise self.fail("the number is too large")
        elif not math.isfinite(value):
            raise self.fail("a number must be finite")


def _parts(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, list):
        return value
    return list(value.values()) if isinstance(value, dict) else []
