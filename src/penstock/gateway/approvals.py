"""Routes: requests for approval listed, shown and decided."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from penstock.gateway.opened import BY, Cursor, Limit, Opened

__all__ = ["router"]

router = APIRouter(prefix="/api/approvals", tags=["approvals"])


class Response(BaseModel):
    """What somebody says to a request for approval."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["approve", "reject"] = Field(description="Whether the node may run.")
    comment: str = Field(default="", max_length=4000, description="Why; kept with the decision.")


@router.get("")
async def approvals(
    services: Opened,
    state: Annotated[
        list[str] | None, Query(description="Only requests in this state; may repeat. Unset means open.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """List requests for approval, newest first; pass `cursor` on for the next page."""
    return await services.approvals.list(states=tuple(state or ["open"]), limit=limit, cursor=cursor)


@router.get("/{request_id}")
async def show(services: Opened, request_id: UUID) -> dict[str, Any]:
    """Show a request with its card and its decisions."""
    return await services.approvals.show(request_id)


@router.post("/{request_id}/respond")
async def respond(services: Opened, request_id: UUID, body: Response) -> dict[str, Any]:
    """Approve or reject. 409 when the request is not open any more.

    The gateway has no login yet: it listens on loopback only, and whoever reaches it from this
    machine counts as one and the same person, `gateway`. Where several people must approve, the
    others use the command line.
    """
    return await services.approvals.decide(
        request_id, body.decision, person=BY, comment=body.comment, via="api"
    )
