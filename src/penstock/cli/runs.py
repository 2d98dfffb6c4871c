"""`penstock run` and `penstock runs`: start, watch, list and show runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from penstock.cli.exits import exit_of_state, print_json, reported
from penstock.cli.session import services, store
from penstock.cli.tables import print_table
from penstock.cli.workflows import apply_file
from penstock.errors import InputInvalid

__all__ = ["app", "register"]

app = typer.Typer(help="List and show runs.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_ENDED = {"node.succeeded": "✓", "node.failed": "✗", "node.skipped": "-", "node.rejected": "✗"}


def register(to: typer.Typer) -> None:
    """Add `penstock run`."""
    to.command()(run)


def run(
    workflow: Annotated[str, typer.Argument(help="A workflow file, or the name of an applied workflow.")],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", help="An input, as name=value; JSON values too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a workflow and wait for its end; starts what is missing and ends it afterwards.

    Exit code: 0 succeeded, 1 failed or rejected, 2 bad usage or invalid file, 4 cancelled.
    """
    with reported(as_json=as_json):
        shown = asyncio.run(_run(workflow, inputs or [], quiet=as_json))
    if as_json:
        print_json(shown)
    else:
        _print_result(shown)
    raise typer.Exit(exit_of_state(shown["state"]))


async def _run(workflow: str, inputs: list[str], *, quiet: bool) -> dict[str, Any]:
    def tell(text: str) -> None:
        if not quiet:
            typer.echo(text, err=True)

    path = _file_of(workflow)
    async with services(tell, start=True) as opened:
        name = (await apply_file(opened, path)).name if path else workflow
        started = await opened.start(name, parse_inputs(inputs, await opened.input_types(name)))
        tell(f"{name}: run {started.name} {started.url}")
        async for event in opened.follow(started.run_id):
            if event.node_id is not None:
                tell(f"  {_ENDED.get(event.type, '…')} {event.node_id} {_words(event)}")
        return await opened.show(started.run_id)


def _file_of(workflow: str) -> Path | None:
    path = Path(workflow)
    return path if path.suffix in {".yaml", ".yml", ".json"} or path.exists() else None


def parse_inputs(pairs: list[str], types: dict[str, str]) -> dict[str, Any]:
    """Read `name=value` pairs; a value for a text input stays text, others are JSON.

    Raises:
        InputInvalid: A pair has no `=`, a name comes twice, or a value is not JSON.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise InputInvalid(f"--input {pair!r}: write name=value")
        if name in found:
            raise InputInvalid(f"--input {name!r} is given twice")
        found[name] = value if types.get(name, "string") == "string" else _from_json(name, value)
    return found


def _from_json(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise InputInvalid(f"--input {name}: {value!r} is not JSON") from None


def _words(event: Any) -> str:
    reason = event.data.get("reason")
    attempt = event.data.get("attempt") or 0
    words = [event.type.removeprefix("node.")]
    if attempt > 1:
        words.append(f"(attempt {attempt})")
    return " ".join([*words, f"({reason})"] if reason else words)


def _print_result(shown: dict[str, Any]) -> None:
    typer.echo(f"{shown['state']}: {shown['message'] or ''}")
    outputs: dict[str, Any] = shown["outputs"] or {}
    for name, value in outputs.items():
        typer.echo(f"  {name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


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
    rows = [(r.id, r.workflow, r.state.value, f"{r.created_at:%F %T}", r.message) for r in page.runs]
    print_table(("ID", "WORKFLOW", "STATE", "CREATED", "MESSAGE"), rows)


@app.command("show")
def show_run(
    run_id: Annotated[str, typer.Argument(help="Id of the run.")],
    as_json: AsJson = False,
) -> None:
    """Show a run with its nodes."""

    async def work() -> dict[str, Any]:
        async with services(lambda _: None, start=False) as opened:
            return await opened.show(UUID(run_id))

    with reported(as_json=as_json):
        try:
            shown = asyncio.run(work())
        except ValueError:
            raise InputInvalid(f"{run_id!r} is not the id of a run") from None
    if as_json:
        print_json(shown)
        return
    _print_result(shown)
    rows = [(key, n["state"], n["attempts"], _why(n)) for key, n in shown["nodes"].items()]
    print_table(("NODE", "STATE", "ATTEMPTS", "WHY"), rows)


def _why(node: dict[str, Any]) -> str:
    error: dict[str, Any] = node["error"] or {}
    return str(node["reason"] or error.get("message", ""))
