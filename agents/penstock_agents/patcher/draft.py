"""Make a commit beside the repository, which does not hear of it before everything is checked.

The commit is made in a bare repository of ours in the attempt's folder, which borrows the objects of
the other one. What is moved over in the end is one pack.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.contracts import AgentFailed
from penstock_agents.patcher import paths
from penstock_agents.patcher.applying import File
from penstock_agents.patcher.git import BESIDE, Git

_REF = "refs/heads/draft"
_GONE = ("000000", "")
_SHA1_LENGTH = 40
_KEEP_PACK = ("-c", "fastimport.unpackLimit=0")


@dataclass(frozen=True)
class Draft:
    """A commit that the repository does not have yet."""

    commit: str
    pack: bytes
    """Its objects, as git packs them."""


def blob_name(data: bytes, commit: str) -> str:
    """Return the name that git gives a file's content.

    Args:
        commit: Any object's name; its length says how the repository names objects.
    """
    named = b"blob %d\0" % len(data) + data
    return hashlib.new(_object_format(commit), named, usedforsecurity=False).hexdigest()


def _object_format(commit: str) -> str:
    return "sha1" if len(commit) == _SHA1_LENGTH else "sha256"


async def make(git: Git, workspace: Path, base: str, edits: Mapping[str, File | None], message: str) -> Draft:
    """Make a commit on top of another one.

    Args:
        workspace: Folder of this attempt.
        edits: Path -> the file as it becomes; None when it goes.
    Raises:
        AgentFailed: The commit would change something else than the edits say.
    """
    folder = workspace / "draft"
    folder.mkdir()
    names = f"--object-format={_object_format(base)}"
    await git.beside(folder, "init", "--quiet", "--bare", "--template=", names)
    marks = f"{BESIDE}/marks"
    stream = _stream(base, edits, message, int(time.time()))
    await git.beside(
        folder, *_KEEP_PACK, "fast-import", "--quiet", "--done", f"--export-marks={marks}", stdin=stream
    )
    commit = (folder / "marks").read_text().split()[1]
    await _check(git, folder, base, commit, edits)
    (pack,) = (folder / "objects" / "pack").glob("*.pack")
    return Draft(commit, pack.read_bytes())


def _stream(base: str, edits: Mapping[str, File | None], message: str, now: int) -> bytes:
    """Write the commit in the language of `git fast-import`; what goes comes first, to make room."""
    who = f"Penstock <penstock@localhost> {now} +0000"
    parts = [f"commit {_REF}\nmark :1\ncommitter {who}\n".encode(), _data(message.encode())]
    parts.append(f"from {base}\n".encode())
    parts += [f"D {paths.quote(path)}\n".encode() for path, file in edits.items() if file is None]
    for path, file in edits.items():
        if file is not None:
            parts += [f"M {file.mode} inline {paths.quote(path)}\n".encode(), _data(file.data)]
    return b"".join([*parts, b"done\n"])


def _data(data: bytes) -> bytes:
    return b"data %d\n%b\n" % (len(data), data)


async def _check(git: Git, folder: Path, base: str, commit: str, edits: Mapping[str, File | None]) -> None:
    """Compare what the commit changes with what it is to change, path by path."""
    raw = await git.beside(folder, "diff-tree", "-r", "-z", "--raw", "--no-renames", base, commit)
    fields = raw.decode("utf-8", "surrogateescape").split("\0")[:-1]
    changed = {path: _after(head) for head, path in zip(fields[::2], fields[1::2], strict=True)}
    wanted = {
        path: _GONE if file is None else (file.mode, blob_name(file.data, base))
        for path, file in edits.items()
    }
    if changed != wanted:
        strange = min(changed.items() ^ wanted.items())[0]
        raise AgentFailed(f"the commit would not change {strange!r} as the patch says; nothing was written")


def _after(head: str) -> tuple[str, str]:
    """Read the new mode and the new content's name from a line of `git diff-tree`."""
    _, mode, _, name, status = head.split(" ")
    return _GONE if status == "D" else (mode, name)
