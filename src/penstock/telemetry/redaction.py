"""Take secrets out of text before it leaves the process.

Two nets: the very values that are known to be secret (settings, environment variables whose
names say so), and the shapes that secrets have (credentials in URLs, tokens, private keys).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

__all__ = ["MASK", "Redactor", "secrets_of_environment"]

MASK = "[redacted]"

_SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|PRIVATE_?KEY|CREDENTIAL|AUTH_STRING)", re.IGNORECASE
)
_URL_PASSWORD = re.compile(
    r"(?P<head>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)(?P<secret>[^\s@/]+)(?=@)", re.IGNORECASE
)
_ASSIGNED = re.compile(
    r"(?P<head>\b(?:authorization|x-api-key|token|password|passwd|secret|api[_-]?key)\b[\"']?\s*[:=]\s*"
    r"(?:bearer\s+|basic\s+)?[\"']?)(?P<secret>[^\s\"',;]{4,})",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}",
    re.DOTALL,
)
_SHORTEST = 6
"""Known values shorter than this are left alone: masking `on` or `8080` would ruin every text."""


def secrets_of_environment(environ: Mapping[str, str] | None = None) -> set[str]:
    """Return the values of environment variables whose names say that they hold a secret."""
    found = environ if environ is not None else os.environ
    return {value for name, value in found.items() if _SECRET_NAME.search(name)}


class Redactor:
    """Mask known secrets and things that look like secrets.

    Args:
        known: Values that must never be seen.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        values = sorted({value for value in known if len(value) >= _SHORTEST}, key=len, reverse=True)
        self._known = re.compile("|".join(re.escape(value) for value in values)) if values else None

    def text(self, text: str) -> str:
        """Return `text` with every secret masked."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        text = _SHAPES.sub(MASK, text)
        text = _URL_PASSWORD.sub(rf"\g<head>{MASK}", text)
        return _ASSIGNED.sub(rf"\g<head>{MASK}", text)

    def known(self, value: Any) -> Any:
        """Return JSON data with the known secrets masked and nothing else changed."""
        if self._known is None:
            return value
        return _mapped(value, lambda text: self._known.sub(MASK, text) if self._known else text)

    def data(self, value: Any) -> Any:
        """Return JSON data with every string in it masked; keys stay as they are."""
        return _mapped(value, self.text)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Apply a change to every string in JSON data; keys stay as they are."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in cast("list[Any]", value)]
    return value
