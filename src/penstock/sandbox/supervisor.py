"""A small process between Penstock and one tool: it watches the tool's whole tree and kills it.

It runs as `python -I -S supervisor.py FD LIMITS PROGRAM ARGUMENT...` and imports the standard
library alone, so that it starts in a few milliseconds. It is a process of its own because limits
must hold when the worker's event loop is busy, and because a worker that dies must take its tools
with it: `FD` is one end of a socket pair whose other end the worker holds, and both its close and
any byte on it mean "kill". The verdict goes back over the same socket as one JSON object.

Address-space limits are no use here: some scanners reserve far more than they touch. So the
memory that the tree really holds is sampled instead; pages that processes share count once.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

SAMPLE_S = 0.025
THREADS_PER_PROCESS = 16
PR_SET_CHILD_SUBREAPER = 36
PAGE = os.sysconf("SC_PAGE_SIZE")
MB = 1024 * 1024


class Usage(NamedTuple):
    """What a tree of processes holds."""

    pids: list[int]
    threads: int
    resident: int
    """Resident bytes, shared pages counted once per process."""


class Limits(NamedTuple):
    """The limits as they come over the command line."""

    timeout_s: float
    memory_mb: int
    processes: int
    file_mb: int
    cpu_s: int


def main() -> int:
    """Run one tool and report how it ended."""
    control = int(sys.argv[1])
    limits = Limits(**json.loads(sys.argv[2]))
    # Processes that the tool leaves behind become ours, so they can be found and killed.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = _start(sys.argv[3:], limits)
    reason, code = _watch(child, control, limits)
    _kill_tree(child)
    with suppress(OSError):  # nobody listens when the worker has died
        os.write(control, json.dumps({"reason": reason, "code": code}).encode())
    return 0


def _start(command: list[str], limits: Limits) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        _restrict(limits)
        os.execvpe(command[0], command, os.environ)  # noqa: S606  no shell is the point
    except OSError as error:
        os.write(2, f"supervisor: cannot start {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)
    return 0


def _restrict(limits: Limits) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a child would inherit that
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_FSIZE, limits.file_mb * MB)
    _lower(resource.RLIMIT_CPU, limits.cpu_s, slack=2)
    with suppress(OSError):  # when memory runs out the tool goes before the worker
        Path("/proc/self/oom_score_adj").write_text("1000")


def _lower(kind: int, value: int, *, slack: int = 0) -> None:
    """Lower a limit; with slack its signal comes before the one that tells nothing."""
    hard = resource.getrlimit(kind)[1]
    top = value + slack if hard == resource.RLIM_INFINITY else min(value + slack, hard)
    resource.setrlimit(kind, (min(value, top), top))


def _watch(child: int, control: int, limits: Limits) -> tuple[str, int]:
    """Wait for the end of the tool or for a reason to kill it."""
    deadline = time.monotonic() + limits.timeout_s
    poll = select.poll()
    poll.register(control, select.POLLIN | select.POLLHUP)
    with suppress(OSError):  # without it the end is noticed at the next sample
        poll.register(os.pidfd_open(child), select.POLLIN)
    while True:
        code = _reap(child)
        if code is not None:
            return "", code
        if any(ready == control for ready, _ in poll.poll(SAMPLE_S * 1000)):
            return "stopped", -1
        reason = "time" if time.monotonic() > deadline else _excess(limits)
        if reason:
            return reason, -1


def _reap(child: int) -> int | None:
    """Reap what has ended; return the exit code of `child` when it is among them."""
    code = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
    return code


def _excess(limits: Limits) -> str:
    usage = measure(limits.processes + 1)
    if len(usage.pids) > limits.processes or usage.threads > limits.processes * THREADS_PER_PROCESS:
        return "processes"
    allowed = limits.memory_mb * MB
    if usage.resident > allowed and sum(map(_proportional, usage.pids)) > allowed:
        return "memory"
    return ""


def measure(most: int) -> Usage:
    """Measure what is below this process, `most` processes of it."""
    pids = list(islice(_descendants(os.getpid()), most))
    threads = resident = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            threads += int(fields[17])
            resident += int(fields[21]) * PAGE
    return Usage(pids, threads, resident)


def _stat(pid: int) -> list[str]:
    """Return the fields after the program's name, which may itself hold blanks; empty when gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _proportional(pid: int) -> int:
    """Return the bytes of a process with shared pages divided among those who share them."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        fields = _stat(pid)
        return int(fields[21]) * PAGE if fields else 0
    pss = next((line for line in text.splitlines() if line.startswith("Pss:")), "Pss: 0 kB")
    return int(pss.split()[1]) * 1024


def _descendants(root: int) -> Iterator[int]:
    table = None if Path(f"/proc/{root}/task/{root}/children").exists() else _parents()
    found = {root}
    todo = [root]
    while todo:
        pid = todo.pop()
        for child in _children(pid, table):
            if child not in found:
                found.add(child)
                todo.append(child)
                yield child


def _children(pid: int, table: dict[int, list[int]] | None) -> list[int]:
    if table is not None:
        return table.get(pid, [])
    found: list[int] = []
    with suppress(OSError):  # it ended meanwhile
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  strings are all we need
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def _parents() -> dict[int, list[int]]:
    """Group every process by its parent, for kernels that do not list children."""
    table: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  strings are all we need
        fields = _stat(int(name)) if name.isdigit() else []
        if fields:
            table.setdefault(int(fields[1]), []).append(int(name))
    return table


def _kill_tree(child: int) -> None:
    """Kill until nothing is left, however long it takes: nobody else can find what we would leave.

    The group first, in one call, because a fork bomb outruns anything that goes process by
    process. In a sandbox the next pass meets the namespace's first process, and all die with it.
    What left the group on a host without a sandbox becomes our child and is met as well.
    """
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    while not _childless():
        for pid in _children(os.getpid(), None) or _descendants(os.getpid()):
            _send(pid, signal.SIGKILL)
        time.sleep(0.001)


def _childless() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main())
