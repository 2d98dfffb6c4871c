"""Start the whole of Penstock on this machine and end all of it again."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import text

from penstock.engine.environment import api_url, client_environment, server_environment, ui_url
from penstock.errors import SettingsError
from penstock.settings import Settings
from penstock.stack.processes import Child, ChildSpec
from penstock.store import embedded, migrate
from penstock.store.database import Database
from penstock.store.urls import DatabaseUrl, parse_url

__all__ = ["RunningStack", "Stack", "needs_stack", "running_stack", "stack_of"]

_READY_S = 120.0
_LOOK_S = 1.0
_DATABASE_S = 5.0


@dataclass(frozen=True)
class Stack:
    """A running stack, as other processes of this machine see it."""

    pid: int
    started: float
    """When the process `pid` was started, in seconds since the epoch; tells it from a later one."""
    prefect_url: str
    ui_url: str
    gateway_url: str

    @property
    def alive(self) -> bool:
        """Whether its process still runs."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 1
        except psutil.Error:
            return False


def stack_of(settings: Settings) -> Stack | None:
    """Give the stack that runs on this home, None when there is none."""
    try:
        stack = Stack(**json.loads(_stack_file(settings).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return stack if stack.alive else None


@dataclass
class _Processes:
    prefect: Child
    gateway: Child
    worker: Child

    @property
    def all(self) -> tuple[Child, Child, Child]:
        return self.prefect, self.gateway, self.worker


class RunningStack:
    """The stack of this process."""

    def __init__(self, stack: Stack, processes: _Processes, seconds: float) -> None:
        self.stack = stack
        self.seconds = seconds
        """How long it took to become ready."""
        self._processes = processes

    def reload(self) -> None:
        """Restart what runs our own code: gateway and worker."""
        self._processes.gateway.restart()
        self._processes.worker.restart()


@asynccontextmanager
async def running_stack(
    settings: Settings, say: Callable[[str], None], *, library: bool = False
) -> AsyncGenerator[RunningStack]:
    """Run database, Prefect server, gateway and worker inside an `async with`.

    Args:
        say: Told, in one short sentence, what happens.
        library: Apply the shipped workflows.
    Raises:
        SettingsError: A port is taken, or a stack runs on this home already.
        ChildError: A process does not start; the message ends with the tail of its log.
    """
    began = time.monotonic()
    _refuse_second(settings)
    _check_ports(settings)
    settings.home_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with AsyncExitStack() as exits:
        say("starting the database")
        url = await _database(settings, exits, say)
        processes = _Processes(
            prefect=Child(_prefect(settings, url), say),
            gateway=Child(_own(settings, url, "gateway", *(("--library",) if library else ())), say),
            worker=Child(_own(settings, url, "worker"), say),
        )
        exits.push_async_callback(_stop, processes)
        await _reach(url)
        await migrate.upgrade(url)
        say("starting Prefect server, gateway and worker")
        for process in processes.all:
            process.start()
        await asyncio.gather(*(process.ready(_READY_S) for process in processes.all))
        stack = _write_stack_file(settings)
        exits.callback(_stack_file(settings).unlink, missing_ok=True)
        yield RunningStack(stack, processes, time.monotonic() - began)


async def _database(settings: Settings, exits: AsyncExitStack, say: Callable[[str], None]) -> DatabaseUrl:
    if settings.database_url is not None:
        return parse_url(settings.database_url)
    server = await exits.enter_async_context(embedded.running(settings.home_dir, tied=True))
    keeping = asyncio.create_task(_keep_database(settings, server.pid, say), name="keep-database")
    exits.callback(keeping.cancel)
    return parse_url(server.url)


async def _keep_database(settings: Settings, pid: int, say: Callable[[str], None]) -> None:
    """Start the embedded server again when it dies."""
    while True:
        await asyncio.sleep(_LOOK_S)
        if not psutil.pid_exists(pid):
            say("the database ended; starting it again")
            pid = (await asyncio.to_thread(embedded.start, settings.home_dir, tied=True)).pid


async def _reach(url: DatabaseUrl) -> None:
    """Fail early, with our own words, when the database is away."""
    async with Database(url, retry_s=_DATABASE_S) as database:
        await database.fetch(text("SELECT 1"))


async def _stop(processes: _Processes) -> None:
    # The worker first: it still tells Prefect how its runs ended.
    await asyncio.gather(processes.worker.stop(), processes.gateway.stop())
    await processes.prefect.stop()


def _prefect(settings: Settings, url: DatabaseUrl) -> ChildSpec:
    return ChildSpec(
        name="prefect",
        arguments=("-m", "penstock.engine.server"),
        environment=server_environment(settings, url.sqlalchemy),
        log=_log(settings, "prefect"),
    )


def _own(settings: Settings, url: DatabaseUrl, name: str, *options: str) -> ChildSpec:
    environment = {**client_environment(settings), "PENSTOCK_DATABASE_URL": url.dsn}
    return ChildSpec(
        name=name,
        arguments=("-m", "penstock.cli.main", name, *options),
        environment=environment,
        log=_log(settings, name),
        grace_s=15.0 + (settings.worker.drain_seconds if name == "worker" else 0.0),
    )


def _log(settings: Settings, name: str) -> Path:
    return settings.home_dir / "logs" / f"{name}.log"


def _refuse_second(settings: Settings) -> None:
    if (other := stack_of(settings)) is not None:
        raise SettingsError(
            f"penstock is already up on {settings.home_dir}, process {other.pid}, at {other.gateway_url};"
            " set PENSTOCK_HOME to another folder for a second one"
        )


def _check_ports(settings: Settings) -> None:
    wanted = ((settings.prefect.port, "PENSTOCK_PREFECT__PORT"), (settings.port, "PENSTOCK_PORT"))
    for port, variable in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise SettingsError(f"port {port} is taken ({error.strerror}); set {variable}") from None


def _stack_file(settings: Settings) -> Path:
    return settings.home_dir / "stack.json"


def _write_stack_file(settings: Settings) -> Stack:
    stack = Stack(
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        prefect_url=api_url(settings),
        ui_url=ui_url(settings),
        gateway_url=f"http://{settings.gateway.host}:{settings.port}",
    )
    temporary = _stack_file(settings).with_suffix(".new")
    temporary.write_text(json.dumps(stack.__dict__))
    temporary.replace(_stack_file(settings))
    return stack


def needs_stack(settings: Settings, *, start: bool) -> bool:
    """Say whether a stack must be started on this machine.

    Raises:
        SettingsError: One is needed and must not be started.
    """
    if settings.prefect.api_url is not None or stack_of(settings) is not None:
        return False
    if not start:
        raise SettingsError(
            f"penstock is not up on {settings.home_dir}: start it with `penstock up`, or set"
            " PENSTOCK_PREFECT__API_URL and PENSTOCK_DATABASE_URL to one elsewhere"
        )
    return True
