"""What every backend does alike: check a call, find its program, judge how it ended."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from penstock.contracts import Limits, ToolCall, ToolResult
from penstock.errors import SandboxError, ToolFailed, ToolKilled, ToolMissing
from penstock.sandbox import tools
from penstock.sandbox.process import Outcome
from penstock.sandbox.stderr import tail

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RESERVED = ("bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "tmp", "usr")
_SIGKILL, _SIGXCPU, _SIGXFSZ = 128 + 9, 128 + 24, 128 + 25


def check(call: ToolCall) -> None:
    """Refuse a call that could cover the sandbox's own folders or names files that are not there.

    Raises:
        SandboxError: A mount is wrong, or there is no program.
    """
    if not call.argv or any("\0" in part for part in (*call.argv, *call.env, *call.env.values())):
        raise SandboxError("a tool call needs a program, and no NUL characters in its arguments")
    for source, inside in (*call.readonly.items(), *call.writable.items()):
        path = PurePosixPath(inside)
        if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
            raise SandboxError(f"a mount's place inside must be an absolute path below /, not {inside!r}")
        if path.parts[1] in _RESERVED:
            raise SandboxError(f"a mount must not cover /{path.parts[1]}, as {inside!r} does")
        if not source.exists():
            raise SandboxError(f"cannot mount {source.name!r}: it does not exist")


def program(call: ToolCall, folder: Path) -> str:
    """Find the program of a call: a scanner, a system program or a path inside the sandbox.

    Raises:
        ToolMissing: It is not installed.
    """
    name = call.argv[0]
    if "/" in name:
        return name
    if name in tools.TOOLS:
        return str(tools.tool_path(name, folder))
    found = shutil.which(name, path=_SYSTEM_PATH)
    if found is None:
        raise ToolMissing(f"{name!r} is not installed: install it with the system's package manager")
    return found


def environment(call: ToolCall, folder: Path, home: str) -> dict[str, str]:
    """Build the whole environment of a tool; nothing of ours gets in."""
    # Some tools refuse to start without a list of authorities, even to do nothing with it.
    authorities = {} if call.network else {"SSL_CERT_FILE": str(tools.authorities(folder))}
    return {
        **authorities,
        "PATH": f"{folder / 'bin'}:{_SYSTEM_PATH}",
        "HOME": home,
        "TMPDIR": home,
        "USER": "nobody",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        **call.env,
    }


def judge(call: ToolCall, outcome: Outcome) -> ToolResult:
    """Turn an outcome into a result or the error it stands for.

    Raises:
        ToolKilled: A limit ended it.
        ToolFailed: Its exit code is not among `ok_codes`.
    """
    name = PurePosixPath(call.argv[0]).name
    reason = outcome.reason or _by_signal(outcome.code)
    if reason:
        raise ToolKilled(
            f"{name} was killed: {_limit(reason, call.limits)}",
            details={"tool": name, "limit": reason, "duration_s": round(outcome.duration_s, 3)},
        )
    if outcome.code not in call.ok_codes:
        last = tail(outcome.stderr)
        raise ToolFailed(
            f"{name} ended with exit code {outcome.code}" + (f": {last}" if last else ""),
            details={"tool": name, "exit_code": outcome.code},
        )
    return ToolResult(outcome.code, outcome.stdout, outcome.stderr, outcome.duration_s)


def _by_signal(code: int) -> str:
    return {_SIGKILL: "signal", _SIGXCPU: "cpu", _SIGXFSZ: "file"}.get(code, "")


def _limit(reason: str, limits: Limits) -> str:
    sentences: Mapping[str, str] = {
        "time": f"it ran longer than {limits.timeout_s:g} s",
        "memory": f"it held more than {limits.memory_mb} MB of memory",
        "processes": f"it had more than {limits.processes} processes",
        "output": f"it wrote more than {limits.output_mb} MB of output",
        "cpu": "it used up its processor time",
        "file": f"it wrote a file larger than {limits.file_mb} MB",
        "stopped": "it was stopped",
        "supervisor": "its supervisor was killed",
        "signal": "the system killed it, most likely because memory ran out",
    }
    return sentences[reason]
