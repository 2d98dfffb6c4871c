"""Our own Prefect server behind the gateway: requests go on to it and answers come back as streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import httpx
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from penstock.engine.environment import UI_BASE, api_url
from penstock.engine.prefect_login import authorization
from penstock.errors import InputInvalid, Unreachable
from penstock.settings import Settings

__all__ = ["LARGEST_BODY", "Upstream", "open_upstream", "read_body"]

LARGEST_BODY = 8 * 1024 * 1024
"""Bytes that somebody may send in one request."""
_TIMES = httpx.Timeout(60.0, connect=5.0, pool=5.0)
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)
_PASSED = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "content-length",
        "content-type",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "range",
        "sec-fetch-dest",
        "sec-fetch-mode",
        "user-agent",
    }
)
"""Headers that Prefect gets to see, beside its own; above all no credentials."""
_ITS_OWN = ("x-prefect-", "prefect-csrf-")
_COOKIE = "prefect_ui_version"
"""The one cookie that is Prefect's: which of its two interfaces somebody likes."""
_ANSWERED = frozenset(
    {
        "accept-ranges",
        "content-disposition",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "etag",
        "last-modified",
        "retry-after",
        "vary",
    }
)
_SECRETS = "include_secrets"
"""Parameter with which Prefect shows what blocks hide; nobody gets that here."""


class _Passed(StreamingResponse):
    """An answer that is read while it is sent, and let go of when either side ends."""

    def __init__(self, answer: httpx.Response, headers: Mapping[str, str]) -> None:
        super().__init__(answer.aiter_raw(), answer.status_code, headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


@dataclass(frozen=True)
class Upstream:
    """The Prefect server."""

    client: httpx.AsyncClient
    """Its base URL is where the server listens."""

    async def pass_on(self, request: Request, path: str, *, body: bytes | None = None) -> Response:
        """Have the server answer a request.

        Args:
            path: Path on the server, decoded.
            body: What to send in place of the request's own body.
        Raises:
            Unreachable: It does not answer.
            InputInvalid: The body is larger than 8 MiB, or broke off.
        """
        params = request.query_params.multi_items()
        query = urlencode([(key, value) for key, value in params if key != _SECRETS])
        asked = self.client.build_request(
            request.method,
            f"{quote(path)}?{query}" if query else quote(path),
            headers=list(_headers(request, own_body=body is None)),
            content=_stream(request) if body is None and _has_body(request) else body,
        )
        try:
            answer = await self.client.send(asked, stream=True)
        except httpx.TransportError as error:
            raise Unreachable("Prefect does not answer; look at its log") from error
        except ClientDisconnect:
            raise InputInvalid("the request broke off") from None
        return _Passed(answer, self._answered(answer))

    async def get(self, path: str) -> httpx.Response:
        """Ask for something small.

        Raises:
            Unreachable: It does not answer.
        """
        try:
            return await self.client.get(quote(path))
        except httpx.TransportError as error:
            raise Unreachable("Prefect does not answer; look at its log") from error

    def _answered(self, answer: httpx.Response) -> dict[str, str]:
        headers = {name: value for name, value in answer.headers.items() if name in _ANSWERED}
        if place := self._place(answer.headers.get("location", "")):
            headers["location"] = place
        return headers

    def _place(self, location: str) -> str:
        """Give where a redirect leads here; empty when it leads elsewhere."""
        path = location.removeprefix(str(self.client.base_url).removesuffix("/"))
        if path.startswith(f"{UI_BASE}/"):
            return path
        return f"{UI_BASE}{path}" if path.startswith("/api/") else ""


def open_upstream(settings: Settings) -> Upstream:
    """Open connections to our own Prefect server; whoever does closes `client`."""
    headers = {"accept-encoding": "identity"}
    if login := authorization():
        headers["authorization"] = login
    base = api_url(settings).removesuffix("/api")
    return Upstream(
        httpx.AsyncClient(base_url=base, headers=headers, timeout=_TIMES, limits=_LIMITS, trust_env=False)
    )


async def read_body(request: Request, *, largest: int) -> bytes:
    """Read a small body.

    Raises:
        InputInvalid: It is larger, or broke off.
    """
    body = bytearray()
    try:
        async for chunk in _stream(request, largest=largest):
            body += chunk
    except ClientDisconnect:
        raise InputInvalid("the request broke off") from None
    return bytes(body)


async def _stream(request: Request, *, largest: int = LARGEST_BODY) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > largest:
            raise InputInvalid(f"the request is larger than {largest} bytes")
        yield chunk


def _has_body(request: Request) -> bool:
    return not {"content-length", "transfer-encoding"}.isdisjoint(request.headers.keys())


def _headers(request: Request, *, own_body: bool) -> Iterator[tuple[str, str]]:
    for name, value in request.headers.items():
        passed = name in _PASSED and (own_body or name != "content-length")
        if (passed or name.startswith(_ITS_OWN)) and value.isascii():
            yield name, value
    if _COOKIE in request.cookies:
        yield "cookie", f"{_COOKIE}={quote(request.cookies[_COOKIE])}"
