"""The end of a tool's standard error, fit to be shown: short, printable, without secrets."""

from __future__ import annotations

import re

_LINES = 12
_WIDTH = 240
_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]"
)
_QUOTED = re.compile(r"(['\"])(?:(?!\1).){8,}\1")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_ASSIGNED = re.compile(
    r"(?i)(pass(?:word|wd|phrase)?|secret|token|api[_-]?key|authorization|credential|private[_-]?key)"
    r"(\W{1,3})(?:(?:bearer|basic)\s+)?\S+"
)
_TOKEN = re.compile(r"(?=[\w+=.-]*\d)(?=[\w+=.-]*[A-Za-z])[\w+=-]{20,}")
_PEM = re.compile(r"-----BEGIN [^-]*PRIVATE KEY-----.*?(?:-----END [^-]*-----|\Z)", re.DOTALL)


def tail(data: bytes) -> str:
    """Return the last lines of a tool's standard error with everything like a secret masked."""
    text = _PEM.sub("***", data[-64 * 1024 :].decode("utf-8", "replace"))
    lines = [line.strip() for line in _CONTROL.sub("", text).splitlines() if line.strip()]
    return "\n".join(mask(line)[:_WIDTH] for line in lines[-_LINES:])


def mask(line: str) -> str:
    """Mask credentials in addresses, values of telling names, quoted text and long tokens."""
    line = _USERINFO.sub("***@", line)
    line = _ASSIGNED.sub(r"\1\2***", line)
    line = _QUOTED.sub(r"\1***\1", line)
    return _TOKEN.sub("***", line)
