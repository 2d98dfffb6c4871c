"""A worker's lease on its runs, renewed from a thread of its own.

A run whose worker is gone is taken by another one. Whether a worker is there is told by its
lease, which no blocked event loop can keep from being renewed; on the same machine a process that
has ended is noticed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from penstock.errors import StoreError
from penstock.store.database import Database
from penstock.store.leases import register_worker, renew_worker
from penstock.store.urls import DatabaseUrl

__all__ = ["LeaseKeeper", "Registration", "has_ended", "this_process"]


@dataclass(frozen=True)
class Registration:
    """A worker, as the others see it."""

    id: UUID
    name: str
    pool: str
    lease_s: float
    """How long it keeps its runs when it cannot be heard of, in seconds."""

    async def register(self, database: Database) -> None:
        """Take a lease."""
        await register_worker(
            database, self.id, name=self.name, pool=self.pool, process=this_process(), ttl_s=self.lease_s
        )


class LeaseKeeper:
    """Renews a worker's lease until closed; takes a new one when it was lost.

    Args:
        url: The database.
        on_lost: Called in the event loop that made the keeper when somebody took the worker's runs away.
    """

    def __init__(self, url: DatabaseUrl, worker: Registration, on_lost: Callable[[], None]) -> None:
        self._url = url
        self._worker = worker
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-lease", daemon=True)

    def start(self) -> None:
        """Start renewing."""
        self._thread.start()

    async def close(self) -> None:
        """Stop renewing."""
        self._stopped.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        asyncio.run(self._renew())

    async def _renew(self) -> None:
        lease_s = self._worker.lease_s
        async with Database(self._url, pool_size=1, retry_s=0.0, statement_s=lease_s / 3) as database:
            while not self._stopped.is_set():
                # An outage is ridden out: nobody takes runs away while the database is away.
                with contextlib.suppress(StoreError):
                    if not await renew_worker(database, self._worker.id, lease_s):
                        self._loop.call_soon_threadsafe(self._on_lost)
                        await self._worker.register(database)
                await asyncio.to_thread(self._stopped.wait, lease_s / 4)


def this_process() -> str:
    """Name this process so that others on the same machine can tell whether it has ended.

    Returns:
        `boot/pid-namespace/pid/start-time`; the first two tell machines and containers apart.
    """
    pid = os.getpid()
    return f"{_machine()}/{pid}/{_start_time(pid)}"


def has_ended(process: str) -> bool:
    """Tell for sure that a process has ended; False for one on another machine."""
    machine, _, rest = process.rpartition("/")[0].rpartition("/")
    started = process.rpartition("/")[2]
    return machine == _machine() and rest.isdigit() and _start_time(int(rest)) != started


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no /proc: leases alone tell
        return f"unknown/{os.getpid()}"


def _start_time(pid: int) -> str:
    """Give when a process started, in clock ticks since boot; empty when there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in {"Z", "X"} else fields[19]
