"""Who has signed in: found by the cookie of a browser or the token of a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import Response

from penstock.approvals.people import Person
from penstock.engine.services import Services
from penstock.errors import NotSignedIn
from penstock.gateway.addresses import is_secure
from penstock.store.sessions import Session, find_session
from penstock.store.tokens import token_hash

__all__ = [
    "Signed",
    "SignedIn",
    "cookie_name",
    "drop_cookie",
    "request_token",
    "set_cookie",
    "signed_in",
]

_COOKIE = "penstock_session"
_CHALLENGE = "sign in first: open /login, or send a token of `penstock login --print-token`"


@dataclass(frozen=True)
class SignedIn:
    """Somebody who has signed in, as known at this request."""

    person: Person
    session: Session
    by_cookie: bool
    """Whether a browser asks; otherwise a program does."""

    @property
    def name(self) -> str:
        """Name of the person, as it stands in records."""
        return self.person.name

    @property
    def via(self) -> str:
        """Where a decision of this request comes from: `web` or `api`."""
        return "web" if self.by_cookie else "api"


async def signed_in(request: Request) -> SignedIn:
    """Find who asks.

    Raises:
        NotSignedIn: There is no session, it has ended, or its person is not known any more.
    """
    services: Services = request.app.state.services
    token, by_cookie = request_token(request)
    session = await find_session(services.database, token_hash(token)) if token else None
    if session is None:
        raise NotSignedIn(_CHALLENGE)
    person = services.rules.current().people.find(session.person, claims=session.groups)
    if person is None:
        raise NotSignedIn(f"{session.person} is not among the people of this Penstock any more")
    return SignedIn(person, session, by_cookie)


def _of_request(request: Request) -> SignedIn:
    return request.state.signed


Signed = Annotated[SignedIn, Depends(_of_request)]
"""Who has signed in; nobody else gets as far as a route that is not open to all."""


def set_cookie(request: Request, answer: Response, token: str, *, lifetime_s: float) -> None:
    """Give a session's token to a browser."""
    secure = is_secure(request)
    answer.set_cookie(
        cookie_name(_COOKIE, secure=secure),
        token,
        max_age=int(lifetime_s),
        httponly=True,
        samesite="lax",
        secure=secure,
    )


def drop_cookie(request: Request, answer: Response) -> None:
    """Take a session's token back from a browser."""
    secure = is_secure(request)
    name = cookie_name(_COOKIE, secure=secure)
    answer.delete_cookie(name, httponly=True, samesite="lax", secure=secure)


def cookie_name(name: str, *, secure: bool) -> str:
    """Give the name of a cookie: other hosts of the domain cannot set one with the prefix."""
    return f"__Host-{name}" if secure else name


def request_token(request: Request) -> tuple[str, bool]:
    """Give the token that a request carries, or `""`, and whether it is in a cookie."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip(), False
    return request.cookies.get(cookie_name(_COOKIE, secure=is_secure(request)), ""), True
