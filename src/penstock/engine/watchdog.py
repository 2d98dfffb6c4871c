"""Notice when an agent blocks the worker's event loop, and say where.

An agent that blocks stops every run of its worker, and its own timeout too, for that is
kept by the loop. The thread here still runs then: it logs the line at which the loop is
stuck, so that the agent can be given `isolation=Isolation.PROCESS`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import tempfile
import threading
import time
from typing import Self

__all__ = ["LoopWatchdog"]

_log = logging.getLogger(__name__)


class LoopWatchdog:
    """Watches the running event loop from a thread of its own.

    Args:
        blocked_s: How long the loop may be silent before it counts as blocked, in seconds.
    """

    def __init__(self, blocked_s: float = 5.0) -> None:
        self._blocked_s = blocked_s
        self._beat = time.monotonic()
        self._stop = threading.Event()
        self._loop_thread = threading.get_ident()
        self._beating: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._watch, name="penstock-watchdog", daemon=True)

    async def __aenter__(self) -> Self:
        self._loop_thread = threading.get_ident()
        self._beating = asyncio.create_task(self._keep_beating(), name="watchdog")
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        if self._beating is not None:
            self._beating.cancel()
        await asyncio.to_thread(self._thread.join)

    async def _keep_beating(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(self._blocked_s / 5)

    def _watch(self) -> None:
        told = 0.0
        while not self._stop.wait(self._blocked_s / 5):
            beat = self._beat
            if time.monotonic() - beat > self._blocked_s and beat != told:
                told = beat
                _log.error(
                    "the event loop has been blocked for %.0f s; every run of this worker waits for:\n%s",
                    time.monotonic() - beat,
                    self._where(),
                )

    def _where(self) -> str:
        """Give the stack of the loop's thread, the innermost line first."""
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            stacks = file.read().decode(errors="replace").split("\n\n")
        mine = [stack for stack in stacks if stack.startswith(f"Thread 0x{self._loop_thread:016x}")]
        return "\n".join(mine[0].splitlines()[1:9]) if mine else "(unknown)"
