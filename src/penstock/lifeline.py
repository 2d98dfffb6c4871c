"""How a child process is tied to the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["die_with_parent", "report_ready"]

READY_FD = "PENSTOCK_READY_FD"
PARENT_PID = "PENSTOCK_PARENT_PID"

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends, even if it is killed.

    Does nothing in a process that was not started by a stack, and where there is no Linux.
    """
    parent = os.environ.pop(PARENT_PID, "")
    if not parent or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def report_ready() -> None:
    """Tell the stack that started this process that it can do its work."""
    if fd := os.environ.pop(READY_FD, ""):
        os.write(int(fd), b"1")
        os.close(int(fd))
