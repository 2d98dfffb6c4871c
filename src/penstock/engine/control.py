"""What the outside may tell a run in flight: look again, start nothing more, stop."""

from __future__ import annotations

import asyncio
from enum import StrEnum

__all__ = ["RunControl", "Stop"]


class Stop(StrEnum):
    """Why a run in flight is stopped."""

    CANCEL = "cancel"
    """Somebody cancelled it."""
    LOST = "lost"
    """Another worker has it, or will: nothing may be written any more."""
    LEAVE = "leave"
    """Its worker goes away; another one goes on."""


class RunControl:
    """One run's ear to the outside; everything here is called in the worker's event loop."""

    def __init__(self) -> None:
        self.draining = False
        """No node is started any more."""
        self.paused = False
        """Somebody suspended the run in Prefect; it goes on when it is resumed there."""
        self.reason: Stop | None = None
        self.by = ""
        """Who cancelled it, as far as that is known."""
        self.generation = 0
        """Grows with every nudge."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def attach(self, task: asyncio.Task[None]) -> None:
        """Say which task runs the run."""
        self._task = task

    def nudge(self) -> None:
        """Have the nodes that wait looked at again."""
        self.generation += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def nudged(self, since: int) -> None:
        """Wait for a nudge after a generation."""
        while self.generation == since:
            await self._changed.wait()

    def drain(self) -> None:
        """Let the nodes that run come to their ends and start no others."""
        self.draining = True
        self.nudge()

    def pause(self) -> None:
        """Let the nodes that run come to their ends, then let go of the run until it is resumed."""
        self.paused = True
        self.drain()

    def stop(self, reason: Stop, *, by: str = "") -> None:
        """Stop the run now; only the first reason counts."""
        if self.reason is None:
            self.reason, self.by = reason, by
            if self._task is not None:
                self._task.cancel()
