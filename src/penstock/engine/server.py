"""Our own Prefect server, as a process on loopback: `python -m penstock.engine.server`."""

from __future__ import annotations

import os

import uvicorn
from fastapi import FastAPI
from prefect.server.api.server import create_app
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.lifeline import die_with_parent, report_ready

__all__ = ["main"]


class _Moved:
    """Leads browsers that look for the UI at the root to its base."""

    def __init__(self, app: ASGIApp, base: str) -> None:
        self._app = app
        self._base = base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or tell where the page is now."""
        app = RedirectResponse(self._place(scope), 307) if self._is_old(scope) else self._app
        await app(scope, receive, send)

    def _is_old(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
            return False
        opens_page = "text/html" in Headers(scope=scope).get("accept", "")
        return opens_page and not f"{scope['path']}/".startswith((f"{self._base}/", "/api/"))

    def _place(self, scope: Scope) -> str:
        query: bytes = scope["query_string"]
        return f"{self._base}{scope['path']}{'?' if query else ''}{query.decode('latin-1')}"


class _Server(uvicorn.Server):
    """Says that it is ready once it accepts connections."""

    async def startup(self, *args: object, **options: object) -> None:
        await super().startup(*args, **options)  # pyright: ignore[reportArgumentType]
        report_ready()


def main() -> None:
    """Serve Prefect's API and UI until SIGTERM."""
    die_with_parent()
    app: FastAPI = create_app()
    config = uvicorn.Config(
        _Moved(app, os.environ["PREFECT_SERVER_UI_SERVE_BASE"]),
        host=os.environ["PREFECT_SERVER_API_HOST"],
        port=int(os.environ["PREFECT_SERVER_API_PORT"]),
        log_level="warning",
        timeout_keep_alive=65,
        timeout_graceful_shutdown=5,
    )
    _Server(config).run()


if __name__ == "__main__":
    main()
