"""Who people are: names, groups and roles, from a file and from what a login says of them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Person"]


@dataclass(frozen=True)
class Person:
    """Somebody who is known, as of now."""

    name: str
    groups: frozenset[str] = frozenset()
    approver: bool = True
    """Whether the person's role lets him decide anything at all."""
    full_name: str = ""
    email: str = ""
