"""The link of a notification: it leads whoever has signed in to a request, once."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import RedirectResponse

from penstock.errors import LinkUsed
from penstock.gateway.opened import Opened
from penstock.gateway.signed import Signed
from penstock.store.passes import take_link
from penstock.store.tokens import token_hash

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/a/{token}")
async def arrive(services: Opened, signed: Signed, token: str) -> RedirectResponse:
    """Go to the request that the link was made for."""
    request_id = await take_link(services.database, token_hash(token), person=signed.name)
    if request_id is None:
        raise LinkUsed("this link was used before, or is none of ours; open the inbox")
    return RedirectResponse(f"/approvals/{request_id}", status_code=303)
