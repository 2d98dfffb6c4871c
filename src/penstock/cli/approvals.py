"""`penstock approvals`: see what waits for people, and decide."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from penstock.cli.cards import card_lines, given, missing
from penstock.cli.exits import print_json, reported
from penstock.cli.ids import find_approval
from penstock.cli.session import person, services
from penstock.cli.tables import print_table
from penstock.cli.text import local_time

__all__ = ["app"]

app = typer.Typer(help="See what waits for approval, and decide.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the request, or at least its first 6 digits.")]
Comment = Annotated[str, typer.Option(help="Why; kept with the decision.")]


@app.command("list")
def list_approvals(
    state: Annotated[
        list[str] | None, typer.Option(help="Requests in this state; may be given again. Unset means open.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Requests at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List requests for approval, newest first."""

    async def work() -> dict[str, Any]:
        async with services(_quiet, start=False) as opened:
            return await opened.approvals.list(states=tuple(state or ["open"]), limit=limit)

    with reported(as_json=as_json):
        found = asyncio.run(work())["approvals"]
    if as_json:
        print_json(found)
    elif found:
        head = ("ID", "WORKFLOW", "NODE", "TITLE", "ASKED BY", "SINCE", "NEEDS")
        print_table(head, [_row(request) for request in found])
    else:
        typer.echo("nothing waits for approval" if not state else "there is none")


@app.command("show")
def show_approval(request_id: Id, as_json: AsJson = False) -> None:
    """Show a request: what would be done, where, who asks, why, and how it can be undone."""

    async def work() -> dict[str, Any]:
        async with services(_quiet, start=False) as opened:
            return await opened.approvals.show(await find_approval(opened.database, request_id))

    with reported(as_json=as_json):
        request = asyncio.run(work())
    if as_json:
        print_json(request)
        return
    for line in card_lines(request):
        typer.echo(line)


@app.command("approve")
def approve(request_id: Id, comment: Comment = "") -> None:
    """Approve: the node runs once enough people have approved it."""
    _decide(request_id, "approve", comment)


@app.command("reject")
def reject(request_id: Id, comment: Comment = "") -> None:
    """Reject: the node does not run, whatever others say."""
    _decide(request_id, "reject", comment)


@app.command("code")
def code(request_id: Id) -> None:
    """Print a one-time code with which you decide in the Prefect UI; an earlier code is void."""

    async def work() -> str:
        async with services(_quiet, start=False) as opened:
            found = await find_approval(opened.database, request_id)
            return await opened.approvals.code(found, person=person())

    with reported():
        typer.echo(asyncio.run(work()))
    typer.echo("put it into the form that Prefect shows when you resume the run", err=True)


def _decide(request_id: str, decision: str, comment: str) -> None:
    async def work() -> dict[str, Any]:
        async with services(_quiet, start=False) as opened:
            found = await find_approval(opened.database, request_id)
            return await opened.approvals.decide(found, decision, person=person(), comment=comment, via="cli")

    with reported():
        request = asyncio.run(work())
    typer.echo(_what_next(request))


def _what_next(request: Mapping[str, Any]) -> str:
    node, run_id = request["node"], request["run_id"]
    if request["state"] == "open":
        return f"counted: {given(request)} of {request['required']}; {node} still needs {missing(request)}"
    if request["state"] == "rejected":
        return f"rejected: {node} will not run; run {run_id} goes on without it"
    return f"{request['state']}: run {run_id} goes on with {node}"


def _row(request: Mapping[str, Any]) -> tuple[object, ...]:
    card: Mapping[str, Any] = request["card"]
    since = local_time(request["opened_at"])
    return (
        request["id"],
        card.get("workflow"),
        request["node"],
        request["title"],
        card.get("requester"),
        since,
        missing(request),
    )


def _quiet(_: str) -> None:
    """Services that are up have nothing to tell."""
