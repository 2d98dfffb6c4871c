"""`penstock workflows`: apply, list, show, compare and delete."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli.exits import print_json, reported
from penstock.cli.session import person, read_file, services, store
from penstock.cli.siblings import WorkflowFiles
from penstock.cli.tables import print_table
from penstock.cli.text import local_time

__all__ = ["app", "apply_file"]

app = typer.Typer(help="Apply, list, show, compare and delete workflows.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="Name of the workflow.")]


@app.command("apply")
def apply_workflows(
    files: Annotated[list[Path], typer.Argument(help="Workflow files.")], as_json: AsJson = False
) -> None:
    """Save workflow files as revisions and make them startable, also from the Prefect UI.

    Files that run each other may come in any order.
    """

    async def work() -> list[Any]:
        async with services(_tell, start=False) as opened:
            applied = {path: await apply_file(opened, path) for path in WorkflowFiles(files).children_first()}
            return [applied[path] for path in files]

    with reported(as_json=as_json):
        applied = asyncio.run(work())
    if as_json:
        print_json([item.__dict__ for item in applied])
        return
    for item in applied:
        what = "applied" if item.changed else "unchanged"
        typer.echo(f"{item.name} revision {item.revision} {what}: {item.url}")


async def apply_file(opened: Any, path: Path) -> Any:
    """Apply one file under the name of the user who runs the command."""
    return await opened.apply(read_file(path), file=str(path), by=person())


@app.command("list")
def list_workflows(as_json: AsJson = False) -> None:
    """List the workflows."""
    from penstock.store.workflows import list_workflows as listed  # noqa: PLC0415  quick start

    async def work() -> Any:
        async with store() as database:
            return await listed(database)

    with reported(as_json=as_json):
        found = asyncio.run(work())
    if as_json:
        print_json([item.__dict__ for item in found])
        return
    print_table(
        ("NAME", "REVISION", "UPDATED"), [(w.name, w.number, local_time(w.updated_at)) for w in found]
    )


@app.command("show")
def show_workflow(
    name: Name,
    revision: Annotated[int | None, typer.Option(help="Number of the revision; unset means current.")] = None,
) -> None:
    """Print a workflow's file as it was applied."""
    with reported():
        typer.echo(asyncio.run(_revision(name, revision)).source, nl=False)


@app.command("diff")
def diff_workflow(
    name: Name,
    old: Annotated[int | None, typer.Argument(help="Older revision; unset means the one before.")] = None,
    new: Annotated[int | None, typer.Argument(help="Newer revision; unset means the current one.")] = None,
) -> None:
    """Show what changed between two revisions, by meaning, not by text."""
    from penstock.workflow import diff, parse_workflow  # noqa: PLC0415  quick start

    async def work() -> tuple[Any, Any]:
        newer = await _revision(name, new)
        return await _revision(name, old if old is not None else newer.number - 1), newer

    with reported():
        older, newer = asyncio.run(work())
        sides = [parse_workflow(side.source, file=f"{name}@{side.number}") for side in (older, newer)]
        for change in diff(*sides):
            typer.echo(str(change))


@app.command("delete")
def delete_workflow(name: Name) -> None:
    """Delete a workflow and its deployment; its revisions and runs stay."""

    async def work() -> None:
        async with services(_tell, start=False) as opened:
            await opened.delete(name)

    with reported():
        asyncio.run(work())
    typer.echo(f"{name} deleted")


async def _revision(name: str, number: int | None) -> Any:
    from penstock.store.workflows import current_revision, get_revision_by_number  # noqa: PLC0415

    async with store() as database:
        if number is None:
            return await current_revision(database, name)
        return await get_revision_by_number(database, name, number)


def _tell(text: str) -> None:
    typer.echo(text, err=True)
