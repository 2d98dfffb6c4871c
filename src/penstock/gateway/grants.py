"""Routes: standing grants listed, made and revoked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from penstock.gateway.opened import Opened
from penstock.gateway.signed import Signed
from penstock.workflow.fields import Duration

__all__ = ["router"]

router = APIRouter(prefix="/api/grants", tags=["approvals"])


class GrantRequest(BaseModel):
    """An approval in advance."""

    model_config = ConfigDict(extra="forbid")

    agent: str = Field(max_length=100, description="Agent that may run.")
    targets: Sequence[str] = Field(
        min_length=1, max_length=100, description="What it may change, nothing else; `*` stands for anything."
    )
    good_for: Duration = Field(alias="for", description="How long, such as `8h` or `3d`; 90 days at most.")
    max_uses: int = Field(default=1, ge=1, le=1000, description="How many requests it approves.")
    workflow: str | None = Field(default=None, description="Only requests of this workflow; null means any.")
    comment: str = Field(default="", max_length=4000, description="Why; kept with the grant.")


@router.get("")
async def grants(
    services: Opened,
    every: Annotated[
        bool, Query(alias="all", description="Also those that cannot be used any more.")
    ] = False,
) -> dict[str, Any]:
    """List standing grants, newest first."""
    return {"grants": await services.standing.list(every=every)}


@router.post("", status_code=201)
async def grant(services: Opened, signed: Signed, body: GrantRequest) -> dict[str, Any]:
    """Approve in advance: it counts as your approval of each request that it fits.

    403 when you are no approver.
    """
    return await services.standing.grant(
        body.agent,
        body.targets,
        person=signed.person,
        seconds=body.good_for,
        max_uses=body.max_uses,
        workflow=body.workflow,
        comment=body.comment,
    )


@router.delete("/{grant_id}")
async def revoke(services: Opened, signed: Signed, grant_id: UUID) -> dict[str, Any]:
    """Take a standing grant back; what it has approved already goes on. 409 when it was revoked before."""
    return await services.standing.revoke(grant_id, person=signed.person)
