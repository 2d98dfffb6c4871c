"""Exit codes, and how errors reach people and machines."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer

from penstock.cli.text import plain
from penstock.errors import InputInvalid, NotFound, PenstockError, PluginError, SettingsError, SpecError

__all__ = ["Exit", "exit_of_state", "reported"]


class Exit(IntEnum):
    """What a command's exit code means."""

    OK = 0
    FAILED = 1
    """It failed, or a run failed or was rejected."""
    USAGE = 2
    """Bad usage, an invalid file, unknown names or wrong inputs."""
    WAITING = 3
    """The run waits for an approval."""
    CANCELLED = 4
    """The run was cancelled or withdrawn."""
    INTERRUPTED = 130


_STATES = {
    "completed": Exit.OK,
    "simulated": Exit.OK,
    "suspended": Exit.WAITING,
    "cancelled": Exit.CANCELLED,
    "withdrawn": Exit.CANCELLED,
}
_USAGE = (SpecError, InputInvalid, SettingsError, NotFound, PluginError)


def exit_of_state(state: str) -> Exit:
    """Give the exit code of a run's state."""
    return _STATES.get(state, Exit.FAILED)


@contextmanager
def reported(*, as_json: bool = False) -> Generator[None, None, None]:
    """Turn our own errors into a message on standard error and the right exit code."""
    try:
        yield
    except PenstockError as error:
        if as_json:
            print_json({"error": {"code": error.code, "message": error.message, **_places(error)}})
        typer.echo(plain(error.message), err=True)
        raise SystemExit(Exit.USAGE if isinstance(error, _USAGE) else Exit.FAILED) from None


def print_json(value: Any) -> None:
    """Print JSON for machines."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _places(error: PenstockError) -> dict[str, Any]:
    if not isinstance(error, SpecError):
        return {}
    return {"problems": [problem.__dict__ for problem in error.problems]}
