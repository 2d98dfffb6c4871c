"""The bubblewrap backend: namespaces of its own, an empty root, and the supervisor around it."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from penstock.contracts import Limits, ToolCall, ToolResult
from penstock.errors import SandboxUnavailable, ToolMissing
from penstock.sandbox import calls
from penstock.sandbox.process import Outcome, supervise

_MEND = "run: apt-get install bubblewrap"
_MEND_USERNS = (
    "allow user namespaces (sysctl user.max_user_namespaces=15000, and on Ubuntu 24.04 or newer"
    " sysctl kernel.apparmor_restrict_unprivileged_userns=0); inside a container run it with"
    " --security-opt seccomp=unconfined"
)
_NOBODY = "65534"
_ETC = ("/etc/ld.so.cache", "/etc/alternatives")
_ETC_NETWORK = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/ssl/certs",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
)
_ROOTS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


def find() -> Path:
    """Find the `bwrap` program.

    Raises:
        SandboxUnavailable: It is not installed.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxUnavailable(f"bubblewrap is not installed; {_MEND}")
    return Path(found)


class BubblewrapSandbox:
    """Runs each tool in new user, process, network, IPC, host name and cgroup namespaces.

    The tool sees the system's programs and libraries, the scanners' environment, its own mounts,
    a private `/tmp`, `/dev` and `/proc`, and nothing else. It is nobody and has no capability.

    Args:
        bwrap: The program.
        tools: Folder of the scanners' environment; it need not exist.
    """

    name = "bubblewrap"

    def __init__(self, bwrap: Path, tools: Path) -> None:
        self.bwrap = bwrap
        self.tools = tools

    async def run(self, call: ToolCall) -> ToolResult:
        """Run one tool to its end; see `penstock.contracts.Sandbox`."""
        calls.check(call)
        program = calls.program(call, self.tools)
        outcome = await supervise(
            [*self.arguments(call), "--", program, *call.argv[1:]],
            env=calls.environment(call, self.tools, "/tmp"),  # noqa: S108  private to the sandbox
            cwd="/",
            stdin=call.stdin,
            limits=call.limits,
        )
        _check_setup(outcome)
        return calls.judge(call, outcome)

    def arguments(self, call: ToolCall) -> list[str]:
        """Build the command line up to the program; the environment is passed on, not listed."""
        sizes = _knows(self.bwrap, "--size")
        return [
            str(self.bwrap),
            *("--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY),
            *(["--disable-userns"] if _knows(self.bwrap, "--disable-userns") else []),
            *("--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"),
            *([] if call.network else ["--unshare-net"]),
            *("--hostname", "sandbox", "--die-with-parent", "--new-session"),
            *_system(network=call.network),
            *("--proc", "/proc", "--dev", "/dev"),
            *_scratch(call.limits, sizes=sizes),
            *_interpreters(self.tools),
            *_mounts(call.readonly, "--ro-bind"),
            *_mounts(call.writable, "--bind"),
            *("--remount-ro", "/dev", "--remount-ro", "/"),
            *("--chdir", call.cwd),
        ]


def _system(*, network: bool) -> Iterator[str]:
    yield from ("--ro-bind", "/usr", "/usr")
    for root in map(Path, _ROOTS):
        if root.is_symlink():
            yield from ("--symlink", str(root.readlink()), str(root))
        elif root.is_dir():
            yield from ("--ro-bind", str(root), str(root))
    for path in _ETC + (_ETC_NETWORK if network else ()):
        yield from ("--ro-bind-try", path, path)


def _interpreters(tools: Path) -> Iterator[str]:
    """Mount the scanners' environment and the Python it was made from, under their own paths."""
    if not tools.is_dir():
        return
    yield from ("--ro-bind", str(tools), str(tools))
    homes = [Path(tools / "bin" / "python").resolve().parent, _home_of(tools)]
    for home in dict.fromkeys(homes):
        if home is None or home.parts[:2] == ("/", "usr") or home.parts[:2] == ("/", "bin"):
            continue
        # Only these two: the prefix of a Python may be somebody's home folder.
        for part in (home, home.parent / "lib"):
            yield from ("--ro-bind-try", str(part), str(part))


def _home_of(tools: Path) -> Path | None:
    config = tools / "pyvenv.cfg"
    for line in config.read_text().splitlines() if config.is_file() else []:
        key, _, value = line.partition("=")
        if key.strip() == "home":
            return Path(value.strip())
    return None


def _scratch(limits: Limits, *, sizes: bool) -> Iterator[str]:
    for path, size_mb in (("/tmp", limits.file_mb), ("/dev/shm", 64)):  # noqa: S108  inside the sandbox
        yield from ["--size", str(size_mb * 1024 * 1024)] if sizes else []
        yield from ("--tmpfs", path)


def _mounts(paths: Mapping[Path, str], option: str) -> Iterator[str]:
    for source, inside in sorted(paths.items(), key=lambda item: item[1].count("/")):
        yield from (option, str(source.resolve()), inside)


@functools.cache
def _knows(bwrap: Path, option: str) -> bool:
    """Say whether this bubblewrap has an option; older ones lack some."""
    done = subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False, timeout=10)
    return f" {option} " in done.stdout + done.stderr


def _check_setup(outcome: Outcome) -> None:
    """Tell a sandbox that could not be set up from a tool that failed in it."""
    first = outcome.stderr[:400].decode("utf-8", "replace").partition("\n")[0]
    if outcome.reason or not first.startswith(("bwrap: ", "supervisor: ")):
        return
    cause = first.partition(": ")[2]
    if cause.startswith(("execvp", "cannot start")):
        raise ToolMissing(f"the program could not be started: {cause}")
    denied = any(word in cause for word in ("namespace", "Operation not permitted", "setting up uid map"))
    mend = f"; {_MEND_USERNS}" if denied else ""
    raise SandboxUnavailable(f"the sandbox could not be set up: {cause}{mend}", details={"cause": cause})
