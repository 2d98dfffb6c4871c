"""Commands that let people in: login, people password."""

from __future__ import annotations

import asyncio
import secrets
from datetime import datetime
from typing import Annotated
from urllib.parse import urlencode

import typer

from penstock.cli.exits import print_json, reported
from penstock.cli.session import person, store
from penstock.cli.text import local_time
from penstock.errors import NotSignedIn
from penstock.settings import Settings, load_settings
from penstock.store.tokens import token_hash

__all__ = ["people_app", "register"]

people_app = typer.Typer(help="People who may sign in.", no_args_is_help=True)

_LINK_S = 600.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(login)
    app.add_typer(people_app, name="people")


def login(
    open_: Annotated[bool, typer.Option("--open", help="Open the link in a browser as well.")] = False,
    print_token: Annotated[
        bool, typer.Option("--print-token", help="Print a token for programs instead of a link.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Sign in to the gateway as the user who runs this: prints a link, good once and for 10 minutes.

    Programs send a token as `Authorization: Bearer TOKEN`.
    """
    with reported(as_json=as_json):
        settings = load_settings()
        name = _known(settings, person())
        token = secrets.token_urlsafe(32)
        until = asyncio.run(_session(settings, name, token) if print_token else _link(name, token))
    secret = token if print_token else _address(settings, token)
    if as_json:
        kind = "token" if print_token else "url"
        print_json({"person": name, kind: secret, "expires_at": until.isoformat()})
    else:
        typer.echo(secret)
        what = "for Authorization: Bearer" if print_token else "good once"
        typer.echo(f"signs in {name}; {what}, until {local_time(until)}", err=True)
    if open_ and not print_token:
        typer.launch(secret)


@people_app.command("password")
def password() -> None:
    """Read a password twice and print its hash, for `password:` in the people file."""
    from penstock.approvals.passwords import SHORTEST, hash_password  # noqa: PLC0415  quick start

    given: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    if len(given) < SHORTEST:
        raise typer.BadParameter(f"a password has at least {SHORTEST} characters")
    typer.echo(hash_password(given))


def _known(settings: Settings, name: str) -> str:
    """Give the name back when it is somebody's who may sign in.

    Raises:
        NotSignedIn: There is a people file, and it does not name this user.
        SpecError: The people file is wrong.
    """
    from penstock.approvals.rules import read_rules  # noqa: PLC0415  quick start

    if read_rules(settings.people, None).people.find(name) is None:
        raise NotSignedIn(f"{name} is not among the people in {settings.people}; add the user there")
    return name


async def _link(name: str, token: str) -> datetime:
    from penstock.store.sessions import make_link  # noqa: PLC0415  quick start

    async with store() as database:
        return await make_link(database, token_hash(token), person=name, lifetime_s=_LINK_S)


async def _session(settings: Settings, name: str, token: str) -> datetime:
    from penstock.store.sessions import open_session  # noqa: PLC0415  quick start

    lifetime_s = settings.gateway.session_hours * 3600
    async with store() as database:
        session = await open_session(
            database, token_hash(token), person=name, via="link", lifetime_s=lifetime_s
        )
    return session.expires_at


def _address(settings: Settings, token: str) -> str:
    from penstock.engine.links import Links  # noqa: PLC0415  quick start

    return f"{Links(settings).gateway}/login/link?{urlencode({'token': token})}"
