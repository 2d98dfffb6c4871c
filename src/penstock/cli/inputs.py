"""Values that are typed as `name=value`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.errors import InputInvalid

__all__ = ["parse_inputs"]


def parse_inputs(
    pairs: Sequence[str], types: Mapping[str, str], *, option: str = "--input"
) -> dict[str, Any]:
    """Read `name=value` pairs; a value for a text input stays text, others are JSON.

    Args:
        types: JSON type of each value; one that is not there is a text.
        option: What the pairs were given with, for messages.
    Raises:
        InputInvalid: A pair has no `=`, a name comes twice, or a value is not JSON.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise InputInvalid(f"{option} {pair!r}: write name=value")
        if name in found:
            raise InputInvalid(f"{option} {name!r} is given twice")
        is_text = types.get(name, "string") == "string"
        found[name] = value if is_text else _from_json(f"{option} {name}", value)
    return found


def _from_json(place: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise InputInvalid(f"{place}: {value!r} is not JSON") from None
