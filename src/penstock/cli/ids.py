"""Ids as people type them: in full, or so many of their first digits that only one fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from penstock.errors import InputInvalid, NotFound

if TYPE_CHECKING:
    from penstock.store.database import Database

__all__ = ["find_approval", "find_run", "pick"]

_FEWEST_DIGITS = 6
_DIGITS = 32
_NEWEST = 1000
_PER_PAGE = 100


async def find_run(database: Database, given: str) -> UUID:
    """Give the id of the run that a person means.

    Raises:
        InputInvalid: It is no id, too short, or fits several.
        NotFound: None of the newest runs begins so.
    """
    from penstock.store.runs import list_runs  # noqa: PLC0415  quick start

    digits = _digits(given, "run")
    if len(digits) == _DIGITS:
        return UUID(digits)
    page = await list_runs(database, limit=_NEWEST)
    return pick([run.id for run in page.runs], digits, "run")


async def find_approval(database: Database, given: str) -> UUID:
    """Give the id of the request for approval that a person means; open ones come first.

    Raises:
        InputInvalid: It is no id, too short, or fits several.
        NotFound: None of the newest requests begins so.
    """
    from penstock.store.states import ApprovalState  # noqa: PLC0415  quick start

    digits = _digits(given, "approval")
    if len(digits) == _DIGITS:
        return UUID(digits)
    still_open = await _requests(database, (ApprovalState.OPEN,))
    if any(known.hex.startswith(digits) for known in still_open):
        return pick(still_open, digits, "approval")
    return pick(await _requests(database, ()), digits, "approval")


def pick(known: Sequence[UUID], digits: str, kind: str) -> UUID:
    """Give the one id that begins with some digits.

    Args:
        kind: What the ids are of, for messages.
    Raises:
        InputInvalid: Several begin so.
        NotFound: None does.
    """
    found = [one for one in known if one.hex.startswith(digits)]
    if not found:
        raise NotFound(f"none of the newest {len(known)} {kind}s begins with {digits!r}; give the whole id")
    if len(found) > 1:
        few = ", ".join(str(one) for one in found[:5])
        raise InputInvalid(f"{len(found)} {kind}s begin with {digits!r}: {few}; give more digits")
    return found[0]


def _digits(given: str, kind: str) -> str:
    digits = given.replace("-", "").lower()
    if not re.fullmatch(f"[0-9a-f]{{{_FEWEST_DIGITS},{_DIGITS}}}", digits):
        raise InputInvalid(
            f"{given!r} is not the id of {'an' if kind[0] in 'aeiou' else 'a'} {kind};"
            f" give all of it or at least its first {_FEWEST_DIGITS} digits"
        )
    return digits


async def _requests(database: Database, states: Sequence[str]) -> list[UUID]:
    """List the ids of the newest requests."""
    from penstock.store.approvals import list_requests  # noqa: PLC0415  quick start

    found: list[UUID] = []
    cursor: str | None = None
    while len(found) < _NEWEST:
        page = await list_requests(database, states=states, limit=_PER_PAGE, cursor=cursor)
        found += [request.id for request in page.requests]
        cursor = page.cursor
        if cursor is None:
            break
    return found
