"""The environment that holds the scanners, apart from Penstock's own because their pins disagree."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from penstock.errors import ToolFailed, ToolMissing
from penstock.sandbox.stderr import tail
from penstock.settings import Settings

TOOLS = ("bandit", "checkov", "detect-secrets", "radon", "semgrep")
"""Programs of the environment."""

_MEND = "run: penstock tools install"
_MARKER = "penstock-tools.sha256"
_TIMEOUT_S = 1800


def tools_dir(settings: Settings) -> Path:
    """Return the folder of the environment, whether or not it exists.

    Links are resolved: its scripts name their interpreter by one path, and the sandbox mounts one.
    """
    if settings.tools is not None:
        return settings.tools.expanduser().resolve()
    return Path(sys.prefix).resolve() / "penstock-tools"


def tool_path(name: str, folder: Path) -> Path:
    """Find one scanner.

    Raises:
        ToolMissing: It is not installed; the message says how to install it.
    """
    path = folder / "bin" / name
    if not path.is_file():
        raise ToolMissing(f"the scanner {name!r} is not installed; {_MEND}", details={"tool": name})
    return path


def authorities(folder: Path) -> Path:
    """Find the list of certificate authorities that came with the scanners."""
    found = sorted(folder.glob("lib/python*/site-packages/certifi/cacert.pem"))
    return found[0] if found else Path("/etc/ssl/certs/ca-certificates.crt")


def missing(folder: Path) -> tuple[str, ...]:
    """Name the scanners that are not installed."""
    return tuple(name for name in TOOLS if not (folder / "bin" / name).is_file())


def is_current(folder: Path) -> bool:
    """Say whether the environment was made from the requirements that this Penstock ships."""
    marker = folder / _MARKER
    return marker.is_file() and marker.read_text().strip() == _digest(requirements())


def requirements() -> Path:
    """Find the pinned requirements, in an installed package or in a checkout.

    Raises:
        ToolMissing: The package was built without them.
    """
    packaged = Path(__file__).with_name("scanners.txt")
    checkout = Path(__file__).parents[3] / "requirements" / "scanners.txt"
    for path in (packaged, checkout):
        if path.is_file():
            return path
    raise ToolMissing("this package lacks scanners.txt, the list of the scanners; install Penstock again")


def install(folder: Path, *, pins: Path | None = None, force: bool = False) -> Path:
    """Create the environment, or replace one made from other requirements; it is never half made.

    Args:
        pins: Requirements with hashes; unset means the shipped ones.
        force: Make it again even if it is current.
    Raises:
        ToolFailed: The packages could not be installed; an older environment stays as it was.
    """
    source = pins or requirements()
    folder = folder.expanduser().resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        marker = folder / _MARKER
        if not force and marker.is_file() and marker.read_text().strip() == _digest(source):
            return folder
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _fill(fresh, source)
            _rehome(fresh, folder)
            (fresh / _MARKER).write_text(_digest(source) + "\n")
            _swap(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _lock(folder: Path) -> Generator[None]:
    """Let one process at a time install; the lock goes with the process."""
    with (folder.parent / f".{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fill(folder: Path, pins: Path) -> None:
    uv = shutil.which("uv")
    python = str(folder / "bin" / "python")
    if uv:
        _do([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        _do([uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", str(pins)])
        return
    _do([sys.executable, "-m", "venv", "--clear", str(folder)])
    _do([python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(pins)])


def _do(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode:
        what = " ".join(map(os.path.basename, command[:3]))
        raise ToolFailed(
            f"the scanners could not be installed: {what} ended with code {done.returncode}:"
            f" {tail(done.stderr)}"
        )


def _rehome(fresh: Path, folder: Path) -> None:
    """Write the final path into the scripts, which name their interpreter by its absolute path."""
    old, new = os.fsencode(fresh), os.fsencode(folder)
    for script in (fresh / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        data = script.read_bytes()
        if old in data and b"\0" not in data:
            script.write_bytes(data.replace(old, new))


def _swap(fresh: Path, folder: Path) -> None:
    fresh.chmod(0o755)
    if not folder.exists():
        fresh.rename(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    folder.rename(aside / "old")
    fresh.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)
