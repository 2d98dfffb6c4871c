"""Targets of standing grants: texts in which `*` stands for anything."""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["covers"]


def covers(patterns: Collection[str], targets: Collection[str]) -> bool:
    """Say whether every target fits a pattern; without targets nobody knows what would be changed."""
    compiled = [re.compile(_expression(pattern), re.DOTALL) for pattern in patterns]
    return bool(targets) and all(any(one.fullmatch(target) for one in compiled) for target in targets)


def _expression(pattern: str) -> str:
    return ".*".join(re.escape(part) for part in pattern.split("*"))
