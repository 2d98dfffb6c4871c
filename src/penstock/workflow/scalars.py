"""Plain scalars of YAML 1.2's core schema, and where a character of one stands in the file."""

from __future__ import annotations

import math
import re

MAX_NUMBER_LENGTH = 40
"""Longest number, in characters; Python's own conversion of longer ones is slow or refused."""

_WORDS: dict[str, bool | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_BASES = ((re.compile(r"0o[0-7]+"), 8), (re.compile(r"0x[0-9a-fA-F]+"), 16), (re.compile(r"[-+]?[0-9]+"), 10))
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_ESCAPES = {"x": 4, "u": 6, "U": 10}


def resolve_plain(text: str) -> str | float | bool | None:
    """Give the value of an unquoted scalar.

    Raises:
        ValueError: It is a number that is not finite or too long.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("a number must be finite")
    for pattern, base in _BASES:
        if pattern.fullmatch(text):
            _check_length(text)
            return int(text, base)
    if _FLOAT.fullmatch(text):
        _check_length(text)
        return _finite(float(text))
    return text


def _check_length(text: str) -> None:
    if len(text) > MAX_NUMBER_LENGTH:
        raise ValueError(f"a number has at most {MAX_NUMBER_LENGTH} characters; quote it if it is text")


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError("a number must be finite")
    return number


def join_surrogates(text: str) -> str:
    r"""Join the halves that JSON writes as `\ud83d\ude00`.

    Raises:
        ValueError: A half stands alone.
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


def raw_offset(raw: str, value: str, offset: int, style: str) -> int:
    """Find where character `offset` of a scalar's value stands in its raw text.

    Quotes, escapes, folded lines and indentation make the two differ, so both are walked
    side by side; what only the raw text has is passed over.

    Args:
        style: The YAML style character: `|`, `>`, a quote, or empty for plain.
    """
    at = raw.find("\n") + 1 if style in ("|", ">") else len(style)
    for wanted in value[:offset]:
        at = _match(raw, at, wanted, escapes=style == '"')
    if offset < len(value):
        at = _seek(raw, at, value[offset], escapes=style == '"')
    return min(at, len(raw))


def _match(raw: str, at: int, wanted: str, *, escapes: bool) -> int:
    at = _seek(raw, at, wanted, escapes=escapes)
    return at + (_escape_length(raw, at) if escapes and raw[at : at + 1] == "\\" else 1)


def _seek(raw: str, at: int, wanted: str, *, escapes: bool) -> int:
    while at < len(raw) and not _stands_for(raw, at, wanted, escapes=escapes):
        at += 1
    return at


def _stands_for(raw: str, at: int, wanted: str, *, escapes: bool) -> bool:
    here = raw[at]
    if escapes and here == "\\":
        return raw[at + 1 : at + 2] != "\n"
    return here == wanted or (here.isspace() and wanted.isspace())


def _escape_length(raw: str, at: int) -> int:
    if raw[at + 1 : at + 3].lower() == "ud" and raw[at + 3 : at + 4] in "89abAB":
        return 12  # two halves of one character
    return _ESCAPES.get(raw[at + 1 : at + 2], 2)
