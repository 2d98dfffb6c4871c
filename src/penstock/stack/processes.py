"""Child processes that are started, watched, restarted and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import ChildError
from penstock.lifeline import PARENT_PID, READY_FD

__all__ = ["Child", "ChildSpec"]

_LOG_LIMIT = 10 * 1024 * 1024
_STABLE_S = 30.0
_QUICK_DEATHS = 5


@dataclass(frozen=True)
class ChildSpec:
    """One process of the stack."""

    name: str
    arguments: Sequence[str]
    """What follows the Python interpreter."""
    environment: Mapping[str, str]
    log: Path
    grace_s: float = 15.0
    """How long it may take to end after SIGTERM before it is killed, in seconds."""


class Child:
    """One process of the stack: started, restarted when it dies, ended with its whole group.

    Args:
        on_event: Told, in one short sentence, what happens to the process.
    """

    def __init__(self, spec: ChildSpec, on_event: Callable[[str], None]) -> None:
        self.spec = spec
        self._on_event = on_event
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._broken: ChildError | None = None
        self._restart = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id while the process lives."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def start(self) -> None:
        """Start the process and keep it running."""
        self._keeper = asyncio.create_task(self._keep(), name=f"keep-{self.spec.name}")

    async def ready(self, timeout_s: float) -> None:
        """Wait until the process has said that it is ready.

        Raises:
            ChildError: It did not, in time; the message ends with the tail of its log.
        """
        try:
            await asyncio.wait_for(self._ready.wait(), timeout_s)
        except TimeoutError:
            raise self._failure(f"is not ready after {timeout_s:g} s") from None
        if self._broken:
            raise self._broken

    def restart(self) -> None:
        """End the process and start it again, for example because its code changed."""
        self._restart.set()
        self._signal(signal.SIGTERM)

    async def stop(self) -> None:
        """End the process and everything it started."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        await self._end()

    async def _keep(self) -> None:
        deaths = 0
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            code = await self._run_once()
            if self._restart.is_set():
                self._restart.clear()
                self._on_event(f"{self.spec.name} restarted")
                continue
            deaths = 1 if loop.time() - started > _STABLE_S else deaths + 1
            if deaths >= _QUICK_DEATHS or not self._ready.is_set():
                self._broken = self._failure(f"ended with exit code {code}")
                self._ready.set()
                self._on_event(str(self._broken))
                return
            self._on_event(f"{self.spec.name} ended with exit code {code}; starting it again")
            await asyncio.sleep(min(2.0 ** (deaths - 1) * 0.5, 10.0))

    async def _run_once(self) -> int:
        reader, writer = os.pipe()
        environment = {
            **os.environ,
            **self.spec.environment,
            READY_FD: str(writer),
            PARENT_PID: str(os.getpid()),
        }
        with _open_log(self.spec.log) as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.spec.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(writer,),
                start_new_session=True,
            )
        os.close(writer)
        waiting = asyncio.create_task(self._await_ready(reader))
        try:
            return await self._process.wait()
        finally:
            waiting.cancel()

    async def _await_ready(self, reader: int) -> None:
        loop = asyncio.get_running_loop()
        said = loop.create_future()
        loop.add_reader(reader, lambda: said.done() or said.set_result(os.read(reader, 1)))
        try:
            if await said:
                self._ready.set()
        finally:
            loop.remove_reader(reader)
            os.close(reader)

    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), self.spec.grace_s)
        self._signal(signal.SIGKILL)
        await process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            # The whole group: a process that has ended may have left children behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _failure(self, what: str) -> ChildError:
        log = self.spec.log
        return ChildError(f"{self.spec.name} {what}; its log {log} ends with:\n{tail(log)}")


def tail(path: Path, lines: int = 20) -> str:
    """Return the last lines of a text file, empty when there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def _open_log(path: Path):  # noqa: ANN202  a binary file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")
