"""When a freeze is on: between two moments, or each week at the same hours by the clock of a place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from penstock.workflow.fields import Model

__all__ = ["Moment", "Weekly", "Window"]

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LOOKED_AT = range(-2, 23)
"""Days around today whose windows are looked at."""
_FOR_EVER = timedelta(days=15)
"""Windows of a week that follow each other for so long never end, change of the hour or not."""


def _moment(value: object) -> datetime:
    try:
        found = datetime.fromisoformat(value if isinstance(value, str) else "")
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise PydanticCustomError(
        "moment", "a moment is a date and a time with its offset, like 2026-12-20T00:00:00Z"
    )


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (OSError, ValueError, KeyError):
        raise PydanticCustomError("timezone", "there is no such time zone") from None
    return value


Moment = Annotated[
    datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]
"""A moment in UTC; written with any offset."""

_Clock = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
_Zone = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$", max_length=60),
    AfterValidator(_zone),
]


@dataclass(frozen=True)
class Window:
    """A time in which a freeze is on."""

    begin: datetime
    end: datetime | None
    """The first moment after it; None when it never ends."""

    def holds(self, now: datetime) -> bool:
        """Tell whether a moment lies in it."""
        return self.begin <= now and (self.end is None or now < self.end)


class Weekly(Model):
    """The same hours on some days of each week."""

    days: Sequence[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(
        min_length=1, description="Days on which it begins."
    )
    from_: _Clock = Field(alias="from", description="When it begins, by the clock of the time zone.")
    to: _Clock = Field(description="When it ends; on the day after when that is not later than `from`.")
    timezone: _Zone = Field(default="UTC", description="Name of a time zone, like Europe/Berlin.")

    def window(self, now: datetime) -> Window | None:
        """Give the window that a moment lies in, joined with those that follow it without a break."""
        found: tuple[datetime, datetime] | None = None
        for begin, end in self._spans(now):
            if found is None and begin <= now < end:
                found = begin, end
            elif found is not None and begin <= found[1]:
                found = found[0], max(found[1], end)
        if found is None:
            return None
        begin, end = found
        return Window(begin, None if end - now > _FOR_EVER else end)

    def _spans(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        zone = ZoneInfo(self.timezone)
        today = now.astimezone(zone).date()
        begin, end = time.fromisoformat(self.from_), time.fromisoformat(self.to)
        for days in _LOOKED_AT:
            day = today + timedelta(days=days)
            if _DAYS[day.weekday()] in self.days:
                last = day if end > begin else day + timedelta(days=1)
                yield min(_meanings(day, begin, zone)), max(_meanings(last, end, zone))


def _meanings(day: date, clock: time, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Give the moments that a clock's time may mean; they differ in a night when the hour is changed."""
    local = datetime.combine(day, clock, tzinfo=zone)
    return local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)
