"""Workers of a stack as processes of the test's own, which it may kill and stop."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from support.stack import StackUnderTest

_READY_S = 60


@dataclass
class OwnWorkers:
    """Starts, kills and stops workers; the stack's own worker is held still meanwhile."""

    stack: StackUnderTest
    folder: Path
    environment: dict[str, str] = field(default_factory=dict[str, str])
    alive: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict[str, "subprocess.Popen[bytes]"])
    _numbers: Any = field(default_factory=itertools.count)

    def start(self, *, limit: int = 20) -> str:
        """Start a worker and give its name."""
        name = f"worker-{next(self._numbers)}"
        with (self.folder / f"{name}.log").open("wb") as log:
            self.alive[name] = subprocess.Popen(
                [sys.executable, "-m", "penstock.cli.main", "worker", "--name", name, "--limit", str(limit)],
                env={**self.stack.environment, **self.environment},
                stdout=log,
                stderr=log,
            )
        return name

    async def ready(self, services: Any, *names: str) -> None:
        """Wait until workers have a lease."""
        from penstock.store.leases import peers  # noqa: PLC0415  only where a stack is

        deadline = time.monotonic() + _READY_S
        while True:
            known = {peer.name for peer in await peers(services.database, services.settings.prefect.pool)}
            if known >= set(names):
                return
            for name in names:
                assert self.alive[name].poll() is None, (self.folder / f"{name}.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "a worker did not come up"
            await asyncio.sleep(0.1)

    def kill(self, name: str) -> None:
        """Kill a worker as if its machine had lost power."""
        process = self.alive.pop(name)
        process.kill()
        process.wait(10)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a worker."""
        os.kill(self.alive[name].pid, number)

    def log_of(self, name: str) -> str:
        """Give what a worker has logged."""
        return (self.folder / f"{name}.log").read_text(errors="replace")


@contextmanager
def own_workers(stack: StackUnderTest, folder: Path, **environment: str) -> Generator[OwnWorkers]:
    """Hold the stack's worker still and have workers of the test's own.

    Args:
        environment: Further environment variables of the workers.
    """
    held = next(
        process
        for process in psutil.Process(stack.pid).children(recursive=True)
        if process.cmdline()[-1:] == ["worker"]
    )
    held.send_signal(signal.SIGSTOP)
    workers = OwnWorkers(stack, folder, environment)
    try:
        yield workers
    finally:
        for process in workers.alive.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)
        held.send_signal(signal.SIGCONT)
