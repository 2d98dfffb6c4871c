"""Routes: signing in by a link, a password or an identity provider, and signing out."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from penstock.approvals.passwords import check_password
from penstock.engine.links import Links
from penstock.engine.services import Services
from penstock.errors import NotFound, NotSignedIn, PenstockError
from penstock.gateway.addresses import is_secure, own_path
from penstock.gateway.attempts import Attempts, network_of
from penstock.gateway.forms import read_form
from penstock.gateway.oidc import LOGIN_S, Provider
from penstock.gateway.opened import Opened
from penstock.gateway.pages import page
from penstock.gateway.signed import Signed, cookie_name, drop_cookie, request_token, set_cookie
from penstock.settings import Settings
from penstock.store.sessions import (
    close_session,
    link_person,
    open_session,
    open_session_by_link,
    refuse_session,
)
from penstock.store.tokens import token_hash

__all__ = ["Entrance", "entrance_of", "router"]

router = APIRouter()
_log = structlog.get_logger(__name__)

_TRIES_OF_PERSON = 10
_TRIES_FROM_NETWORK = 30
_HASHES_AT_ONCE = 2
"""Passwords that are checked at once: each takes 32 MiB."""
_FLOW_COOKIE = "penstock_login"
_USED_UP = "this link was used or has expired; penstock login makes another one"

Next = Annotated[str, Query(alias="next", description="Path of this site to go on with.")]


@dataclass(frozen=True)
class Entrance:
    """What the login keeps in memory."""

    provider: Provider | None = None
    attempts: Attempts = field(default_factory=Attempts)
    hashing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_HASHES_AT_ONCE))


def entrance_of(settings: Settings) -> Entrance:
    """Make what the login needs.

    Raises:
        SettingsError: The identity provider's address cannot be trusted.
    """
    if settings.oidc.issuer is None:
        return Entrance()
    return Entrance(Provider(settings.oidc, f"{Links(settings).gateway}/login/oidc/callback"))


@router.get("/login", include_in_schema=False)
async def show(request: Request, next_: Next = "/") -> Response:
    """Show the ways to sign in."""
    return _page(request, own_path(next_))


@router.post("/login", include_in_schema=False)
async def by_password(request: Request, services: Opened) -> Response:
    """Sign in with a name and a password."""
    form = await read_form(request)
    name, wanted = form.get("name", "").strip()[:200], own_path(form.get("next", "/"))
    if refused := _too_many(request, wanted, person=name):
        return refused
    people = services.rules.current().people
    fits = await _fits(request, form.get("password", ""), people.password_of(name))
    known = people.closed and people.find(name) is not None
    if not (fits and known):
        await _refuse(request, services, name if known else None, via="password")
        return _page(
            request, wanted, error="This name and password do not go together.", status=401, name=name
        )
    _entrance(request).attempts.forget(_person_key(name))
    return await _enter(request, services, wanted, person=name, via="password")


@router.get("/login/link", include_in_schema=False)
async def show_link(request: Request, services: Opened, token: str = "", next_: Next = "/") -> Response:
    """Show whom a link signs in; it is used up by the button, for programs look at links as well."""
    person = await link_person(services.database, token_hash(token))
    if person is None:
        return _page(request, own_path(next_), error=_USED_UP, status=401)
    return _page(request, own_path(next_), link={"person": person, "token": token})


@router.post("/login/link", include_in_schema=False)
async def by_link(request: Request, services: Opened) -> Response:
    """Sign in with a link."""
    form = await read_form(request)
    wanted, link = own_path(form.get("next", "/")), token_hash(form.get("token", ""))
    if refused := _too_many(request, wanted):
        return refused
    person = await link_person(services.database, link)
    if person is None or services.rules.current().people.find(person) is None:
        await _refuse(request, services, person, via="link")
        error = _USED_UP if person is None else f"{person} is not among the people of this Penstock"
        return _page(request, wanted, error=error, status=401)
    token = secrets.token_urlsafe(32)
    session = await open_session_by_link(
        services.database, link, token_hash(token), lifetime_s=_lifetime_s(services)
    )
    if session is None:  # somebody was faster
        return _page(request, wanted, error=_USED_UP, status=401)
    return _entered(request, services, wanted, token)


@router.get("/login/oidc", include_in_schema=False)
async def to_provider(request: Request, next_: Next = "/") -> Response:
    """Send a browser to the identity provider."""
    try:
        begun = await _provider(request).begin(own_path(next_))
    except PenstockError as error:
        return _page(request, own_path(next_), error=error.message, status=error.http_status)
    answer = RedirectResponse(begun.address, 303)
    _set_flow(request, answer, begun.cookie, max_age=LOGIN_S)
    return answer


@router.get("/login/oidc/callback", include_in_schema=False)
async def by_provider(request: Request, services: Opened) -> Response:
    """Sign in with what the identity provider says."""
    provider = _provider(request)
    cookie = request.cookies.get(cookie_name(_FLOW_COOKIE, secure=is_secure(request)))
    if cookie is None:  # any page can have a browser come here: this counts as no try
        return _page(request, "/", error="No login was begun in this browser, or too long ago.", status=401)
    if refused := _too_many(request, "/"):
        return refused
    try:
        claimed = await provider.finish(cookie, request.query_params)
        if services.rules.current().people.find(claimed.name, claims=claimed.groups) is None:
            raise NotSignedIn(f"{claimed.name} is not among the people of this Penstock")
    except PenstockError as error:
        await _refuse(request, services, None, via="oidc", why=error.message)
        answer = _page(request, "/", error=error.message, status=error.http_status)
    else:
        answer = await _enter(
            request, services, own_path(claimed.next), person=claimed.name, groups=claimed.groups, via="oidc"
        )
    _set_flow(request, answer, "", max_age=0)
    return answer


@router.post("/logout", include_in_schema=False)
async def sign_out(request: Request, services: Opened) -> Response:
    """End the session."""
    if token := request_token(request)[0]:
        await close_session(services.database, token_hash(token))
    answer = RedirectResponse("/login", 303)
    drop_cookie(request, answer)
    return answer


@router.get("/api/me", tags=["login"])
async def me(signed: Signed) -> dict[str, Any]:
    """Say who has signed in."""
    person = signed.person
    return {
        "person": person.name,
        "full_name": person.full_name,
        "groups": sorted(person.groups),
        "approver": person.approver,
        "via": signed.session.via,
        "expires_at": signed.session.expires_at.isoformat(),
    }


async def _enter(
    request: Request, services: Services, wanted: str, *, person: str, via: str, groups: Sequence[str] = ()
) -> Response:
    token = secrets.token_urlsafe(32)
    await open_session(
        services.database,
        token_hash(token),
        person=person,
        groups=groups,
        via=via,
        lifetime_s=_lifetime_s(services),
    )
    return _entered(request, services, wanted, token)


def _entered(request: Request, services: Services, wanted: str, token: str) -> Response:
    _entrance(request).attempts.give_back(_network_key(request))
    answer = RedirectResponse(wanted, 303)
    set_cookie(request, answer, token, lifetime_s=_lifetime_s(services))
    return answer


async def _fits(request: Request, password: str, stored: str) -> bool:
    async with _entrance(request).hashing:
        try:
            return await asyncio.to_thread(check_password, password, stored)
        except ValueError as error:
            _log.error("a password's hash in the people file is of no use", reason=str(error))
            return False


async def _refuse(
    request: Request, services: Services, person: str | None, *, via: str, why: str | None = None
) -> None:
    facts = {"via": via, "from": _network(request), **({} if why is None else {"why": why})}
    await refuse_session(services.database, person, facts)


def _too_many(request: Request, wanted: str, *, person: str | None = None) -> Response | None:
    """Count a try; give the answer that refuses it when there were too many."""
    limits = {_network_key(request): _TRIES_FROM_NETWORK}
    if person is not None:
        limits[_person_key(person)] = _TRIES_OF_PERSON
    wait = _entrance(request).attempts.take(limits)
    if wait == 0:
        return None
    minutes = math.ceil(wait / 60)
    error = f"Too many tries. Wait {minutes} min, or sign in with a link of penstock login."
    answer = _page(request, wanted, error=error, status=429, name=person or "")
    answer.headers["Retry-After"] = str(math.ceil(wait))
    return answer


def _page(
    request: Request,
    wanted: str,
    *,
    error: str = "",
    status: int = 200,
    name: str = "",
    link: dict[str, str] | None = None,
) -> Response:
    services: Services = request.app.state.services
    provider = _entrance(request).provider
    return page(
        request,
        "login.html",
        status=status,
        error=error,
        name=name,
        link=link,
        next=wanted,
        provider=provider.name if provider else "",
        passwords=services.rules.current().people.closed,
    )


def _set_flow(request: Request, answer: Response, value: str, *, max_age: int) -> None:
    secure = is_secure(request)
    answer.set_cookie(
        cookie_name(_FLOW_COOKIE, secure=secure),
        value,
        max_age=max_age,
        httponly=True,
        samesite="lax",
        secure=secure,
    )


def _entrance(request: Request) -> Entrance:
    return request.app.state.entrance


def _provider(request: Request) -> Provider:
    provider = _entrance(request).provider
    if provider is None:
        raise NotFound("there is no identity provider; PENSTOCK_OIDC__ISSUER names one")
    return provider


def _lifetime_s(services: Services) -> float:
    return services.settings.gateway.session_hours * 3600


def _network(request: Request) -> str:
    return network_of(request.client.host) if request.client else "unknown"


def _network_key(request: Request) -> str:
    return f"network {_network(request)}"


def _person_key(name: str) -> str:
    return f"person {name}"
