"""Routes: the Prefect UI behind our login, where pressing Resume is a decision with a name.

Reading passes for everybody who has signed in, changing for people who may act. What people put into
Prefect's forms and the secrets of its blocks pass for nobody.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from penstock.engine.environment import UI_BASE, ui_url
from penstock.errors import ApprovalDenied, InputInvalid, NotFound
from penstock.gateway.opened import Opened
from penstock.gateway.prefect_form import Outcome, decide_run, json_of, mapping_of, read_answer, without_code
from penstock.gateway.prefect_rules import Access, access_of, is_plain
from penstock.gateway.prefect_upstream import Upstream, open_upstream, read_body
from penstock.gateway.signed import Signed, SignedIn
from penstock.store.approvals import requests_of_run

__all__ = ["router"]

_LARGEST = 1024 * 1024
"""Bytes of a request that is read here before it goes on, or does not."""
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "manifest-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Nothing of other hosts; the library that draws the graph of a run builds code, the editors build styles."""

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def _closing(app: FastAPI) -> AsyncGenerator[None]:
    yield
    if (upstream := _opened(app)) is not None:
        await upstream.client.aclose()


router = APIRouter(prefix=UI_BASE, include_in_schema=False, lifespan=_closing)


def _opened(app: FastAPI) -> Upstream | None:
    return getattr(app.state, "prefect", None)


async def _upstream(request: Request, services: Opened) -> Upstream:
    """Give the Prefect server that the gateway stands before.

    Raises:
        NotFound: There is none, or a WebSocket is wanted.
    """
    if services.settings.prefect.api_url is not None:
        raise NotFound(
            "this gateway has no Prefect UI: PENSTOCK_PREFECT__API_URL names a server of its own;"
            f" open {ui_url(services.settings)}"
        )
    if "upgrade" in request.headers:
        raise NotFound("there are no WebSockets here")
    upstream = _opened(request.app)
    if upstream is None:
        upstream = request.app.state.prefect = open_upstream(services.settings)
    return upstream


Prefect = Annotated[Upstream, Depends(_upstream)]


@router.get("")
async def start() -> RedirectResponse:
    """Lead to the first page."""
    return RedirectResponse(f"{UI_BASE}/", 307)


@router.get("/ui-settings")
async def ui_settings(upstream: Prefect) -> JSONResponse:
    """Tell the UI's scripts to ask the gateway, and that there is nothing to log in to."""
    settings = mapping_of(json_of((await upstream.get(f"{UI_BASE}/ui-settings")).text))
    return JSONResponse({**settings, "api_url": f"{UI_BASE}/api", "auth": None})


@router.api_route("/api/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def api(request: Request, services: Opened, signed: Signed, upstream: Prefect, path: str) -> Response:
    """Read, change or decide."""
    _check_path(path)
    match access_of(request.method, path):
        case Access.CLOSED:
            raise ApprovalDenied("what people put into forms is shown to nobody")
        case Access.RESUME:
            return await _resume(request, services, signed, upstream, path)
        case Access.FORM:
            return await _form(upstream, path)
        case Access.BLOCKS:
            return await upstream.pass_on(request, f"/api/{path}", body=await _no_secrets(request))
        case Access.CHANGE:
            _check_may_act(request, signed)
        case Access.READ:
            pass
    return await upstream.pass_on(request, f"/api/{path}")


@router.api_route("/{path:path}", methods=["GET", "HEAD"])
async def page(request: Request, upstream: Prefect, path: str) -> Response:
    """Give the UI's pages and what they load."""
    _check_path(path)
    answer = await upstream.pass_on(request, f"{UI_BASE}/{path}")
    answer.headers["Content-Security-Policy"] = _POLICY
    answer.headers["Cache-Control"] = "no-cache"
    return answer


def _check_path(path: str) -> None:
    if not is_plain(path):
        raise NotFound("there is no such page")


def _check_may_act(request: Request, signed: SignedIn) -> None:
    """Refuse people who may only look, and take down what the others do.

    Raises:
        ApprovalDenied: The person's role does not let him act.
    """
    if not signed.person.approver:
        raise ApprovalDenied(f"{signed.name} may look at Prefect and not change anything there")
    _log.info("a change in Prefect", person=signed.name, method=request.method, path=request.url.path)


async def _resume(
    request: Request, services: Opened, signed: SignedIn, upstream: Upstream, path: str
) -> Response:
    """Take a person's decision; a run that asks for none is resumed by Prefect."""
    run_id = _run_id(path)
    body = await read_body(request, largest=_LARGEST)
    requests = await requests_of_run(services.database, run_id)
    if not requests:
        _check_may_act(request, signed)
        return await upstream.pass_on(request, f"/api/{path}", body=body)
    try:
        answer = read_answer(body)
    except InputInvalid as error:
        outcome = Outcome(accepted=False, reason=error.message)
    else:
        outcome = await decide_run(services, requests, answer, person=signed.person)
    run = await upstream.get(f"/api/flow_runs/{run_id}")
    state = run.json()["state"] if run.is_success else None
    return JSONResponse(outcome.result(state), 201 if outcome.accepted else 200)


def _run_id(path: str) -> UUID:
    try:
        return UUID(path.split("/")[1])
    except ValueError:
        raise NotFound("there is no such run") from None


async def _form(upstream: Upstream, path: str) -> Response:
    """Give what a form asks for, without the code that tells Prefect who answers."""
    found = await upstream.get(f"/api/{path}")
    text = without_code(path, found.text) if found.is_success else found.text
    kind = found.headers.get("content-type", "text/plain")
    return PlainTextResponse(text, found.status_code, media_type=kind)


async def _no_secrets(request: Request) -> bytes:
    """Give the body of a search for blocks without the wish for their secrets."""
    wanted = mapping_of(json_of(await read_body(request, largest=_LARGEST)))
    return json.dumps({**wanted, "include_secrets": False}).encode()
