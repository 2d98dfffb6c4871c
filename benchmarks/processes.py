"""Processes that a benchmark starts, and that all end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["command", "running", "until"]

_GRACE_S = 30.0


@contextmanager
def running(
    arguments: Sequence[str], env: Mapping[str, str], log: Path
) -> Generator[subprocess.Popen[bytes]]:
    """Run Python with arguments until the block is left, in a process group of its own."""
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def command(arguments: Sequence[str], env: Mapping[str, str], cwd: Path) -> str:
    """Run Python with arguments to its end and return what it printed.

    Raises:
        RuntimeError: It failed; the message is what it said.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stdout}{done.stderr}")
    return done.stdout


def until(ready: Callable[[], bool], what: str, *, timeout_s: float, pause_s: float) -> float:
    """Ask until the answer is yes; return how many seconds that took.

    Raises:
        TimeoutError: It never was.
    """
    began = time.perf_counter()
    while not ready():
        if time.perf_counter() - began > timeout_s:
            raise TimeoutError(f"{what} took longer than {timeout_s:g} s")
        time.sleep(pause_s)
    return time.perf_counter() - began
