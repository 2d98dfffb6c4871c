"""The HTTP gateway.

Without keys there is no way to tell who calls, so it listens on loopback only, answers only
to loopback names (a web page that rebinds its name to 127.0.0.1 is refused), and takes JSON
only (a form that another site posts is refused).
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

import uvicorn
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from penstock import __version__
from penstock.engine.services import Services, open_services
from penstock.errors import SettingsError
from penstock.gateway.problems import install_problem_handlers
from penstock.lifeline import report_ready
from penstock.settings import Settings
from penstock.store.workflows import list_workflows

__all__ = ["create_app", "serve"]

_PATIENCE_S = 120.0
_LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]


class TriggerRequest(BaseModel):
    """What to start a workflow with."""

    inputs: Mapping[str, Any] = Field(default_factory=dict, description="Value of each input by name.")


class TriggerAnswer(BaseModel):
    """A run that was accepted."""

    run_id: UUID = Field(description="Id of the run; also its id in Prefect.")
    name: str = Field(description="Name of the run.")
    url: str = Field(description="Address of the run in the Prefect UI.")


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
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK_HOSTS)
    install_problem_handlers(app)
    _add_health(app)
    _add_api(app)
    return app


def _services(request: Request) -> Services:
    return request.app.state.services


Opened = Annotated[Services, Depends(_services)]


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


def _add_api(app: FastAPI) -> None:
    @app.get("/api/agents", tags=["agents"])
    async def agents(services: Opened) -> list[dict[str, Any]]:
        """List the agents that may be used."""
        return [
            {
                "name": agent.name,
                "type": agent.type.value,
                "risk": agent.risk.value,
                "version": agent.version,
                "capabilities": list(agent.capabilities),
                "description": agent.description,
            }
            for agent in services.registry
        ]

    @app.get("/api/workflows", tags=["workflows"])
    async def workflows(services: Opened) -> list[dict[str, Any]]:
        """List the workflows that may be started."""
        found = await list_workflows(services.database)
        return [{"name": item.name, "revision": item.number} for item in found]

    @app.post("/api/workflows/{name}/trigger", status_code=202, tags=["workflows"])
    async def trigger(
        services: Opened,
        name: str,
        body: TriggerRequest,
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> TriggerAnswer:
        """Start a run of a workflow."""
        started = await services.start(name, body.inputs, key=idempotency_key)
        return TriggerAnswer(run_id=started.run_id, name=started.name, url=started.url)

    @app.get("/api/runs/{run_id}", tags=["runs"])
    async def show(services: Opened, run_id: UUID) -> dict[str, Any]:
        """Show a run with its nodes."""
        return await services.show(run_id)


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
