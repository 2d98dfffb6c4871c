"""The HTTP gateway.

Without keys there is no way to tell who calls, so it listens on loopback only, answers only
to loopback names (a web page that rebinds its name to 127.0.0.1 is refused), takes JSON only,
and refuses whatever a page of another site has a browser send: it can start, cancel and approve.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from penstock import __version__
from penstock.engine.services import open_services
from penstock.errors import SettingsError
from penstock.gateway import approvals, runs, workflows
from penstock.gateway.opened import Opened
from penstock.gateway.origins import SameOriginOnly
from penstock.gateway.problems import install_problem_handlers
from penstock.lifeline import report_ready
from penstock.settings import Settings

__all__ = ["create_app", "serve"]

_PATIENCE_S = 120.0
_LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]


def create_app(settings: Settings, *, library: bool = False) -> FastAPI:
    """Make the application.

    Args:
        library: Apply the shipped workflows before the first request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with open_services(settings, patience_s=_PATIENCE_S) as services:
            app.state.services = services
            await services.prepare(library=library)
            report_ready()
            yield

    app = FastAPI(title="Penstock", version=__version__, lifespan=lifespan)
    app.add_middleware(SameOriginOnly)  # compares with the host's name, which is checked first
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK_HOSTS)
    install_problem_handlers(app)
    _add_health(app)
    for routes in (workflows, runs, approvals):
        app.include_router(routes.router)
    return app


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["health"])
    async def alive() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"])
    async def ready(services: Opened) -> JSONResponse:
        """Whether the database and Prefect answer."""
        checks = await services.health()
        well = all(answer == "ok" for answer in checks.values())
        return JSONResponse(checks, status_code=200 if well else 503)


def serve(settings: Settings, *, library: bool = False) -> None:
    """Serve until SIGTERM.

    Args:
        library: Apply the shipped workflows before the first request.
    Raises:
        SettingsError: The address is not on loopback.
    """
    host = settings.gateway.host
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise SettingsError(
            f"PENSTOCK_GATEWAY__HOST={host}: without keys the gateway listens on loopback only"
        )
    uvicorn.run(
        create_app(settings, library=library),
        host=host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
