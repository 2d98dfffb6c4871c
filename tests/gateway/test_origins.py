"""Who may have a browser send what."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest
from starlette.responses import PlainTextResponse

from penstock.gateway.origins import SameOriginOnly

OWN = "http://127.0.0.1:8080"


async def status(method: str, headers: Mapping[str, str]) -> int:
    transport = httpx.ASGITransport(SameOriginOnly(PlainTextResponse("well")))
    async with httpx.AsyncClient(transport=transport, base_url=OWN) as client:
        answer = await client.request(method, "/", headers=dict(headers))
    if answer.status_code == 403:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:penstock:foreign_origin"
    return answer.status_code


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": OWN},
        {"Origin": OWN, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_programs_and_own_pages_come_through(method: str, headers: dict[str, str]) -> None:
    assert await status(method, headers) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://localhost:8080"},
        {"Origin": "https://127.0.0.1:8080"},
        {"Origin": f"{OWN}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": OWN, "Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_pages_of_other_sites_change_nothing(method: str, headers: dict[str, str]) -> None:
    assert await status(method, headers) == 403
    assert await status("GET", headers) == 200
