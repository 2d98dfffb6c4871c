"""Run one command under the supervisor: capped output, limits, and a cancel that leaves nothing."""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.contracts import Limits

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_CHUNK = 64 * 1024
_GRACE_S = 30.0
"""How long the supervisor may take to kill a tree before it is killed itself."""


@dataclass(frozen=True)
class Outcome:
    """How a supervised command ended."""

    code: int
    """Exit code; 128 plus the signal's number when a signal ended it."""
    reason: str
    """Which limit killed it: `time`, `memory`, `processes`, `output`; empty when none did."""
    stdout: bytes
    stderr: bytes
    duration_s: float


class _Capture:
    """Keeps the first bytes of a stream and says when there were more."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.kept = bytearray()
        self.overflow = asyncio.Event()

    async def drain(self, stream: asyncio.StreamReader) -> None:
        while chunk := await stream.read(_CHUNK):
            room = self.cap - len(self.kept)
            self.kept += chunk[:room]
            if len(chunk) > room:
                self.overflow.set()


async def supervise(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    stdin: bytes,
    limits: Limits,
) -> Outcome:
    """Run a command to its end or to its first broken limit.

    Cancelling kills the whole tree before `CancelledError` goes on.
    """
    ours, theirs = socket.socketpair()
    started = time.monotonic()
    with ours:
        with theirs:
            process = await _start(
                asyncio.create_subprocess_exec(
                    *_supervisor(theirs.fileno(), limits),
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env=dict(env),
                    cwd=cwd,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                ),
                ours,
            )
        out, err = (_Capture(limits.output_mb * 1024 * 1024) for _ in range(2))
        try:
            await _converse(process, stdin, (out, err), ours)
        except BaseException:
            ours.close()
            await _to_the_end(asyncio.create_task(_bury(process)))
            raise
        code, reason = _verdict(ours, overflow=out.overflow.is_set() or err.overflow.is_set())
    return Outcome(code, reason, bytes(out.kept), bytes(err.kept), time.monotonic() - started)


async def _start(
    creation: Coroutine[Any, Any, asyncio.subprocess.Process], control: socket.socket
) -> asyncio.subprocess.Process:
    """Start the supervisor; a cancel meanwhile lets it start, so that it can end what it began."""
    starting = asyncio.create_task(creation)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        control.close()
        await _to_the_end(asyncio.create_task(_bury_when_started(starting)))
        raise


async def _bury_when_started(starting: asyncio.Task[asyncio.subprocess.Process]) -> None:
    with suppress(OSError):  # it could not be started, so there is nothing to end
        await _bury(await starting)


def _supervisor(control: int, limits: Limits) -> list[str]:
    cpu_s = limits.cpu_s or limits.timeout_s * (os.cpu_count() or 1)
    values = {
        "timeout_s": limits.timeout_s,
        "memory_mb": limits.memory_mb,
        "processes": limits.processes,
        "file_mb": limits.file_mb,
        "cpu_s": max(1, math.ceil(cpu_s)),
    }
    return [sys.executable, "-I", "-S", str(_SUPERVISOR), str(control), json.dumps(values)]


async def _converse(
    process: asyncio.subprocess.Process,
    stdin: bytes,
    captures: tuple[_Capture, _Capture],
    control: socket.socket,
) -> None:
    out, err = captures
    if process.stdout is None or process.stderr is None:
        raise RuntimeError("the supervisor was started without pipes")
    watchers = [asyncio.create_task(_stop_on(capture.overflow, control)) for capture in captures]
    try:
        await asyncio.gather(
            _feed(process, stdin), out.drain(process.stdout), err.drain(process.stderr), process.wait()
        )
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    if process.stdin is None:
        return
    with suppress(BrokenPipeError, ConnectionResetError):  # a tool need not read its input
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


async def _stop_on(event: asyncio.Event, control: socket.socket) -> None:
    await event.wait()
    with suppress(OSError):
        control.send(b"x")


async def _to_the_end(task: asyncio.Task[None]) -> None:
    """Wait for a task even when cancelled again; the caller goes on with the first cancel."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)


async def _bury(process: asyncio.subprocess.Process) -> None:
    """Wait until a supervisor that was told to stop has killed its tree, and close its pipes."""
    killer = asyncio.get_running_loop().call_later(_GRACE_S, process.kill)
    streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.gather(process.wait(), *(_Capture(0).drain(stream) for stream in streams))
    finally:
        killer.cancel()


def _verdict(control: socket.socket, *, overflow: bool) -> tuple[int, str]:
    control.setblocking(False)
    try:
        data = json.loads(control.recv(_CHUNK))
    except (OSError, ValueError):
        return 128 + 9, "supervisor"
    code = int(data["code"])
    if overflow:
        return code, "output"
    return (code if code >= 0 else 128 - code), str(data["reason"])
