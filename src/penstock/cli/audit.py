"""`penstock audit`: check the chain of what happened around approvals, copy it, read it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.exits import Exit, print_json, reported
from penstock.cli.ids import find_approval, find_run
from penstock.cli.session import store
from penstock.cli.tables import print_table
from penstock.cli.text import local_time, plain
from penstock.errors import Problem, SpecError

if TYPE_CHECKING:
    from penstock.approvals.chain import Head, Verdict

__all__ = ["app"]

app = typer.Typer(help="Check, copy and read the audit chain.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_STANDARD = Path("-")


@app.command("verify")
def verify_chain(
    file: Annotated[
        Path | None, typer.Argument(help="File that `export` wrote, or -; unset means the database.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(metavar="SEQ:HASH", help="A head noted earlier, which the chain must still hold."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that nothing was changed, removed or put in: exit code 0 whole, 1 broken, 2 bad file.

    A file is checked on its own: nothing has to run. What was cut off at the end, and a
    chain that was written anew as a whole, is found by a head that was noted earlier.
    """
    from penstock.approvals.chain import parse_head  # noqa: PLC0415  quick start

    with reported(as_json=as_json):
        noted = None if head is None else parse_head(head)
        verdict = asyncio.run(_of_database(noted)) if file is None else _of_file(file, noted)
    if as_json:
        print_json(_verdict_data(verdict))
    else:
        _tell(verdict)
    if not verdict.ok:
        raise typer.Exit(Exit.FAILED)


@app.command("export")
def export_chain(
    file: Annotated[Path, typer.Argument(help="File to write; - writes to standard output.")] = _STANDARD,
    after: Annotated[int, typer.Option(min=0, metavar="SEQ", help="Only entries after this one.")] = 0,
) -> None:
    """Copy the chain as JSON lines, which `verify` and ten lines of Python can check anywhere."""

    async def work() -> Head:
        from penstock.engine.auditing import export, export_file  # noqa: PLC0415  quick start

        async with store() as database:
            if file == _STANDARD:
                return await export(database, sys.stdout.buffer, after=after)
            return await export_file(database, file, after=after)

    with reported():
        last = asyncio.run(work())
    sys.stdout.flush()
    typer.echo(f"head {last}", err=True)


@app.command("list")
def list_entries(
    *,
    request: Annotated[str | None, typer.Option(metavar="ID", help="Only about this request.")] = None,
    run: Annotated[str | None, typer.Option(metavar="ID", help="Only about this run.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind, such as decision.")] = None,
    person: Annotated[str | None, typer.Option(help="Only of this person.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Entries at most, the newest ones.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List entries, newest last."""

    async def work() -> list[dict[str, Any]]:
        from penstock.engine.auditing import history  # noqa: PLC0415  quick start

        async with store() as database:
            return await history(
                database,
                request_id=None if request is None else await find_approval(database, request),
                run_id=None if run is None else await find_run(database, run),
                kind=kind,
                person=person,
                limit=limit,
            )

    with reported(as_json=as_json):
        found = asyncio.run(work())
    if as_json:
        print_json(found)
    elif found:
        head = ("SEQ", "AT", "KIND", "PERSON", "REQUEST", "RUN", "FACTS")
        print_table(head, [_row(entry) for entry in found])
    else:
        typer.echo("there is none")


async def _of_database(noted: Head | None) -> Verdict:
    from penstock.engine.auditing import verify  # noqa: PLC0415  quick start

    async with store() as database:
        return await verify(database, noted=noted, progress=_progress())


def _of_file(file: Path, noted: Head | None) -> Verdict:
    from penstock.approvals.chain import check_lines  # noqa: PLC0415  quick start

    if file == _STANDARD:
        return check_lines(sys.stdin.buffer, file="standard input", noted=noted)
    try:
        with file.open("rb") as lines:
            return check_lines(lines, file=str(file), noted=noted)
    except OSError as error:
        raise SpecError.of([Problem(str(file), 1, 1, error.strerror or str(error))]) from None


def _progress() -> Callable[[int, int], None] | None:
    """Tell a person at a terminal how far the check is; a long chain takes its time."""
    if not sys.stderr.isatty():
        return None

    def tell(checked: int, entries: int) -> None:
        end = "\n" if checked == entries else ""
        typer.echo(f"\r{checked:,} of {entries:,} entries checked{end}", err=True, nl=False)

    return tell


def _tell(verdict: Verdict) -> None:
    first, last = verdict.start.seq + 1, verdict.head.seq
    span = f"{verdict.entries:,} entries, {first} to {last}" if verdict.entries else "no entries"
    if verdict.broken is None:
        typer.echo(f"whole: {span}")
        typer.echo(f"head {verdict.head}")
        if verdict.start.seq:
            typer.echo(f"it follows on {verdict.start}, which is not in this file", err=True)
        return
    typer.echo(f"broken: {plain(str(verdict.broken))}", err=True)
    typer.echo(f"whole before that: {span}", err=True)


def _verdict_data(verdict: Verdict) -> dict[str, Any]:
    broken = verdict.broken
    return {
        "ok": verdict.ok,
        "entries": verdict.entries,
        "start": vars(verdict.start),
        "head": vars(verdict.head),
        "broken": None if broken is None else {**vars(broken), "message": str(broken)},
    }


_TOLD_FIRST = ("decision", "comment", "break_glass", "because", "message", "reason")
_LEFT_OUT = frozenset({"digest", "terms", "policy"})


def _row(entry: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        entry["seq"],
        _at(entry["at"]),
        entry["kind"],
        entry["person"],
        _short(entry["request_id"]),
        _short(entry["run_id"]),
        _facts(entry["facts"]),
    )


def _facts(facts: Mapping[str, Any]) -> str:
    """Give what an entry says, what people said first; digests and terms are for machines."""
    first = [name for name in _TOLD_FIRST if name in facts]
    rest = [name for name in facts if name not in first and name not in _LEFT_OUT]
    told = {name: facts[name] for name in (*first, *rest)}
    return json.dumps(told, ensure_ascii=False) if told else ""


def _at(moment: object) -> str:
    try:
        return local_time(str(moment))
    except (ValueError, OverflowError):  # somebody has made something else of it
        return str(moment)


def _short(value: object) -> str:
    return "" if value is None else str(value)[:13]
