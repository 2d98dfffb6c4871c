"""A server that stands where Prefect's does, and tells what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse

from gateway.console_kit import Desk, open_desk
from penstock.store.database import Database
from support.stack import free_port

SUSPENDED = {"type": "PAUSED", "name": "Suspended"}
SCHEMA: dict[str, Any] = {
    "title": "Decision",
    "type": "object",
    "properties": {
        "decision": {"title": "Decision", "enum": ["approve", "reject", "send_back"], "position": 0},
        "code": {"title": "Code", "type": "string", "format": "password", "position": 1},
        "comment": {"title": "Comment", "type": "string", "default": "", "position": 2},
    },
    "required": ["decision", "code"],
    "additionalProperties": False,
}
"""A form as the engine makes it."""


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakePrefect:
    """What a fake server was asked, and how it answers."""

    port: int = field(default_factory=free_port)
    asked: list[Asked] = field(default_factory=list[Asked])
    answers: dict[str, Response] = field(default_factory=dict[str, Response])
    """What it answers, by path; `{"asked": path}` for all others."""
    more: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets the second half of `/api/logs/slow` go."""

    @property
    def paths(self) -> list[str]:
        """What was asked for, in the order it came."""
        return [f"{one.method} {one.path}" for one in self.asked]

    def has_form(self, run_id: UUID, round_: int) -> None:
        """Have a form of a suspended run there, and what somebody put into it."""
        place = f"/api/flow_runs/{run_id}/input/round-{round_}"
        self.answers[f"{place}-schema"] = PlainTextResponse(json.dumps(SCHEMA))
        self.answers[f"{place}-description"] = PlainTextResponse(json.dumps("### Patch 2 files"))
        self.answers[f"{place}-response"] = PlainTextResponse(json.dumps({"code": "dead-beef"}))

    def has_run(self, run_id: UUID) -> None:
        """Have a run there."""
        self.answers[f"/api/flow_runs/{run_id}"] = JSONResponse({"id": str(run_id), "state": SUSPENDED})

    async def answer(self, request: Request) -> Response:
        """Answer, and take down what was asked."""
        path = request.scope["path"]
        asked = Asked(request.method, path, request.url.query, dict(request.headers), await request.body())
        self.asked.append(asked)
        if path == "/api/logs/slow":
            return StreamingResponse(self._slowly())
        return self.answers.get(path) or JSONResponse({"asked": path})

    async def _slowly(self) -> AsyncGenerator[bytes]:
        yield b"first half, "
        await self.more.wait()
        yield b"second half"


@asynccontextmanager
async def listening(app: FastAPI, port: int) -> AsyncGenerator[None]:
    """Serve an application on a port of loopback."""
    config = uvicorn.Config(app, port=port, lifespan="off", log_level="warning", ws="none")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  the tests have their own
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), "the server did not start"
        await asyncio.sleep(0.01)
    yield
    server.should_exit = True
    await task


@asynccontextmanager
async def fake_prefect() -> AsyncGenerator[FakePrefect]:
    """Run a fake server."""
    fake, app = FakePrefect(), FastAPI(openapi_url=None, redirect_slashes=False)
    fake.answers["/prefect/"] = Response(b"<title>Prefect</title>", headers=_PAGE)
    fake.answers["/prefect/old"] = RedirectResponse("/prefect/v2/", 307)
    fake.answers["/api/flows/"] = RedirectResponse(f"http://127.0.0.1:{fake.port}/api/flows?limit=1", 307)
    fake.answers["/api/flows/elsewhere"] = RedirectResponse("http://127.0.0.1:9/api/flows", 307)
    fake.answers["/prefect/ui-settings"] = JSONResponse(
        {"api_url": f"http://127.0.0.1:{fake.port}/api", "auth": "BASIC", "default_ui": "v2"}
    )
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    app.add_api_route("/{path:path}", fake.answer, methods=methods, response_model=None)
    async with listening(app, fake.port):
        yield fake


@asynccontextmanager
async def desk_before(prefect: FakePrefect, database: Database, folder: Path) -> AsyncGenerator[Desk]:
    """Make a gateway that stands before a fake server."""
    opened = await open_desk(database, folder, prefect={"port": prefect.port})
    yield opened
    if (upstream := getattr(opened.app.state, "prefect", None)) is not None:
        await upstream.client.aclose()


async def send(
    desk: Desk, method: str, path: str, person: str | None = "ada", **options: Any
) -> httpx.Response:
    """Ask the gateway for something of Prefect's."""
    async with desk.client(person) as client:
        return await client.request(method, f"/prefect{path}", **options)


_PAGE: dict[str, Any] = {
    "content-type": "text/html",
    "etag": '"1"',
    "content-security-policy": "default-src *",
    "cache-control": "public",
    "set-cookie": "penstock_session=stolen",
    "access-control-allow-origin": "*",
    "server": "Prefect",
    "connection": "keep-alive, x-hop",
    "x-hop": "1",
}
