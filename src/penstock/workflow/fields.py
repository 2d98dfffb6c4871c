"""Types of the fields of a file: names, durations, and the models' base."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    PrivateAttr,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from penstock.workflow.source import Source

MAX_DURATION_S = 366 * 86_400
"""Longest duration, a year."""

_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_DURATION = r"([0-9]{1,9}(\.[0-9]{1,3})?(d|h|ms|m|s))+"
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(d|h|ms|m|s)")


class Model(BaseModel):
    """Base of the file's models: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Document(Model):
    """Base of the models of whole files."""

    _source: Source | None = PrivateAttr(default=None)

    @property
    def source(self) -> Source | None:
        """The file it was read from, for the places of problems."""
        return self._source

    def read_from(self, source: Source) -> Self:
        """Remember the file it was read from."""
        self._source = source
        return self


def parse_duration(value: object) -> object:
    """Read `90s`, `30m`, `1h30m` or `1d` as seconds."""
    if not isinstance(value, str) or len(value) > 40 or not re.fullmatch(_DURATION, value):
        raise PydanticCustomError("duration", "a duration is a number and a unit, like 30s, 10m, 4h or 1d")
    milliseconds = round(sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(value)))
    if not 1 <= milliseconds <= MAX_DURATION_S * 1000:
        raise PydanticCustomError("duration", "a duration is at least 1ms and at most 366d")
    return milliseconds / 1000


def format_duration(seconds: float) -> str:
    """Write seconds in the largest unit that gives a whole number."""
    milliseconds = round(seconds * 1000)
    unit = next(unit for unit, size in _UNITS_MS.items() if milliseconds % size == 0)
    return f"{milliseconds // _UNITS_MS[unit]}{unit}"


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION}$", "examples": ["30s", "10m", "4h"]}),
]
"""Seconds; written as `30s`, `10m`, `1h30m`."""

WorkflowName = Annotated[
    str, StringConstraints(pattern=r"^(agent/)?[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=100)
]
"""Lower-case words joined by dashes; `agent/` begins the names of one-node workflows."""

AgentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=100)]

Id = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
"""A node's id: lower-case letters, digits and underscores, so that expressions can name it."""

FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=60)]
"""An input's or output's name."""

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""A name in another system: a block, a pool, a topic."""

SecretRef = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z_][A-Za-z0-9_]*$")]
"""A field of a block, as `block/field`."""

PersonName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$", max_length=100)]
"""Name of a person or a group, such that a `Principal` can name it."""

Principal = Annotated[str, StringConstraints(pattern=r"^(user|group):[A-Za-z0-9][A-Za-z0-9._@+-]*$")]
"""Who may approve: `user:name` or `group:name`."""

Text = Annotated[str, StringConstraints(max_length=16 * 1024)]
"""Text that may hold `{{ }}`."""
