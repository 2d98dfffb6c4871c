"""`penstock run` and `penstock runs`: start, watch, list, show, cancel and retry runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import typer

from penstock.cli.exits import Exit, print_json, reported
from penstock.cli.following import Followed, follow, how_to_decide, last_event, waited_for
from penstock.cli.ids import find_run
from penstock.cli.inputs import parse_inputs
from penstock.cli.session import person, services, store
from penstock.cli.tables import print_table
from penstock.cli.text import local_time, plain
from penstock.cli.workflows import apply_file
from penstock.store.states import RunState

__all__ = ["app", "register"]

app = typer.Typer(help="List, show, cancel and retry runs.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Do not wait for people: end with 3 when they must decide.")
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run, or at least its first 6 digits.")]


def register(to: typer.Typer) -> None:
    """Add `penstock run`."""
    to.command()(run)


def run(
    workflow: Annotated[str, typer.Argument(help="A workflow file, or the name of an applied workflow.")],
    *,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", help="An input, as name=value; JSON values too.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: a second start with it follows the first run.")
    ] = None,
    queue: Annotated[
        Literal["P0", "P1", "P2", "P3"] | None, typer.Option(help="How urgent it is; P0 goes first.")
    ] = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Run a workflow and wait for its end; starts what is missing and ends it afterwards.

    Exit code: 0 succeeded, 1 failed or rejected, 2 bad usage or invalid file, 3 waits for approval
    (with --no-wait), 4 cancelled.
    """

    async def work(tell: Callable[[str], None]) -> Followed:
        async with services(tell, start=True) as opened:
            name = await _applied(opened, workflow)
            values = parse_inputs(inputs or [], await opened.input_types(name))
            started = await opened.start(name, values, key=key, queue=queue, requester=person())
            earlier = "" if started.new else "has been started before: "
            tell(f"{name}: {earlier}run {started.name} {started.url}")
            return await follow(opened, started.run_id, tell, wait=not no_wait)

    _follow_and_exit(work, as_json=as_json)


async def _applied(opened: Any, workflow: str) -> str:
    """Apply a workflow if it is a file, and give its name."""
    path = _file_of(workflow)
    return (await apply_file(opened, path)).name if path else workflow


def _follow_and_exit(work: Callable[[Callable[[str], None]], Awaitable[Followed]], *, as_json: bool) -> None:
    """Do what gives a run that was followed, print it and end with its exit code."""

    async def main() -> Followed:
        return await work(_say_nothing if as_json else _say)

    with reported(as_json=as_json):
        followed = asyncio.run(main())
    if as_json:
        print_json(followed.data)
    else:
        _print_result(followed.shown)
        _print_asks(followed.asks)
    raise typer.Exit(followed.exit)


def _file_of(workflow: str) -> Path | None:
    path = Path(workflow)
    return path if path.suffix in {".yaml", ".yml", ".json"} or path.exists() else None


def _print_result(shown: dict[str, Any]) -> None:
    typer.echo(plain(f"{shown['state']}: {shown['message'] or ''}"))
    outputs: dict[str, Any] = shown["outputs"] or {}
    for name, value in outputs.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        typer.echo(plain(f"  {name}: {text}"))


def _print_asks(asks: Sequence[dict[str, Any]]) -> None:
    for ask in asks:
        for line in how_to_decide(ask):
            typer.echo(line)


@app.command("list")
def list_runs(
    workflow: Annotated[str | None, typer.Option(help="Only runs of this workflow.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Runs at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from penstock.store.runs import list_runs as listed  # noqa: PLC0415  quick start

    async def work() -> Any:
        async with store() as database:
            return await listed(database, workflow=workflow, limit=limit)

    with reported(as_json=as_json):
        page = asyncio.run(work())
    if as_json:
        print_json([item.__dict__ for item in page.runs])
        return
    rows = [(r.id, r.workflow, r.state.value, local_time(r.created_at), r.message) for r in page.runs]
    print_table(("ID", "WORKFLOW", "STATE", "CREATED", "MESSAGE"), rows)


@app.command("show")
def show_run(run_id: RunId, as_json: AsJson = False) -> None:
    """Show a run with its nodes, and what it waits for."""

    async def work() -> Followed:
        async with services(_say_nothing, start=False) as opened:
            found = await find_run(opened.database, run_id)
            asks = [await opened.approvals.show(ask) for ask in await waited_for(opened.database, found)]
            return Followed(await opened.show(found), asks)

    with reported(as_json=as_json):
        followed = asyncio.run(work())
    if as_json:
        print_json(followed.data)
        return
    _print_result(followed.shown)
    _print_asks(followed.asks)
    rows = [(key, n["state"], n["attempts"], _why(n)) for key, n in followed.shown["nodes"].items()]
    print_table(("NODE", "STATE", "ATTEMPTS", "WHY"), rows)


@app.command("withdraw")
def withdraw_run(
    run_id: RunId,
    reason: Annotated[str, typer.Option(help="Why its answer is no longer wanted; approvers see it.")],
) -> None:
    """Withdraw what a run asks for: its gates stay shut, what always runs still does."""

    async def work() -> int:
        async with services(_say_nothing, start=False) as opened:
            return await opened.withdraw(await find_run(opened.database, run_id), reason)

    with reported():
        count = asyncio.run(work())
    typer.echo(f"withdrawn: {count} request{'' if count == 1 else 's'} for approval")


@app.command("cancel")
def cancel_run(
    run_id: RunId,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Cancel a run: what it runs is stopped, what waits is withdrawn.

    Exit code: 0 cancelled, 1 it had ended before or does not end in time, 2 there is no such run.
    """

    async def work() -> _Cancelled:
        async with services(_say_nothing, start=False) as opened:
            found = await find_run(opened.database, run_id)
            before = await opened.show(found)
            if RunState(before["state"]).terminal:
                return _Cancelled(before, f"run {found} had ended before: {before['state']}")
            await opened.cancel(found, by=person())
            await _await_end(opened, found, timeout)
            return _cancelled(await opened.show(found))

    with reported(as_json=as_json):
        cancelled = asyncio.run(work())
    if as_json:
        print_json(cancelled.shown)
    elif not cancelled.problem:
        typer.echo(f"run {cancelled.shown['run_id']} is cancelled")
    if cancelled.problem:
        typer.echo(cancelled.problem, err=True)
    raise typer.Exit(Exit.FAILED if cancelled.problem else Exit.OK)


@dataclass(frozen=True)
class _Cancelled:
    shown: dict[str, Any]
    problem: str = ""
    """Why it was not cancelled."""


def _cancelled(shown: dict[str, Any]) -> _Cancelled:
    state, run_id = RunState(shown["state"]), shown["run_id"]
    if not state.terminal:
        return _Cancelled(
            shown, f"run {run_id} is being stopped but has not ended; see `penstock runs show {run_id}`"
        )
    if state is not RunState.CANCELLED:
        return _Cancelled(shown, f"run {run_id} ended before it could be cancelled: {state.value}")
    return _Cancelled(shown)


async def _await_end(opened: Any, run_id: UUID, timeout_s: float) -> None:
    """Wait until a run has ended, but not for longer than the timeout."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit, aclosing(opened.follow(run_id)) as events:
            async for _ in events:
                pass
    except TimeoutError:
        if not limit.expired():
            raise


@app.command("retry")
def retry_run(
    run_id: RunId,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="NODE", help="Begin with this node, even if it succeeded."),
    ] = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Have a run that has ended go on from what did not succeed, or from a node, and wait for its end.

    Exit codes are those of `penstock run`; 1 also when the run has not ended.
    """

    async def work(tell: Callable[[str], None]) -> Followed:
        async with services(tell, start=False) as opened:
            found = await find_run(opened.database, run_id)
            before = await last_event(opened.database, found)
            await opened.retry(found, start=from_)
            tell(f"run {found} goes on {opened.run_url(found)}")
            return await follow(opened, found, tell, wait=not no_wait, after_id=before)

    _follow_and_exit(work, as_json=as_json)


def _why(node: dict[str, Any]) -> str:
    error: dict[str, Any] = node["error"] or {}
    return str(node["reason"] or error.get("message", ""))


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _say_nothing(_: str) -> None:
    """Machines read the result alone."""
