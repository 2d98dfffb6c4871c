"""What people who sign in send."""

from __future__ import annotations

import httpx

from gateway.conftest import PASSWORD

__all__ = ["by_link", "by_password", "me"]


async def by_password(
    client: httpx.AsyncClient, name: str = "alice", password: str = PASSWORD, **more: str
) -> httpx.Response:
    return await client.post("/login", data={"name": name, "password": password, **more})


async def by_link(client: httpx.AsyncClient, token: str, **more: str) -> httpx.Response:
    return await client.post("/login/link", data={"token": token, **more})


async def me(client: httpx.AsyncClient) -> str | None:
    answer = await client.get("/api/me")
    return answer.json()["person"] if answer.status_code == 200 else None
