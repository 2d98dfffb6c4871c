"""Commands that run or prepare processes: up, worker, gateway, migrate, doctor, tools."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.exits import print_json, reported
from penstock.cli.session import settings_for_client
from penstock.settings import load_settings

if TYPE_CHECKING:
    from penstock.stack.stack import RunningStack

__all__ = ["register", "tools_app"]

tools_app = typer.Typer(help="The scanners' own environment.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(worker)
    app.command()(gateway)
    app.command()(migrate)
    app.command()(doctor)


def up(
    reload: Annotated[bool, typer.Option(help="Restart gateway and worker when their code changes.")] = False,
    library: Annotated[bool, typer.Option(help="Apply the shipped workflows.")] = True,
) -> None:
    """Start database, Prefect server, gateway and worker; Ctrl-C ends all of them."""
    with reported():
        settings = settings_for_client()
        from penstock.stack.stack import running_stack  # noqa: PLC0415  after the environment is set

        async def work() -> None:
            async with running_stack(settings, _tell, library=library) as running:
                _announce(running)
                await (_reload_on_change(running) if reload else asyncio.Event().wait())

        _run_until_signal(work)


def _announce(running: RunningStack) -> None:
    stack = running.stack
    typer.echo(f"ready in {running.seconds:.1f} s")
    typer.echo(f"  Prefect UI  {stack.ui_url}")
    typer.echo(f"  gateway     {stack.gateway_url}")
    typer.echo("  sign in     penstock login")
    typer.echo("Ctrl-C ends all of it")
    sys.stdout.flush()


async def _reload_on_change(running: RunningStack) -> None:
    # awatch names trio, which is not installed
    from watchfiles import PythonFilter, awatch  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]

    import penstock  # noqa: PLC0415

    root = Path(penstock.__file__).parents[2]
    folders = [folder for name in ("src", "agents", "blocks") if (folder := root / name).is_dir()]
    async for _ in awatch(*folders, watch_filter=PythonFilter(), raise_interrupt=False):
        _tell("code changed: restarting gateway and worker")
        running.reload()


def _run_until_signal(work: Callable[[], Awaitable[None]]) -> None:
    """Run until it ends or the first SIGINT or SIGTERM; later ones do not disturb the cleaning up."""

    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        stopped = asyncio.Event()

        def stop() -> None:
            if task is not None and not stopped.is_set():
                task.cancel()
            stopped.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            await work()
        except asyncio.CancelledError:
            if not stopped.is_set():
                raise

    asyncio.run(main())


def worker(
    limit: Annotated[int | None, typer.Option(min=1, help="Runs at once; unset means the setting.")] = None,
    name: Annotated[str | None, typer.Option(help="Name; unset means host and process.")] = None,
) -> None:
    """Run a worker: it takes due runs from the work pool and runs them in this process."""
    with reported():
        settings = settings_for_client(quiet=False)  # the log of a run is made of it
        from penstock.engine.worker import serve  # noqa: PLC0415  after the environment is set
        from penstock.lifeline import die_with_parent  # noqa: PLC0415

        die_with_parent()
        _run_until_signal(lambda: serve(settings, name=name, limit=limit))


def gateway(
    library: Annotated[bool, typer.Option(help="Apply the shipped workflows first.")] = False,
) -> None:
    """Run the HTTP gateway."""
    with reported():
        settings = settings_for_client()
        from penstock.gateway.app import serve  # noqa: PLC0415  after the environment is set
        from penstock.lifeline import die_with_parent  # noqa: PLC0415

        die_with_parent()
        serve(settings, library=library)


def migrate() -> None:
    """Bring the tables of the database to the newest form; safe to run at any time."""
    from penstock.store import migrate as migration  # noqa: PLC0415  quick start
    from penstock.store.opening import open_database  # noqa: PLC0415

    async def work() -> str:
        async with open_database(load_settings()) as database:
            return await migration.upgrade(database.url)

    with reported():
        typer.echo(f"the tables are at revision {asyncio.run(work())}")


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check what this machine has: sandbox, scanners, agents, database programs."""
    from penstock.engine.doctor import examine  # noqa: PLC0415  quick start

    with reported(as_json=as_json):
        checks = asyncio.run(examine(load_settings()))
    if as_json:
        print_json([check.__dict__ for check in checks])
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.message}")
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


@tools_app.command("install")
def install_tools(
    force: Annotated[bool, typer.Option(help="Install again even if it is current.")] = False,
) -> None:
    """Install the scanners (semgrep, bandit, detect-secrets, ...) into their own environment."""
    from penstock.sandbox import tools  # noqa: PLC0415  quick start

    with reported():
        folder = tools.tools_dir(load_settings())
        done: Any = tools.install(folder, force=force)
    typer.echo(f"scanners are in {done}")


def _tell(text: str) -> None:
    typer.echo(text, err=True)
