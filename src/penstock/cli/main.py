"""The `penstock` command. Prefect and the like are imported inside commands: `--help` is quick."""

from __future__ import annotations

import sys

import typer

from penstock import __version__
from penstock.cli import (
    agents,
    approvals,
    audit,
    files,
    grants,
    login,
    policies,
    processes,
    runs,
    workflows,
)
from penstock.cli.exits import Exit

__all__ = ["app", "main"]

app = typer.Typer(
    name="penstock",
    help="Approval-gated agent workflows on Prefect: alert in, approved fix out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
processes.register(app)
files.register(app)
login.register(app)
runs.register(app)
app.add_typer(agents.app, name="agents")
app.add_typer(workflows.app, name="workflows")
app.add_typer(runs.app, name="runs")
app.add_typer(approvals.app, name="approvals")
app.add_typer(grants.app, name="grants")
app.add_typer(audit.app, name="audit")
app.add_typer(policies.app, name="policies")
app.add_typer(processes.tools_app, name="tools")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"penstock {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


if __name__ == "__main__":
    main()
