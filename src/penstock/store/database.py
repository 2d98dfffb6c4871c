"""The connection to the database: a small pool, retries, notifications."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import SecretStr
from sqlalchemy import Executable, RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from penstock.errors import StoreError
from penstock.store.documents import decode, encode
from penstock.store.driver import Connection, connect
from penstock.store.faults import translated
from penstock.store.listening import Listener
from penstock.store.urls import DatabaseUrl, parse_url

T = TypeVar("T")

NOTIFY_BYTES = 7999
"""Longest payload of a notification."""

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class Database:
    """A PostgreSQL database, reached through a small pool.

    Connections are made when they are needed, so an object can be built while the server is
    away. `fetch` and `transact` ride out a restart of the server: they try again until
    `retry_s` has gone by. What they run must therefore be safe to run twice, for a
    connection may break between the commit and the news of it.

    Args:
        url: `postgresql://` or `postgresql+asyncpg://`.
        pool_size: Connections kept open; as many again are opened when all are busy.
        retry_s: How long an operation tries before it gives up, in seconds; 0 tries once.
        statement_s: Longest time one statement may take, in seconds.
    Raises:
        SettingsError: The URL is wrong.
    """

    def __init__(
        self,
        url: str | SecretStr | DatabaseUrl,
        *,
        pool_size: int = 5,
        retry_s: float = 30.0,
        statement_s: float = 60.0,
    ) -> None:
        self.url = url if isinstance(url, DatabaseUrl) else parse_url(url)
        self.retry_s = retry_s
        self._statement_s = statement_s
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            # One statement is one transaction, without a round trip for BEGIN and COMMIT.
            isolation_level="AUTOCOMMIT",
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=30,
            pool_use_lifo=True,
            hide_parameters=True,
            json_serializer=encode,
            json_deserializer=decode,
        )

    def __repr__(self) -> str:
        return f"Database({self.url.safe!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    async def _connect(self) -> Connection:
        return await connect(
            self.url.dsn,
            timeout_s=10,
            statement_s=self._statement_s,
            settings={"application_name": "penstock", "search_path": "public"},
        )

    async def fetch(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[RowMapping]:
        """Run one statement as a transaction of its own and give its rows.

        Raises:
            DatabaseUnavailable: The database stayed away for `retry_s`.
            StoreError: The database refused the statement.
        """

        async def once() -> Sequence[RowMapping]:
            async with self._engine.connect() as connection:
                result = await connection.execute(statement, dict(parameters or {}))
                return result.mappings().all() if result.returns_rows else []

        return await self._retrying(once)

    async def transact(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` inside one transaction; commit when it returns, undo when it raises.

        Raises:
            DatabaseUnavailable: The database stayed away for `retry_s`.
            StoreError: The database refused a statement.
        """

        async def once() -> T:
            async with self.transaction() as connection:
                return await work(connection)

        return await self._retrying(once)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """Open one transaction, without retries."""
        with translated(self.url.safe):
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="READ COMMITTED")
                async with connection.begin():
                    yield connection

    async def notify(self, channel: str, payload: str = "") -> None:
        """Wake everybody who listens on `channel`.

        Raises:
            StoreError: The payload is longer than 7,999 bytes.
        """
        if len(payload.encode()) > NOTIFY_BYTES:
            raise StoreError(f"a notification on {channel!r} is longer than {NOTIFY_BYTES} bytes")
        await self.fetch(_NOTIFY, {"channel": channel, "payload": payload})

    def listen(self, *channels: str) -> Listener:
        """Listen on channels, over a connection of its own.

        ```python
        async with database.listen("penstock_run") as notices:
            async for notice in notices:
                ...
        ```
        """
        return Listener(self.url, channels)

    async def _retrying(self, once: Callable[[], Awaitable[T]]) -> T:
        deadline = time.monotonic() + self.retry_s
        pause = _FIRST_PAUSE_S
        while True:
            try:
                with translated(self.url.safe):
                    return await once()
            except StoreError as error:
                if not error.retryable or time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)


_NOTIFY = text("SELECT pg_notify(:channel, :payload)")
