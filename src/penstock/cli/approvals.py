"""`penstock approvals`: see what waits for people, and decide."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from penstock.cli.cards import card_lines, missing
from penstock.cli.exits import print_json, reported
from penstock.cli.ids import find_approval
from penstock.cli.inputs import parse_inputs
from penstock.cli.session import known_person, person, services
from penstock.cli.tables import print_table
from penstock.cli.text import local_time
from penstock.errors import InputInvalid

if TYPE_CHECKING:
    from penstock.engine.services import Services

__all__ = ["app"]

app = typer.Typer(help="See what waits for approval, and decide.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the request, or at least its first 6 digits.")]
Alike = Annotated[bool, typer.Option("--alike", help="Decide all open requests for exactly the same.")]
Digest = Annotated[
    str | None,
    typer.Option(help="Digest of what you have seen; refused when it is another one now."),
]
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
            found = await find_approval(opened.database, request_id)
            return await opened.approvals.show(found, person=opened.rules.current().people.find(person()))

    with reported(as_json=as_json):
        request = asyncio.run(work())
    if as_json:
        print_json(request)
        return
    for line in card_lines(request):
        typer.echo(line)


@app.command("approve")
def approve(
    request_id: Id,
    *,
    comment: Comment = "",
    edit: Annotated[
        list[str] | None,
        typer.Option(help="Change an input that may be changed, as name=value; may be given again."),
    ] = None,
    break_glass: Annotated[
        bool,
        typer.Option("--break-glass", help="Approve although a freeze is on; needs a comment."),
    ] = False,
    alike: Alike = False,
    digest: Digest = None,
    as_json: AsJson = False,
) -> None:
    """Approve: the node runs once enough people have approved it."""
    edits = tuple(edit or ())
    saying = _Saying("approve", comment, edits, break_glass=break_glass, alike=alike, digest=digest)
    _decide(request_id, saying, as_json=as_json)


@app.command("reject")
def reject(
    request_id: Id,
    comment: Comment = "",
    alike: Alike = False,
    digest: Digest = None,
    as_json: AsJson = False,
) -> None:
    """Reject: the node does not run, whatever others say."""
    _decide(request_id, _Saying("reject", comment, alike=alike, digest=digest), as_json=as_json)


@app.command("send-back")
def send_back(
    request_id: Id,
    comment: Annotated[str, typer.Option(help="What should be different; the workflow gets it as a note.")],
    alike: Alike = False,
    digest: Digest = None,
    as_json: AsJson = False,
) -> None:
    """Send back: the node is planned again, with your note, and asked for anew."""
    _decide(request_id, _Saying("send_back", comment, alike=alike, digest=digest), as_json=as_json)


@app.command("code")
def code(request_id: Id) -> None:
    """Print a one-time code with which you decide in the Prefect UI; an earlier code is void."""

    async def work() -> str:
        async with services(_quiet, start=False) as opened:
            found = await find_approval(opened.database, request_id)
            return await opened.approvals.code(found, person=known_person(opened))

    with reported():
        typer.echo(asyncio.run(work()))
    typer.echo("put it into the form that Prefect shows when you resume the run", err=True)


@dataclass(frozen=True)
class _Saying:
    """A decision as it was typed."""

    decision: str
    comment: str
    edit: tuple[str, ...] = ()
    break_glass: bool = False
    alike: bool = False
    digest: str | None = None


def _decide(request_id: str, saying: _Saying, *, as_json: bool) -> None:
    async def work() -> dict[str, Any]:
        async with services(_quiet, start=False) as opened:
            found = await find_approval(opened.database, request_id)
            person = known_person(opened)
            edits = await _edits(opened, found, saying.edit) if saying.edit else None
            return await opened.approvals.decide(
                found,
                saying.decision,
                person=person,
                comment=saying.comment,
                via="cli",
                digest=saying.digest,
                edits=edits,
                break_glass=saying.break_glass,
                alike=saying.alike,
            )

    with reported(as_json=as_json):
        request = asyncio.run(work())
    if as_json:
        print_json(request)
    else:
        typer.echo(_what_next(request))


async def _edits(opened: Services, request_id: UUID, pairs: Sequence[str]) -> dict[str, Any]:
    """Read `name=value` pairs by the schemas of the inputs that may be changed."""
    editable = (await opened.approvals.show(request_id))["editable"]
    types = {name: str(schema.get("type", "")) for name, schema in editable.items()}
    unknown = [name for name in (pair.partition("=")[0] for pair in pairs) if name not in types]
    if unknown:
        known = ", ".join(sorted(types)) or "none"
        raise InputInvalid(f"--edit {unknown[0]}: may not be changed (what may be: {known})")
    return parse_inputs(pairs, types, option="--edit")


def _what_next(request: Mapping[str, Any]) -> str:
    node, run_id, state = request["node"], request["run_id"], request["state"]
    if state == "open":
        return f"counted: {node} still needs {request['needs']}"
    others = f", and {request['decided'] - 1} alike" if request.get("decided", 1) > 1 else ""
    said = {
        "rejected": f"{node} will not run; run {run_id} goes on without it",
        "sent_back": f"{node} of run {run_id} is planned again with your note",
        "edited": f"{node} of run {run_id} is planned again with the changed inputs",
    }
    return f"{state.replace('_', ' ')}{others}: {said.get(state, f'run {run_id} goes on with {node}')}"


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
