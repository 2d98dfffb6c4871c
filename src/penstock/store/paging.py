"""Pages of listings that begin with the newest row, and the cursors between them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from penstock.errors import InputInvalid

T = TypeVar("T")


def cut(found: Sequence[T], limit: int) -> tuple[tuple[T, ...], T | None]:
    """Cut a listing that was asked for one row too many.

    Returns:
        The rows of the page, and its last row when more rows follow.
    """
    page = tuple(found[:limit])
    return page, page[-1] if len(found) > limit else None


def write_cursor(at: datetime, id_: UUID) -> str:
    """Write the cursor of what follows the row with this time and id."""
    return base64.urlsafe_b64encode(json.dumps([at.isoformat(), str(id_)]).encode()).decode()


def read_cursor(cursor: str) -> tuple[datetime, UUID]:
    """Read the time and the id that a cursor holds.

    Raises:
        InputInvalid: The cursor is not one of ours.
    """
    try:
        at, id_ = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        return datetime.fromisoformat(at), UUID(id_)
    except (ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise InputInvalid("the cursor is not one that a listing gave out") from error
