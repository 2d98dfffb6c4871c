"""Routes: agents and workflows, and starting a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header
from pydantic import BaseModel, Field

from penstock.gateway.opened import Opened
from penstock.gateway.signed import Signed
from penstock.store.workflows import list_workflows

__all__ = ["router"]

router = APIRouter(prefix="/api")


class TriggerRequest(BaseModel):
    """What to start a workflow with."""

    inputs: Mapping[str, Any] = Field(default_factory=dict, description="Value of each input by name.")
    queue: str | None = Field(
        default=None, description="`P0` (most urgent) to `P3`; null means the workflow's own."
    )


class TriggerAnswer(BaseModel):
    """A run that was accepted."""

    run_id: UUID = Field(description="Id of the run; also its id in Prefect.")
    name: str = Field(description="Name of the run.")
    url: str = Field(description="Address of the run in the Prefect UI.")
    new: bool = Field(
        description="False when an earlier run stands for it: the same key, or the workflow's limit."
    )


@router.get("/agents", tags=["agents"])
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


@router.get("/workflows", tags=["workflows"])
async def workflows(services: Opened) -> list[dict[str, Any]]:
    """List the workflows that may be started."""
    found = await list_workflows(services.database)
    return [{"name": item.name, "revision": item.number} for item in found]


@router.post("/workflows/{name}/trigger", status_code=202, tags=["workflows"])
async def trigger(
    services: Opened,
    signed: Signed,
    name: str,
    body: TriggerRequest,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> TriggerAnswer:
    """Start a run of a workflow; with a key that came before, give the run of that time."""
    started = await services.start(
        name, body.inputs, key=idempotency_key, queue=body.queue, requester=signed.name
    )
    return TriggerAnswer(run_id=started.run_id, name=started.name, url=started.url, new=started.new)
