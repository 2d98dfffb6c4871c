"""Read a unified diff strictly: what is not understood is an error that names the line.

Taken are diffs of git and plain diffs, with the prefixes `a/` and `b/` or without. Text before
the first file and the version after the last one are left out. Refused are binary changes,
symbolic links, submodules, copies, and paths that lead anywhere but into the repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from penstock_agents.patcher import paths
from penstock_agents.patcher.diff import EXECUTABLE, NULL, PLAIN, FilePatch, Hunk

MAX_FILES = 500
MAX_HUNKS = 5000
_GIT = "diff --git "
_HEADER = re.compile(
    r"(old mode|new mode|deleted file mode|new file mode|copy from|copy to|rename from|rename to"
    r"|similarity index|dissimilarity index|index) (.*)"
)
_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(?: (.*))?")
_BETWEEN = re.compile(r"|Index: .*|={10,}|diff -(?!-git ).*")
"""Lines that other programs write between files: empty, names and rules of svn, commands of diff."""
_REFUSED = {"120": "symbolic links are not taken", "160": "submodules are not taken"}


class PatchError(ValueError):
    """A diff cannot be used; the message names the line, counted from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")


class _Lines:
    """The lines of a diff, read from the first to the last."""

    def __init__(self, text: str) -> None:
        self._lines = text.removesuffix("\n").split("\n")
        self._next = 0

    @property
    def number(self) -> int:
        """Number of the line that comes next."""
        return self._next + 1

    @property
    def ended(self) -> bool:
        """Whether every line was taken."""
        return self._next >= len(self._lines)

    def peek(self, ahead: int = 0) -> str:
        """Look at a line that comes; empty after the last one."""
        place = self._next + ahead
        return self._lines[place] if place < len(self._lines) else ""

    def take(self) -> str:
        """Take the next line."""
        line = self.peek()
        self._next += 1
        return line

    @property
    def at_file(self) -> bool:
        """Whether a file begins here."""
        return self.peek().startswith(_GIT) or (
            self.peek().startswith("--- ") and self.peek(1).startswith("+++ ")
        )

    @property
    def at_signature(self) -> bool:
        """Whether nothing follows but the version of git under two dashes."""
        return self.peek() in {"-- ", "--"} and not any(self._lines[self._next + 2 :])


def parse(text: str) -> tuple[FilePatch, ...]:
    """Read a diff.

    Raises:
        PatchError: It is malformed, too large, or does something that is refused.
    """
    lines = _Lines(text)
    while not lines.ended and not lines.at_file:
        lines.take()
    if lines.ended:
        raise PatchError(1, "there is no diff here: no line begins with 'diff --git' or '---'")
    found: list[tuple[int, FilePatch]] = []
    while not lines.ended and not lines.at_signature:
        if lines.at_file:
            found.append((lines.number, _file(lines)))
            _check_size(lines.number, found)
        elif not _BETWEEN.fullmatch(lines.peek()):
            raise PatchError(lines.number, "this belongs to no file; is a number in the hunk above wrong?")
        else:
            lines.take()
    _check_together(found)
    return tuple(item for _, item in found)


def _check_size(number: int, found: Sequence[tuple[int, FilePatch]]) -> None:
    if len(found) > MAX_FILES or sum(len(item.hunks) for _, item in found) > MAX_HUNKS:
        raise PatchError(number, f"the diff has more than {MAX_FILES} files or {MAX_HUNKS} hunks")


def _check_together(found: Sequence[tuple[int, FilePatch]]) -> None:
    """Refuse a diff that touches one path twice, or needs one name for a file and a folder."""
    for side in ("old", "new"):
        seen: set[str] = set()
        for number, item in found:
            path = getattr(item, side)
            if path in seen:
                raise PatchError(number, f"the file {path!r} is changed twice")
            seen |= {path} if path is not None else set()
    after = {item.new for _, item in found}
    for number, item in found:
        parents = [str(parent) for parent in PurePosixPath(item.new or "").parents]
        if clash := after.intersection(parents):
            raise PatchError(number, f"{clash.pop()!r} cannot be both a file and a folder")


def _file(lines: _Lines) -> FilePatch:
    number = lines.number
    if lines.peek().endswith("\r"):
        raise PatchError(number, "the diff itself has Windows line ends")
    try:
        item = _git_file(lines) if lines.peek().startswith(_GIT) else _plain_file(lines)
        for path in item.paths:
            paths.check(path)
        _check_hunks(item)
    except PatchError:
        raise
    except ValueError as error:
        raise PatchError(number, str(error)) from None
    return item


def _plain_file(lines: _Lines) -> FilePatch:
    old, new = _stripped(*_sides(lines))
    if old != new and NULL not in {old, new}:
        raise ValueError(f"the names {old[:200]!r} and {new[:200]!r} differ; use the prefixes a/ and b/")
    hunks = _hunks(lines)
    if old == NULL:
        return FilePatch(None, new, hunks, new_mode=PLAIN)
    if new == NULL:
        return FilePatch(old, None, hunks, old_mode=PLAIN)
    return FilePatch(old, new, hunks)


def _git_file(lines: _Lines) -> FilePatch:
    text = lines.take().removeprefix(_GIT)
    headers = _headers(lines)
    sides = _sides(lines) if lines.at_file and not lines.peek().startswith(_GIT) else None
    old, new = _names(text, headers)
    created, deleted = headers.get("new file mode"), headers.get("deleted file mode")
    if bool(created) + bool(deleted) + ("rename from" in headers) > 1:
        raise ValueError("a file is created, deleted or renamed, and only one of them")
    for first, second in ((f"a/{old}", f"b/{new}"), (old, new)):
        expected = (NULL if created else first, NULL if deleted else second)
        if _says(text, first, second) and sides in {None, expected}:
            break
    else:
        raise ValueError("the names of the file cannot be read, or contradict each other")
    hunks = _hunks(lines) if sides else ()
    old_mode, new_mode = headers.get("old mode"), headers.get("new mode")
    if (old_mode is None) != (new_mode is None) or (old_mode and (created or deleted)):
        raise ValueError("a change of mode needs an old and a new mode, and a file that stays")
    return FilePatch(
        None if created else old, None if deleted else new, hunks, deleted or old_mode, created or new_mode
    )


def _headers(lines: _Lines) -> dict[str, str]:
    """Read the lines between `diff --git` and `---`."""
    headers: dict[str, str] = {}
    while not lines.ended and not lines.at_file:
        number, line = lines.number, lines.peek()
        if line.startswith(("GIT binary patch", "Binary files ")):
            raise PatchError(number, "binary changes are not taken")
        match = _HEADER.fullmatch(line)
        if match is None:
            break
        key, value = match.groups()
        if key in headers:
            raise PatchError(number, f"{key!r} stands twice")
        if key.startswith("copy"):
            raise PatchError(number, "copies are not taken; make the diff without -C")
        headers[key] = value
        _check_mode(number, key, value)
        lines.take()
    return headers


def _check_mode(number: int, key: str, value: str) -> None:
    mode = value.partition(" ")[2] if key == "index" else value if key.endswith("mode") else ""
    if mode and mode not in {PLAIN, EXECUTABLE}:
        raise PatchError(
            number, _REFUSED.get(mode[:3], f"the mode {mode[:20]!r} is not {PLAIN} or {EXECUTABLE}")
        )


def _names(text: str, headers: Mapping[str, str]) -> tuple[str, str]:
    """Find the names before and after: those of a rename, or the one that `diff --git` says twice."""
    if ("rename from" in headers) != ("rename to" in headers):
        raise ValueError("a rename needs both names")
    if "rename from" in headers:
        return paths.read(headers["rename from"])[0], paths.read(headers["rename to"])[0]
    if text.startswith('"'):
        old, rest = paths.read(text)
        return _stripped(old, paths.read(rest.removeprefix(" "))[0])
    half = len(text) // 2
    return _stripped(text[:half], text[half + 1 :])


def _says(text: str, old: str, new: str) -> bool:
    """Whether these two names are what stands behind `diff --git`; the blank between them is not marked."""
    rest = _after(text, old)
    return rest is not None and rest.startswith(" ") and _after(rest[1:], new) == ""


def _after(text: str, name: str) -> str | None:
    """Return what follows a name, in quotes or not; None when another name stands there."""
    if text.startswith('"'):
        found, rest = paths.read(text)
        return rest if found == name else None
    return text.removeprefix(name) if text.startswith(name) else None


def _stripped(old: str, new: str) -> tuple[str, str]:
    """Take off the prefixes `a/` and `b/` when both names carry them; `/dev/null` stands for either."""
    if (old == NULL or old.startswith("a/")) and (new == NULL or new.startswith("b/")):
        return old.removeprefix("a/"), new.removeprefix("b/")
    return old, new


def _sides(lines: _Lines) -> tuple[str, str]:
    """Read the names of `---` and `+++`, which a date may follow after a tab."""
    names: list[str] = []
    for mark in ("--- ", "+++ "):
        number = lines.number
        try:
            names.append(paths.read(lines.take().removeprefix(mark))[0])
        except ValueError as error:
            raise PatchError(number, str(error)) from None
    return names[0], names[1]


def _hunks(lines: _Lines) -> tuple[Hunk, ...]:
    hunks: list[Hunk] = []
    end = -1
    while lines.peek().startswith("@@"):
        number = lines.number
        hunk = _hunk(lines)
        if hunk.old_start <= end:
            raise PatchError(number, "the hunk overlaps the one before or is out of order")
        if hunks and not _ends_whole(hunks[-1]):
            raise PatchError(number, "a hunk follows the end of the file")
        end = hunk.old_start + len(hunk.lines) - hunk.added - 1
        hunks.append(hunk)
    if not hunks:
        raise PatchError(lines.number, "a hunk must follow, which begins with @@")
    return tuple(hunks)


def _ends_whole(hunk: Hunk) -> bool:
    return all(line.endswith("\n") for line in hunk.lines)


def _hunk(lines: _Lines) -> Hunk:
    number = lines.number
    head = _HUNK.fullmatch(lines.take())
    if head is None:
        raise PatchError(number, "the hunk's first line must look like '@@ -1,3 +1,4 @@'")
    left = {"-": int(head[2] or 1), "+": int(head[4] or 1)}
    if any(count and not int(start) for count, start in ((left["-"], head[1]), (left["+"], head[3]))):
        raise PatchError(number, "the hunk names line 0, but lines count from 1")
    body: list[str] = []
    while left["-"] or left["+"] or lines.peek().startswith("\\"):
        if lines.ended:
            raise PatchError(number, "the hunk ends early: its first line promises more lines")
        _take_line(lines, body, left)
    hunk = Hunk(int(head[1]), int(head[3]), tuple(body), head[5] or "")
    _check_hunk(number, hunk)
    return hunk


def _take_line(lines: _Lines, body: list[str], left: dict[str, int]) -> None:
    """Take one line of a hunk and count it off."""
    number, line = lines.number, lines.take()
    mark = line[:1] or " "  # some editors strip the blank of an empty line
    if mark == "\\":
        if not body or not body[-1].endswith("\n"):
            raise PatchError(number, "a mark of a missing newline must follow a line")
        body[-1] = body[-1].removesuffix("\n")
        return
    sides = {" ": "-+", "-": "-", "+": "+"}.get(mark)
    if sides is None:
        raise PatchError(number, "a line of a hunk must begin with a space, + or -; is it cut short?")
    for side in sides:
        left[side] -= 1
        if left[side] < 0:
            raise PatchError(number, "the hunk has more lines than its first line says")
    body.append(mark + line[1:] + "\n")


def _check_hunk(number: int, hunk: Hunk) -> None:
    if hunk.old == hunk.new:
        raise PatchError(number, "the hunk changes nothing")
    for marks in (" -", " +"):
        side = [line for line in hunk.lines if line[0] in marks]
        if any(not line.endswith("\n") for line in side[:-1]):
            raise PatchError(number, "only the last line of a file can lack its newline")


def _check_hunks(item: FilePatch) -> None:
    """Check what hunks must be like in a file that is created, deleted or stays."""
    whole = {"create": "old", "delete": "new"}.get(item.action)
    if whole is not None and any(getattr(hunk, whole) for hunk in item.hunks):
        raise ValueError(f"to {item.action} a file takes one hunk with all of its lines")
    if item.action == "change mode" and item.old_mode == item.new_mode:
        raise ValueError("nothing is changed in this file")
