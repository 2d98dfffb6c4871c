"""What a command needs before it can work: settings, environment, a running stack."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import ApprovalDenied, Problem, SpecError
from penstock.settings import Settings, load_settings

if TYPE_CHECKING:
    from penstock.approvals.people import Person
    from penstock.engine.services import Services
    from penstock.store.database import Database

__all__ = ["account", "known_person", "person", "read_file", "services", "settings_for_client", "store"]

_LARGEST_FILE = 1024 * 1024


def settings_for_client(*, quiet: bool = True) -> Settings:
    """Read the settings and set what Prefect's client reads when it is imported.

    Args:
        quiet: Keep Prefect's own log off a person's terminal.
    """
    from penstock.engine.environment import client_environment  # noqa: PLC0415  quick start

    settings = load_settings()
    for name, value in client_environment(settings).items():
        os.environ.setdefault(name, value)
    if quiet:
        os.environ["PREFECT_LOGGING_LEVEL"] = "WARNING"
    return settings


@asynccontextmanager
async def services(say: Callable[[str], None], *, start: bool) -> AsyncGenerator[Services]:
    """Open the services.

    Args:
        say: Told what happens while the stack starts.
        start: Start what is missing and end it afterwards; otherwise the stack must be up.
    Raises:
        PenstockError: The stack is not up, or does not start.
    """
    settings = settings_for_client()
    from penstock.stack.stack import needs_stack, running_stack  # noqa: PLC0415  quick start

    missing = needs_stack(settings, start=start)
    # Imported after the environment is set, and only where needed: Prefect takes seconds.
    from penstock.engine.services import open_services  # noqa: PLC0415

    async with AsyncExitStack() as exits:
        if missing:
            await exits.enter_async_context(running_stack(settings, say, library=True))
        opened = await exits.enter_async_context(open_services(settings))
        yield opened


@asynccontextmanager
async def store() -> AsyncGenerator[Database]:
    """Open the database alone; the embedded server is started when it is not running.

    Raises:
        StoreError: The tables are missing or old.
    """
    from penstock.store.opening import open_database  # noqa: PLC0415  quick start

    async with open_database(load_settings()) as database:
        yield database


def person() -> str:
    """Give the name of the account that runs the command, whatever the environment says."""
    return account(os.geteuid())


def account(uid: int) -> str:
    """Give the name of an account; in a container it may have none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user-{uid}"


def known_person(opened: Services) -> Person:
    """Give the user who runs the command as the people file knows him.

    Raises:
        ApprovalDenied: It does not know him.
    """
    name = person()
    known = opened.rules.current().people.find(name)
    if known is None:
        raise ApprovalDenied(f"{name} is not in the people file, so nobody knows what {name} may do")
    return known


def read_file(path: Path) -> bytes:
    """Read a workflow file.

    Raises:
        SpecError: It cannot be read, or is far too large to be one.
    """
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise SpecError.of([Problem(str(path), 1, 1, error.strerror or str(error))]) from None
