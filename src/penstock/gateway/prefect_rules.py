"""What a request means to the Prefect server: whether it reads, changes, decides or gives away secrets."""

from __future__ import annotations

import re
from enum import StrEnum

__all__ = ["Access", "access_of", "is_plain"]


class Access(StrEnum):
    """How a request to Prefect's API is dealt with."""

    READ = "read"
    """Passes for everybody who has signed in."""
    CHANGE = "change"
    """Passes for people who may act."""
    RESUME = "resume"
    """Is a decision when the run waits for one."""
    FORM = "form"
    """Asks for a form, not for what somebody put into it."""
    BLOCKS = "blocks"
    """Reads blocks, and may ask for their secrets in its body."""
    CLOSED = "closed"
    """Passes for nobody."""


_INPUT = re.compile(r"flow_runs/[^/]+/input(/.*)?")
_FORM = re.compile(r"flow_runs/[^/]+/input/[^/]+-(schema|description)")
_RESUME = re.compile(r"flow_runs/[^/]+/resume")
_BLOCKS = "block_documents/filter"
_LOOKS = re.compile(
    r"(.+/)?(filter|count|counts|paginate|history|lateness|validate|count-task-runs|count-deployments|next-runs)"
    r"|events/count-by/[^/]+"
)
"""What is sent with POST and changes nothing."""
_READING = frozenset({"GET", "HEAD"})
_STEERING = re.compile(r"[\x00-\x1f\x7f\\]")


def is_plain(path: str) -> bool:
    """Say whether a path means the same to everybody who reads it.

    Args:
        path: Decoded, without the first slash; one at the end is all right.
    """
    parts = path.removesuffix("/").split("/")
    return path == "" or not (_STEERING.search(path) or {"", ".", ".."} & set(parts))


def access_of(method: str, path: str) -> Access:
    """Say how to deal with a request.

    Args:
        path: Decoded path below the API, without the first slash.
    """
    path = path.removesuffix("/")
    if _INPUT.fullmatch(path):
        return Access.FORM if method in _READING and _FORM.fullmatch(path) else Access.CLOSED
    if method in _READING:
        return Access.READ
    if method == "POST" and _RESUME.fullmatch(path):
        return Access.RESUME
    if method == "POST" and path == _BLOCKS:
        return Access.BLOCKS
    return Access.READ if method == "POST" and _LOOKS.fullmatch(path) else Access.CHANGE
