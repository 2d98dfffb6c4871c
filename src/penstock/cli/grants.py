"""`penstock grants`: approve in advance, for a while and a number of uses, and take it back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import typer

from penstock.cli.exits import print_json, reported
from penstock.cli.session import known_person, services
from penstock.cli.tables import print_table
from penstock.cli.text import local_time
from penstock.errors import InputInvalid

__all__ = ["app"]

app = typer.Typer(help="Approve in advance, and take it back.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_grants(
    every: Annotated[bool, typer.Option("--all", help="Also those that cannot be used any more.")] = False,
    as_json: AsJson = False,
) -> None:
    """List standing grants, newest first."""

    async def work() -> list[dict[str, Any]]:
        async with services(_quiet, start=False) as opened:
            return await opened.standing.list(every=every)

    with reported(as_json=as_json):
        found = asyncio.run(work())
    if as_json:
        print_json(found)
    elif found:
        head = ("ID", "AGENT", "TARGETS", "WORKFLOW", "BY", "USES", "UNTIL", "STATE")
        print_table(head, [_row(one) for one in found])
    else:
        typer.echo("there is none")


@app.command("create")
def create(
    agent: Annotated[str, typer.Option(help="Agent that may run.")],
    target: Annotated[
        list[str], typer.Option(help="What it may change; * stands for anything; may be given again.")
    ],
    good_for: Annotated[str, typer.Option("--for", help="How long, such as 8h or 3d; 90d at most.")],
    *,
    uses: Annotated[int, typer.Option(min=1, max=1000, help="How many requests it approves.")] = 1,
    workflow: Annotated[str | None, typer.Option(help="Only requests of this workflow.")] = None,
    comment: Annotated[str, typer.Option(help="Why; kept with the grant.")] = "",
    as_json: AsJson = False,
) -> None:
    """Approve in advance: counts as your approval of each request that it fits."""

    async def work() -> dict[str, Any]:
        seconds = _seconds(good_for)
        async with services(_quiet, start=False) as opened:
            return await opened.standing.grant(
                agent,
                target,
                person=known_person(opened),
                seconds=seconds,
                max_uses=uses,
                workflow=workflow,
                comment=comment,
            )

    with reported(as_json=as_json):
        made = asyncio.run(work())
    if as_json:
        print_json(made)
    else:
        typer.echo(f"granted {made['id']}: {made['max_uses']} uses until {local_time(made['expires_at'])}")
        typer.echo(f"take it back with: penstock grants revoke {made['id']}", err=True)


@app.command("revoke")
def revoke(
    grant_id: Annotated[UUID, typer.Argument(metavar="ID", help="Id of the grant.")], as_json: AsJson = False
) -> None:
    """Take a grant back; what it has approved already goes on."""

    async def work() -> dict[str, Any]:
        async with services(_quiet, start=False) as opened:
            return await opened.standing.revoke(grant_id, person=known_person(opened))

    with reported(as_json=as_json):
        revoked = asyncio.run(work())
    if as_json:
        print_json(revoked)
    else:
        typer.echo(f"revoked after {revoked['uses']} of {revoked['max_uses']} uses")


def _seconds(text: str) -> float:
    from pydantic_core import PydanticCustomError  # noqa: PLC0415  quick start

    from penstock.workflow.fields import parse_duration  # noqa: PLC0415  quick start

    try:
        return float(str(parse_duration(text)))
    except PydanticCustomError as error:
        raise InputInvalid(f"--for {text!r}: {error.message()}") from None


def _row(one: Mapping[str, Any]) -> tuple[object, ...]:
    state = "usable" if one["usable"] else f"revoked by {one['revoked_by']}" if one["revoked_by"] else "over"
    return (
        one["id"],
        one["agent"],
        " ".join(one["targets"]),
        one["workflow"] or "any",
        one["person"],
        f"{one['uses']} of {one['max_uses']}",
        local_time(one["expires_at"]),
        state,
    )


def _quiet(_: str) -> None:
    """Services that are up have nothing to tell."""
