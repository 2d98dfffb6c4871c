"""The driver asyncpg, typed as far as we use it; it ships no types of its own."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

_asyncpg: Any = importlib.import_module("asyncpg")

DRIVER_ERRORS: tuple[type[Exception], ...] = (_asyncpg.PostgresError, _asyncpg.InterfaceError)
INTERFACE_ERROR: type[Exception] = _asyncpg.InterfaceError
INTERNAL_ERROR: type[Exception] = _asyncpg.InternalClientError


class Connection(Protocol):
    """One connection."""

    async def execute(self, query: str) -> str:
        """Run a statement."""
        ...

    async def add_listener(self, channel: str, callback: Callable[[Any, int, str, object], None]) -> None:
        """Call back for every notification on a channel: connection, pid, channel, payload."""
        ...

    def add_termination_listener(self, callback: Callable[[Any], None]) -> None:
        """Call back when the connection has ended."""
        ...

    def is_closed(self) -> bool:
        """Tell whether the connection has ended."""
        ...

    def terminate(self) -> None:
        """End the connection at once."""
        ...


async def connect(
    dsn: str, *, timeout_s: float, settings: Mapping[str, str], statement_s: float | None = None
) -> Connection:
    """Open a connection.

    Args:
        settings: PostgreSQL settings of the session.
        statement_s: Longest time one statement may take, in seconds.
    """
    opening: Awaitable[Connection] = _asyncpg.connect(
        dsn, timeout=timeout_s, command_timeout=statement_s, server_settings=dict(settings)
    )
    return await opening
