"""Routes: requests for approval listed, shown and decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from penstock.gateway.opened import Cursor, Limit, Opened
from penstock.gateway.signed import Signed

__all__ = ["router"]

router = APIRouter(prefix="/api/approvals", tags=["approvals"])


class Response(BaseModel):
    """What somebody says to a request for approval."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["approve", "reject", "send_back"] = Field(
        description="Whether the node may run; `send_back` asks for something else, with the comment as note."
    )
    comment: str = Field(default="", max_length=4000, description="Why; kept with the decision.")
    digest: str | None = Field(
        default=None, description="`digest` of the request as it was seen; another one is refused with 409."
    )
    edits: Mapping[str, Any] | None = Field(
        default=None, description="Other values for inputs that are `editable`, by name."
    )
    break_glass: bool = Field(
        default=False, description="Approve although a freeze is on; needs a comment that says why."
    )
    alike: bool = Field(default=False, description="Decide every open request with the same digest as well.")


class Code(BaseModel):
    """A one-time code for the form in the Prefect UI."""

    code: str = Field(description="The code; it is good for one decision of whoever asked for it.")


@router.get("")
async def approvals(
    services: Opened,
    signed: Signed,
    state: Annotated[
        list[str] | None, Query(description="Only requests in this state; may repeat. Unset means open.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """List requests for approval, newest first; pass `cursor` on for the next page."""
    return await services.approvals.list(
        states=tuple(state or ["open"]), limit=limit, cursor=cursor, person=signed.person
    )


@router.get("/{request_id}")
async def show(services: Opened, signed: Signed, request_id: UUID) -> dict[str, Any]:
    """Show a request with its card and its decisions, and whether you may decide it."""
    return await services.approvals.show(request_id, person=signed.person)


@router.post("/{request_id}/respond")
async def respond(services: Opened, signed: Signed, request_id: UUID, body: Response) -> dict[str, Any]:
    """Approve, reject or send back.

    403 when you may not, 409 when the request is not open any more or asks for something else by now.
    """
    return await services.approvals.decide(
        request_id,
        body.decision,
        person=signed.person,
        comment=body.comment,
        via=signed.via,
        digest=body.digest,
        edits=body.edits,
        break_glass=body.break_glass,
        alike=body.alike,
    )


@router.post("/{request_id}/code")
async def code(services: Opened, signed: Signed, request_id: UUID) -> Code:
    """Make a one-time code with which you decide in the Prefect UI; an earlier code of yours is void."""
    return Code(code=await services.approvals.code(request_id, person=signed.person))
