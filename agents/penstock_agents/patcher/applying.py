"""Apply a diff to the content of files: bytes in, bytes out, no file system and no git.

Every old line must be there, unchanged. A hunk goes where the diff says; when the file has moved
meanwhile, each of its hunks must fit in exactly one place. Nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from penstock_agents.patcher.diff import PLAIN, FilePatch, Hunk


@dataclass(frozen=True)
class File:
    """A regular file: its mode as git writes it, and its content."""

    mode: str
    data: bytes


@dataclass(frozen=True)
class Obstacle:
    """Something that stands under a path and is not to be patched."""

    what: str
    """`is a symbolic link`, `is a folder` and the like."""


FOLDER = Obstacle("is a folder")

Tree = Mapping[str, File | Obstacle]
"""What stands under each path that a diff touches, and in the folders above; absent means nothing."""


@dataclass(frozen=True)
class Conflict:
    """Why a diff cannot be applied; never quotes a line."""

    file: str
    """Path; empty when it is about the whole branch."""
    reason: str
    already: bool = False
    """Whether the change is there already."""


@dataclass
class Applied:
    """What a diff makes of a tree."""

    edits: dict[str, File | None] = field(default_factory=dict[str, File | None])
    """Path -> the file as it becomes; None when it goes."""
    conflicts: list[Conflict] = field(default_factory=list[Conflict])
    notes: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Path -> what is worth knowing, such as hunks that moved."""


class _Conflict(Exception):  # noqa: N818  it becomes a value of that name
    pass


def apply(patch: Sequence[FilePatch], tree: Tree) -> Applied:
    """Apply a diff to a tree, file by file, and collect every conflict."""
    result = Applied()
    leaving = _leaving(patch)
    for item in patch:
        try:
            edits, notes = _apply_one(item, tree, leaving)
        except _Conflict as conflict:
            already = _is_done(item, tree)
            reason = "the change is there already" if already else str(conflict)
            result.conflicts.append(Conflict(item.path, reason, already=already))
        else:
            # One file may go to where another one comes from.
            gone = {path for path, file in edits.items() if file is None} & result.edits.keys()
            result.edits |= {path: file for path, file in edits.items() if path not in gone}
            result.notes[item.path] = notes
    return result


def _leaving(patch: Sequence[FilePatch]) -> frozenset[str]:
    return frozenset(item.old for item in patch if item.old is not None and item.old != item.new)


def _is_done(item: FilePatch, tree: Tree) -> bool:
    back = item.reversed()
    try:
        _apply_one(back, tree, _leaving([back]))
    except _Conflict:
        return False
    return True


def _apply_one(
    item: FilePatch, tree: Tree, leaving: frozenset[str]
) -> tuple[dict[str, File | None], list[str]]:
    before = _before(item, tree)
    if item.new is not None and item.new != item.old:
        _check_free(item.new, tree, leaving)
    data, notes = _placed(before.data, item.hunks)
    if item.new is None and data:
        raise _Conflict("it holds more than the patch deletes")
    edits: dict[str, File | None] = {item.old: None} if item.old in leaving else {}
    if item.new is not None:
        edits[item.new] = File(item.new_mode or before.mode, data)
    return edits, notes


def _before(item: FilePatch, tree: Tree) -> File:
    if item.old is None:
        return File(item.new_mode or PLAIN, b"")
    found = tree.get(item.old)
    if found is None:
        raise _Conflict("it is not there")
    if isinstance(found, Obstacle):
        raise _Conflict(f"it {found.what}")
    if item.new is not None and item.old_mode not in {None, found.mode}:
        raise _Conflict(f"its mode is {found.mode}, not {item.old_mode}")
    return found


def _check_free(path: str, tree: Tree, leaving: frozenset[str]) -> None:
    """Check that a new file has its place: nothing there, and no file where it needs a folder."""
    found = tree.get(path)
    if found is not None and path not in leaving:
        what = f"it {found.what}" if isinstance(found, Obstacle) else "it exists already"
        raise _Conflict(what)
    for parent in map(str, PurePosixPath(path).parents):
        above = tree.get(parent)
        if above is not None and parent not in leaving and above != FOLDER:
            raise _Conflict(f"{parent!r} is not a folder")


def _placed(data: bytes, hunks: Sequence[Hunk]) -> tuple[bytes, list[str]]:
    """Put hunks into a file; return its new content and which hunks went to another place."""
    starts = [0, *(match.end() for match in re.finditer(b"\n", data))]
    stated = [_stated(data, hunk, starts) for hunk in hunks]
    places = [place for place in stated if place is not None]
    if len(places) < len(hunks):
        places = _searched(data, hunks)
    pieces: list[bytes] = []
    notes: list[str] = []
    end = 0
    for number, (hunk, place) in enumerate(zip(hunks, places, strict=True), 1):
        pieces += [data[end:place], hunk.new]
        end = place + len(hunk.old)
        if place != stated[number - 1]:
            line = data.count(b"\n", 0, place) + 1
            notes.append(f"hunk {number} goes to line {line}")
    return b"".join([*pieces, data[end:]]), notes


def _stated(data: bytes, hunk: Hunk, starts: Sequence[int]) -> int | None:
    """Return the offset of the line that a hunk names, if the hunk fits there."""
    index = hunk.old_start - 1 if hunk.old else hunk.old_start
    if index >= len(starts) or not data.startswith(hunk.old, starts[index]):
        return None
    return starts[index] if _fits(data, hunk, starts[index]) else None


def _searched(data: bytes, hunks: Sequence[Hunk]) -> list[int]:
    places: list[int] = []
    end = 0
    for number, hunk in enumerate(hunks, 1):
        found = _places(data, hunk, end)
        if len(found) != 1:
            how = "fits in several places" if found else "does not fit: its old lines are not there"
            raise _Conflict(f"hunk {number} (line {hunk.old_start}) {how}")
        places.append(found[0])
        end = found[0] + len(hunk.old)
    return places


def _places(data: bytes, hunk: Hunk, start: int) -> list[int]:
    """Return the first two offsets at which a hunk fits."""
    found: list[int] = []
    at = data.find(hunk.old, start)
    while at >= 0 and len(found) < 2:
        if _fits(data, hunk, at):
            found.append(at)
        at = data.find(hunk.old, at + 1) if hunk.old else -1
    return found


def _fits(data: bytes, hunk: Hunk, at: int) -> bool:
    """Say whether a hunk whose old lines stand at an offset may go there.

    They must be whole lines. Where no context comes before or after the change, the file must
    begin or end there, as it did when the diff was made. A hunk without old lines says nothing of
    its place, so it fits into an empty file only.
    """
    if not hunk.old:
        return not data
    end = at + len(hunk.old)
    whole = (at == 0 or data[at - 1 : at] == b"\n") and (hunk.old.endswith(b"\n") or end == len(data))
    return whole and not (hunk.at_start and at) and not (hunk.at_end and end != len(data))
