"""Whether addresses can be trusted, and where a login may lead to."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

__all__ = ["is_loopback", "is_secure", "own_path"]

_LONGEST_PATH = 2000
_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path of this site: printable ASCII without a backslash; a browser takes `//host` for another site."""


def is_loopback(host: str) -> bool:
    """Say whether an address can only be reached from this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_secure(request: HTTPConnection) -> bool:
    """Say whether what a browser keeps for this site travels encrypted only."""
    url: str | None = request.app.state.services.settings.gateway.url
    return request.url.scheme == "https" or (url is not None and urlsplit(url).scheme.lower() == "https")


def own_path(wanted: str) -> str:
    """Give the path if it is one of this site, otherwise the start page."""
    return wanted if len(wanted) <= _LONGEST_PATH and _PATH.fullmatch(wanted) else "/"
