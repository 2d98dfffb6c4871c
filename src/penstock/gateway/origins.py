"""Refuses what a web page of another site makes a browser send.

A browser names the site of the page in `Origin`, and newer ones the relation of the two sites
in `Sec-Fetch-Site`; a page can set neither. Programs send neither, and come through.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.gateway.problems import problem

__all__ = ["SameOriginOnly"]

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing; a page of another site cannot read what they answer."""
_OWN = frozenset({"same-origin", "none"})


class SameOriginOnly:
    """Middleware that answers 403 to requests which change something and come from another site.

    Args:
        public: Address under which people reach the gateway when something stands before it that
            ends TLS; None when they reach it as it is.
    """

    def __init__(self, app: ASGIApp, public: str | None = None) -> None:
        self._app = app
        self._public = public.lower() if public else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and scope["method"] not in _HARMLESS and self._is_foreign(scope):
            refused = problem(403, "foreign_origin", "requests from pages of other sites are refused")
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_foreign(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        own = self._own(scope["scheme"], headers.get("host", "").lower())
        if any(origin.lower() not in own for origin in headers.getlist("origin")):
            return True
        return any(site.lower() not in _OWN for site in headers.getlist("sec-fetch-site"))

    def _own(self, scheme: str, host: str) -> frozenset[str]:
        """List the origins of our own pages, for a request to a host."""
        if self._public is None:
            return frozenset({f"{scheme}://{host}"})
        if host == urlsplit(self._public).netloc:  # its scheme is the public one, whatever arrives here
            return frozenset({self._public})
        return frozenset({self._public, f"{scheme}://{host}"})
