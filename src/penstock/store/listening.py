"""LISTEN on a connection of its own that comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from penstock.errors import StoreError
from penstock.store.driver import Connection, connect
from penstock.store.faults import translated
from penstock.store.urls import DatabaseUrl

_QUEUE_LENGTH = 10_000
_PING_S = 30.0
_PING_TIMEOUT_S = 10.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True)
class Notice:
    """One notification, or the news that some may have been missed.

    `channel` is None when the listener has just connected (the first time as well) or had
    to drop notices that nobody took: look once at the tables then.
    """

    channel: str | None = None
    payload: str = ""

    @property
    def missed(self) -> bool:
        """Whether notices may have been missed before this one."""
        return self.channel is None


class Listener:
    """An async iterator over notices; use it in `async with`."""

    def __init__(self, url: DatabaseUrl, channels: tuple[str, ...]) -> None:
        self._url = url
        self._channels = channels
        self._notices: asyncio.Queue[Notice | StoreError] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="penstock-listener")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notice:
        """Wait for the next notice.

        Raises:
            StoreError: The database refuses us for good, for example the login.
        """
        if self._task is None:
            raise StoreError("a listener is used inside `async with`")
        notice = await self._notices.get()
        if isinstance(notice, StoreError):
            raise notice
        return notice

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                with translated(self._url.safe):
                    connection = await self._connect()
                pause = _FIRST_PAUSE_S
                await self._stay(connection)
            except StoreError as error:
                if not error.retryable:
                    self._notices.put_nowait(error)
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _connect(self) -> Connection:
        connection = await connect(
            self._url.dsn,
            timeout_s=10,
            statement_s=_PING_TIMEOUT_S,
            settings={"application_name": "penstock listener"},
        )
        try:
            for channel in self._channels:
                await connection.add_listener(channel, self._take)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _stay(self, connection: Connection) -> None:
        """Keep the connection until it breaks; the server may vanish without closing it."""
        lost = asyncio.Event()

        def note(_connection: Any) -> None:
            lost.set()

        connection.add_termination_listener(note)
        self._notices.put_nowait(Notice())
        try:
            while not connection.is_closed():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(lost.wait(), _PING_S)
                    return
                with translated(self._url.safe):
                    await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    def _take(self, _connection: Any, _pid: int, channel: str, payload: object) -> None:
        if self._notices.qsize() >= _QUEUE_LENGTH:
            while not self._notices.empty():
                self._notices.get_nowait()
            self._notices.put_nowait(Notice())
            return
        self._notices.put_nowait(Notice(channel, str(payload)))
