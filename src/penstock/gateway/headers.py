"""Headers of every answer: what browsers must not do with it."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["SecurityHeaders", "secure_headers"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # The address of a login link is as good as a password: no other site may see it. With no-referrer
    # browsers send our own forms with `Origin: null`, which cannot be told from those of other sites.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityHeaders:
    """Middleware that sets them; only what lies under `/static` may be kept by browsers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and add to its answer."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = list(message.get("headers", []))
                secure_headers(MutableHeaders(scope=message), keep=scope["path"].startswith("/static/"))
            await send(message)

        await self._app(scope, receive, told if scope["type"] == "http" else send)


def secure_headers(headers: MutableHeaders, *, keep: bool = False) -> None:
    """Set the headers; a policy that an answer has already stays, and so does its word on keeping it.

    Args:
        keep: Whether a browser may keep the answer, if it asks before it uses it again.
    """
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Cache-Control", "no-cache" if keep else "no-store")
