"""The HTTP gateway.

It answers to its own names only (a web page that rebinds its name to 127.0.0.1 is refused), takes
JSON only, refuses whatever a page of another site has a browser send, and wants to know who asks:
everything but the login and the health checks needs a session. It listens on loopback unless it is
told its public address and who its people are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles

from penstock import __version__
from penstock.engine.services import open_services
from penstock.errors import SettingsError
from penstock.gateway import approvals, arriving, console, grants, login, prefect_ui, runs, workflows
from penstock.gateway.addresses import is_loopback
from penstock.gateway.guard import SignedInOnly
from penstock.gateway.headers import SecurityHeaders
from penstock.gateway.opened import Opened
from penstock.gateway.origins import SameOriginOnly
from penstock.gateway.pages import STATIC
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
    Raises:
        SettingsError: The identity provider's address cannot be trusted.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with open_services(settings, patience_s=_PATIENCE_S) as services:
            app.state.services = services
            await services.prepare(library=library)
            report_ready()
            yield

    # The pages that explain an API load scripts from other hosts; /openapi.json is enough for tools.
    app = FastAPI(title="Penstock", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.entrance = login.entrance_of(settings)
    _add_middleware(app, settings.gateway.url)
    install_problem_handlers(app)
    _add_health(app)
    for routes in (login, workflows, runs, approvals, grants, console, arriving, prefect_ui):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def _add_middleware(app: FastAPI, url: str | None) -> None:
    """Add what every request passes; what is added last comes first."""
    own = [_host_of(url)] if url else []
    app.add_middleware(SignedInOnly)
    app.add_middleware(SameOriginOnly, public=url)  # compares with the host's name, which is checked first
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*_LOOPBACK_HOSTS, *own], www_redirect=False)
    app.add_middleware(SecurityHeaders)


def _host_of(url: str) -> str:
    host = urlsplit(url.lower()).hostname or ""
    return f"[{host}]" if ":" in host else host


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
        SettingsError: The address is not on loopback, and nothing says who may sign in from elsewhere.
    """
    _check_address(settings)
    uvicorn.run(
        create_app(settings, library=library),
        host=settings.gateway.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=5,
        ws="none",
        server_header=False,
        # Only a public address says that something stands before us whose headers tell who asks.
        proxy_headers=settings.gateway.url is not None,
    )


def _check_address(settings: Settings) -> None:
    """Refuse to let in people whom nothing names: without a people file everybody is an approver."""
    if settings.people is not None and settings.gateway.url is not None:
        return
    if settings.people is None and settings.oidc.issuer is not None:
        raise SettingsError(
            "PENSTOCK_OIDC__ISSUER: without PENSTOCK_PEOPLE whoever the identity provider lets in could"
            " approve; name a people file with the groups that may"
        )
    if not is_loopback(settings.gateway.host):
        raise SettingsError(
            f"PENSTOCK_GATEWAY__HOST={settings.gateway.host}: the gateway listens on loopback only, unless"
            " PENSTOCK_GATEWAY__URL and PENSTOCK_PEOPLE are set"
        )
