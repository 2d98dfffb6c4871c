"""Lets in who has signed in, and everybody where the login is."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.errors import PenstockError
from penstock.gateway.problems import answer_to
from penstock.gateway.signed import signed_in

__all__ = ["OPEN", "SignedInOnly"]

OPEN = frozenset(
    {"/healthz", "/readyz", "/login", "/login/link", "/login/oidc", "/login/oidc/callback", "/logout"}
)
"""Paths that are open to everybody, with what lies under `/static`; every other one is closed."""


class SignedInOnly:
    """Middleware that finds out who asks before anything else of a request is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in OPEN or scope["path"].startswith("/static/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            request.state.signed = await signed_in(request)
        except PenstockError as error:
            await answer_to(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)
