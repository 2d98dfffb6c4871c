"""A git checkout becomes a plain copy of the files that matter, safe to hand to scanners.

The files are those that git tracks and those it neither tracks nor ignores. Git lists them inside
the sandbox with hooks, monitors and optional locks off, because a repository's own configuration
may name programs. The copy leaves out `.git` and every link, so no scanner starts git, leaves the
repository or sees a file change under it.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path, PurePosixPath

from penstock.contracts import AgentFailed, Limits, Sandbox, ToolCall

MAX_FILE_BYTES = 2 * 1024 * 1024
MAX_TOTAL_BYTES = 2 * 1024 * 1024 * 1024
MAX_FILES = 200_000
_PLACE = "/src"
_GIT_LIMITS = Limits(timeout_s=120, memory_mb=1024, processes=16, output_mb=64)
_GIT_CONFIG = {
    "safe.directory": "*",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.untrackedCache": "false",
    "core.quotePath": "false",
}


@dataclass(frozen=True)
class Listing:
    """What git says of a checkout."""

    commit: str
    paths: tuple[str, ...]


@dataclass
class Snapshot:
    """The copy that scanners see."""

    folder: Path
    names: dict[str, str] = field(default_factory=dict[str, str])
    """Path in the copy -> path as shown to people."""
    skipped: int = 0
    too_large: list[str] = field(default_factory=list[str])
    """Text files that are larger than what is scanned, as shown to people."""


def locate(path: str, workspace: Path) -> Path:
    """Find the checkout; a relative path is one inside the workspace.

    Raises:
        AgentFailed: It is missing, not a folder, bare, or not the root of a checkout.
    """
    if "\0" in path:
        raise AgentFailed("repository_path holds a NUL character")
    try:
        root = (workspace / path).resolve(strict=True)
        if not Path(path).is_absolute() and not root.is_relative_to(workspace.resolve()):
            raise AgentFailed(f"repository_path {shown(path)!r} leads out of the workspace")
        if not root.is_dir():
            raise AgentFailed(f"repository_path {shown(path)!r} is not a folder")
        _check_git(root, shown(path))
    except FileNotFoundError:
        raise AgentFailed(f"repository_path {shown(path)!r} does not exist") from None
    except (OSError, RuntimeError) as error:  # loops of links, unreadable parents, names too long
        reason = error.strerror if isinstance(error, OSError) else "it is a loop of links"
        raise AgentFailed(f"repository_path {shown(path)!r} cannot be read: {reason}") from None
    return root


def _check_git(root: Path, path: str) -> None:
    git = root / ".git"
    if git.is_symlink():
        raise AgentFailed(f"{path!r}: .git is a link; scan the checkout that it belongs to")
    if git.is_file():
        raise AgentFailed(f"{path!r} is a linked worktree or a submodule; scan the main checkout")
    if git.is_dir():
        return
    if (root / "HEAD").is_file() and (root / "objects").is_dir():
        raise AgentFailed(f"{path!r} is a bare repository without files; check it out first")
    raise AgentFailed(f"{path!r} is not the root of a git repository")


async def listing(sandbox: Sandbox, root: Path) -> Listing:
    """Ask git for the commit and the files.

    Raises:
        AgentFailed: The repository is damaged.
    """
    head = await _git(sandbox, root, ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], ok=(0, 1))
    files = await _git(sandbox, root, ["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    paths = {os.fsdecode(name) for name in files.split(b"\0") if name}
    return Listing(head.decode("ascii", "replace").strip(), tuple(sorted(paths)))


async def _git(sandbox: Sandbox, root: Path, arguments: Sequence[str], ok: tuple[int, ...] = (0,)) -> bytes:
    every = (*ok, 128)
    config = {"GIT_CONFIG_COUNT": str(len(_GIT_CONFIG))}
    for number, (key, value) in enumerate(_GIT_CONFIG.items()):
        config |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    result = await sandbox.run(
        ToolCall(
            ["git", f"--git-dir={_PLACE}/.git", f"--work-tree={_PLACE}", *arguments],
            readonly={root: _PLACE},
            cwd=_PLACE,
            env={"GIT_CONFIG_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0", **config},
            limits=_GIT_LIMITS,
            ok_codes=every,
        )
    )
    if result.exit_code not in ok:
        raise AgentFailed(
            "git cannot read the repository: its index, references or configuration are damaged"
        )
    return result.stdout


def take(
    root: Path, paths: Sequence[str], folder: Path, exclude: Sequence[str], stopped: Callable[[], bool]
) -> Snapshot:
    """Copy the files; blocks, so it runs in a thread.

    Args:
        stopped: Asked between files; the copy ends early when it says yes.
    Raises:
        AgentFailed: A file cannot be read, or there is too much.
    """
    folder.mkdir(parents=True)
    snapshot = Snapshot(folder)
    unreadable: list[str] = []
    total = 0
    for path in _files(root, paths):
        if stopped():
            break
        if _excluded(path, exclude):
            continue
        try:
            total += _copy(root, path, snapshot)
        except OSError as error:
            unreadable.append(f"{shown(path)} ({error.strerror})")
        if total > MAX_TOTAL_BYTES or len(snapshot.names) > MAX_FILES:
            raise AgentFailed("the repository is too large to scan; leave folders out with exclude")
    if unreadable:
        more = f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
        raise AgentFailed(f"files of the repository cannot be read: {', '.join(unreadable[:3])}{more}")
    return snapshot


def _files(root: Path, paths: Sequence[str]) -> Iterator[str]:
    """Give every path; a submodule or a nested repository gives the files inside it."""
    for path in paths:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or ".git" in parts:
            continue
        whole = root / path
        if whole.is_symlink() or not whole.is_dir():
            yield path
            continue
        for folder, folders, names in os.walk(whole):
            folders[:] = sorted(name for name in folders if name != ".git")
            inner = Path(folder).relative_to(root)
            yield from (str(inner / name) for name in sorted(names) if name != ".git")


def _excluded(path: str, patterns: Sequence[str]) -> bool:
    parts = PurePosixPath(path).parts
    prefixes = ["/".join(parts[: size + 1]) for size in range(len(parts))]
    return any(
        fnmatch.fnmatchcase(prefix, pattern.rstrip("/")) for prefix in prefixes for pattern in patterns
    )


def _copy(root: Path, path: str, snapshot: Snapshot) -> int:
    """Copy one file unless it is a link, special, binary or too large; return its size."""
    try:
        source = _open(root, path)
    except FileNotFoundError:
        return 0  # deleted, though git still tracks it
    if source is None:
        snapshot.skipped += 1
        return 0
    with source:
        data = source.read(MAX_FILE_BYTES + 1)
    if b"\0" in data[:8192]:
        snapshot.skipped += 1
        return 0
    if len(data) > MAX_FILE_BYTES:
        snapshot.too_large.append(shown(path))
        return 0
    name = path if _plain(path) else f"unprintable-{len(snapshot.names)}{_suffix(path)}"
    target = snapshot.folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    snapshot.names[name] = shown(path)
    return len(data)


def _open(root: Path, path: str) -> BufferedReader | None:
    """Open a regular file without following a link anywhere on its way; None for anything else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    *folders, name = PurePosixPath(path).parts
    if stat.S_ISLNK((root / path).lstat().st_mode):
        return None
    here = os.open(root, flags | os.O_DIRECTORY)
    try:
        for part in folders:
            below = os.open(part, flags | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        if not stat.S_ISREG(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
            return None
        return os.fdopen(os.open(name, flags, dir_fd=here), "rb")
    except NotADirectoryError:
        return None  # a folder on the way became a link
    finally:
        os.close(here)


def _plain(path: str) -> bool:
    return path.isprintable() and not any("\ud800" <= letter <= "\udfff" for letter in path)


def _suffix(path: str) -> str:
    suffix = PurePosixPath(path).suffix
    return suffix if suffix.isascii() and suffix[1:].isalnum() else ""


def shown(path: str) -> str:
    """Return a path fit to be shown: one line, printable, valid Unicode."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in path[:4096]
    )
