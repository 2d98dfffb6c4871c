"""JSON documents on their way into `jsonb` columns and back.

PostgreSQL takes neither NUL characters nor lone surrogates inside JSON strings, yet tools
print both, and a node must not fail after its work because of them. Such characters are
written as a mark and a few letters and come back as they were. NaN and Infinity are no
JSON: they are refused. Like every `jsonb`, a document keeps its values but not the order
of its keys.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Generator
from typing import Any, cast

from penstock.errors import StoreError

# In JSON text a backslash and what follows it are one sign; a surrogate stands there as it is.
_SIGN = re.compile(r"\\u([0-9a-f]{4})|\\.|([\ud800-\udfff])")
_MARKED = re.compile(r"\\u001a(?:(0)|(s)|u([0-9a-f]{4}))|\\.")
_MARKS = {"0000": r"\u001a0", "001a": r"\u001as"}


def encode(value: Any) -> str:
    """Write a JSON value as text that PostgreSQL takes.

    Raises:
        StoreError: The value is not JSON; the message names the place inside it.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"a value cannot be stored as JSON: {_reason(value, error)}") from error
    if "\\u0000" in text or "\\u001a" in text or not _fits_utf8(text):
        return _SIGN.sub(_mark, text)
    return text


def decode(text: str) -> Any:
    """Read back what `encode` wrote."""
    return json.loads(_MARKED.sub(_unmark, text) if "\\u001a" in text else text)


def plain_text(text: str | None) -> str | None:
    """Make a sentence for people fit for a `text` column; what does not fit becomes U+FFFD."""
    return None if text is None else re.sub("[\x00\ud800-\udfff]", "\ufffd", text)


def _fits_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mark(match: re.Match[str]) -> str:
    if match[2] is not None:
        return rf"\u001au{ord(match[2]):04x}"
    return _MARKS.get(match[1], match[0])


def _unmark(match: re.Match[str]) -> str:
    if match[3] is not None:
        return chr(int(match[3], 16))
    if match[1] is not None:
        return r"\u0000"
    return match[0].removesuffix("s") if match[2] is not None else match[0]


def _reason(value: Any, error: Exception) -> str:
    try:
        return next(_faults(value, "value"), str(error))
    except RecursionError:
        return "it is nested too deeply or contains itself"


def _faults(value: Any, place: str) -> Generator[str]:
    if isinstance(value, dict):
        for key, item in cast("dict[Any, Any]", value).items():
            yield from _faults(item, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _faults(item, f"{place}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place} is {value}"
    elif not isinstance(value, (str, int, float, type(None))):
        yield f"{place} is of type {type(value).__name__}"
