"""What is different between two cards, for the person who has approved the first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

__all__ = ["changes_between"]

_LONGEST = 2_000
_COMPARED = ("revision", "agent", "inputs", "plan", "undo")


def changes_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, str]]:
    """List what has changed from one card to the next, each as `{"what", "before", "after"}`.

    `what` is a path such as `inputs.patch`; long texts are cut, and something that was not there
    is an empty text.
    """
    found: list[dict[str, str]] = []
    for key in _COMPARED:
        found += [
            {"what": what, "before": _shown(old), "after": _shown(new)}
            for what, old, new in _differences(key, before.get(key), after.get(key))
        ]
    return found


def _differences(path: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        for key in dict.fromkeys((*old, *new)):
            yield from _differences(f"{path}.{key}", old.get(key), new.get(key))
    elif _exact(before) != _exact(after):
        yield path, before, after


def _exact(value: Any) -> str:
    """Tell apart what Python takes for equal, such as true and 1."""
    return json.dumps(value, sort_keys=True, default=str)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"
