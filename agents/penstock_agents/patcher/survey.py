"""Look at a repository, without changing it: can this patch be applied to that branch?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from penstock.contracts import AgentFailed
from penstock_agents.patcher.applying import FOLDER, Applied, Conflict, File, Obstacle, Tree, apply
from penstock_agents.patcher.diff import EXECUTABLE, PLAIN, FilePatch
from penstock_agents.patcher.git import PLACE, Git

MAX_FILE_BYTES = 5 * 1024 * 1024
MAX_TOTAL_BYTES = 50 * 1024 * 1024
HEADS = "refs/heads/"
_FIELDS = ("refname", "objectname", "symref", "worktreepath", "HEAD")
_FORMAT = "".join(f"%({field})%00" for field in _FIELDS)
_UNDER_WAY = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply")


@dataclass(frozen=True)
class Branch:
    """A branch as it is now."""

    name: str
    commit: str
    checked_out: bool
    """Whether the files under the root are those of this branch."""
    trouble: str
    """Why it cannot be moved; empty when it can."""
    heads: Mapping[str, str]
    """Every branch of the repository, by name, with its commit."""

    @property
    def ref(self) -> str:
        """The full name."""
        return HEADS + self.name


@dataclass(frozen=True)
class Survey:
    """What a patch would do to a branch."""

    branch: Branch
    patch: Sequence[FilePatch]
    tree: Tree
    applied: Applied
    conflicts: Sequence[Conflict]

    @property
    def edits(self) -> Mapping[str, File | None]:
        """Path -> the file as it becomes; None when it goes."""
        return self.applied.edits


async def survey(git: Git, branch: Branch, patch: Sequence[FilePatch]) -> Survey:
    """Try a patch on a branch and collect every conflict."""
    found = await tree(git, branch.commit, patch)
    applied = await asyncio.to_thread(apply, patch, found)
    conflicts = list(applied.conflicts)
    if branch.trouble:
        conflicts.append(Conflict("", branch.trouble))
    if branch.checked_out:
        known = {conflict.file for conflict in conflicts}
        conflicts += [item for item in await _working_tree(git, patch) if item.file not in known]
    return Survey(branch, patch, found, applied, conflicts)


async def find_branch(git: Git, name: str) -> Branch:
    """Find a branch.

    Raises:
        AgentFailed: There is none of that name; the message lists those that there are.
    """
    listed = (await git.read("for-each-ref", f"--format={_FORMAT}", HEADS)).decode("utf-8", "replace")
    values = [value.removeprefix("\n") for value in listed.split("\0")]
    rows = [values[start : start + len(_FIELDS)] for start in range(0, len(values) - 1, len(_FIELDS))]
    heads = {ref.removeprefix(HEADS): commit for ref, commit, *_ in rows}
    if name not in heads:
        shown = sorted(heads)[:10]
        there = f"there are {', '.join(shown)}" if shown else "it has no commit yet"
        raise AgentFailed(f"the repository has no branch {name!r}; {there}", details={"branches": shown})
    row = next(row for row in rows if row[0] == HEADS + name)
    checked_out = git.files and row[4] == "*"
    trouble = await asyncio.to_thread(_trouble, git, row, checked_out)
    return Branch(name, heads[name], checked_out, trouble, heads)


def _trouble(git: Git, row: Sequence[str], checked_out: bool) -> str:
    ref, _, link, place, _ = row
    if link:
        return f"the branch is another name for {link.removeprefix(HEADS)}; patch that one"
    if place and place not in {PLACE, str(git.root)}:
        return f"the branch is checked out in another working tree, {place}"
    folder = git.root / git.folder
    if checked_out and (folder / "index.lock").exists():
        return "another program is changing the working tree (index.lock)"
    if checked_out and any((folder / name).exists() for name in _UNDER_WAY):
        return "a merge, a rebase or the like is under way in the working tree"
    if any(_begins(folder / name / "head-name", ref) for name in ("rebase-merge", "rebase-apply")):
        return "the branch is being rebased"
    return ""


def _begins(file: Path, line: str) -> bool:
    """Say whether a line is the first of a file."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(line.encode()) + 1).rstrip() == line.encode()


async def tree(git: Git, commit: str, patch: Sequence[FilePatch]) -> dict[str, File | Obstacle]:
    """Read what a commit has under the paths of a patch and in the folders above.

    Raises:
        AgentFailed: It is too much to read.
    """
    touched = {path for item in patch for path in item.paths}
    above = {str(parent) for path in touched for parent in PurePosixPath(path).parents} - {"."}
    listed = await git.read("ls-tree", "-z", "-l", "-t", commit, "--", *sorted(touched | above))
    found: dict[str, File | Obstacle] = {}
    wanted: dict[str, tuple[str, str]] = {}
    total = 0
    for line in listed.split(b"\0")[:-1]:
        head, _, name = line.partition(b"\t")
        mode, kind, blob, size = head.decode().split()
        path = _decoded(name)
        if kind == "blob" and not size.isdigit():
            raise AgentFailed(f"the repository lacks the content of {path!r}; fetch it, or repair it")
        obstacle = _obstacle(mode, kind, size, touched=path in touched)
        if obstacle is not None:
            found[path] = obstacle
            continue
        wanted[path] = (EXECUTABLE if int(mode, 8) & 0o100 else PLAIN), blob
        total += int(size)
    if total > MAX_TOTAL_BYTES:
        raise AgentFailed(f"the files of the patch have {total:,} bytes; the limit is {MAX_TOTAL_BYTES:,}")
    blobs = await _blobs(git, [blob for _, blob in wanted.values()])
    return found | {path: File(mode, blobs[blob]) for path, (mode, blob) in wanted.items()}


def _obstacle(mode: str, kind: str, size: str, *, touched: bool) -> Obstacle | None:
    if kind == "tree":
        return FOLDER
    if kind == "commit":
        return Obstacle("is a submodule")
    if mode == "120000":
        return Obstacle("is a symbolic link")
    if not touched:
        return Obstacle("is a file")
    return Obstacle(f"has more than {MAX_FILE_BYTES:,} bytes") if int(size) > MAX_FILE_BYTES else None


async def _blobs(git: Git, names: Sequence[str]) -> dict[str, bytes]:
    """Read the content of blobs."""
    if not names:
        return {}
    data = await git.read("cat-file", "--batch", stdin="".join(f"{name}\n" for name in names).encode())
    blobs: dict[str, bytes] = {}
    at = 0
    for name in names:
        end = data.index(b"\n", at)
        size = int(data[at:end].split()[2])
        blobs[name] = data[end + 1 : end + 1 + size]
        at = end + size + 2
    return blobs


async def _working_tree(git: Git, patch: Sequence[FilePatch]) -> list[Conflict]:
    """Find what in the working tree would be lost, or would not become what the commit says."""
    touched = sorted({path for item in patch for path in item.paths})
    options = ("--porcelain", "-z", "--no-renames", "--untracked-files=no", "--ignore-submodules=all")
    status = await git.read("status", *options, "--", *touched)
    changed = {_decoded(entry[3:]) for entry in status.split(b"\0") if entry}
    attributes = await git.read(
        "check-attr", "-z", "--stdin", "filter", stdin="\0".join(touched).encode() + b"\0"
    )
    fields = [_decoded(field) for field in attributes.split(b"\0")[:-1]]
    filters = dict(zip(fields[::3], fields[2::3], strict=True))
    in_the_way = await asyncio.to_thread(lambda: dict(_in_the_way(git.root, patch)))
    conflicts: list[Conflict] = []
    for path in touched:
        if path in changed:
            conflicts.append(Conflict(path, "it has changes in the working tree that are not committed"))
        elif path in in_the_way:
            conflicts.append(Conflict(path, in_the_way[path]))
        elif filters[path] not in {"unspecified", "unset"}:
            reason = f"the working tree has it through the filter {filters[path]!r}, which is not run here"
            conflicts.append(Conflict(path, reason))
    return conflicts


def _decoded(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _in_the_way(root: Path, patch: Sequence[FilePatch]) -> Iterator[tuple[str, str]]:
    """Name the new files whose place in the working tree is taken by something git does not know."""
    leaving = {item.old for item in patch}
    for item in patch:
        if item.new is None or item.new in leaving:
            continue
        if os.path.lexists(root / item.new):
            yield item.new, "a file that git does not track is there in the working tree"
        for parent in PurePosixPath(item.new).parents:
            above = root / parent
            if (
                str(parent) not in leaving
                and os.path.lexists(above)
                and (above.is_symlink() or not above.is_dir())
            ):
                yield item.new, f"{str(parent)!r} is not a folder in the working tree"
