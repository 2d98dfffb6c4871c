"""A unified diff taken apart for people: files, hunks, lines with their numbers.

Nothing is left out: the lines of all parts, in order, are the lines of the text. What does not
look like a diff stands as it is, under no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["FileDiff", "Hunk", "Line", "lines_of", "parse_diff"]

Kind = Literal["added", "removed", "same", "note"]

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_GIT = re.compile(r'diff --git (?:"?a/.*"?) ("?b/.*"?)')
_KINDS: dict[str, Kind] = {"+": "added", "-": "removed", " ": "same", "": "same", "\\": "note"}
_INDEX = re.compile(r"index [0-9a-f]+\.\.[0-9a-f]+( 100644)?")
_TOLD = ("--- /dev/null", "+++ /dev/null", "new file mode 100644", "deleted file mode 100644")
_ESCAPE = re.compile(rb'\\([0-7]{3}|["\\abfnrtv])')
_ESCAPED = dict(zip(b'"\\abfnrtv', b'"\\\a\b\f\n\r\t\v', strict=True))
_NOTHING = "/dev/null"

_MARKS = (
    ("new file", "new file mode "),
    ("new file", "--- /dev/null"),
    ("executable", "new file mode 100755"),
    ("symbolic link", "new file mode 120000"),
    ("submodule", "new file mode 160000"),
    ("deleted", "deleted file mode "),
    ("deleted", "+++ /dev/null"),
    ("binary", "Binary files "),
    ("binary", "GIT binary patch"),
)


@dataclass(frozen=True)
class Line:
    """One line of a hunk."""

    kind: Kind
    text: str
    """With the sign in front, as it stands in the diff."""
    old: int | None
    """Number of the line in the old file; None when it is not in there."""
    new: int | None


@dataclass
class Hunk:
    """Lines that belong together."""

    header: str
    lines: list[Line] = field(default_factory=list[Line])


@dataclass
class FileDiff:
    """What happens to one file."""

    head: list[str] = field(default_factory=list[str])
    """The lines in front of the first hunk."""
    hunks: list[Hunk] = field(default_factory=list[Hunk])

    @property
    def name(self) -> str:
        """Path of the file, the new one when it moves; empty for text that is under no file."""
        old, new = self._told("--- "), self._told("+++ ")
        if new and new != _NOTHING:
            return new.removeprefix("b/")
        if old and old != _NOTHING:
            return old.removeprefix("a/")
        moved = self._told("rename to ") or self._told("copy to ")
        found = _GIT.fullmatch(self.head[0]) if self.head else None
        return moved or (_unquoted(found[1]).removeprefix("b/") if found else "")

    @property
    def notes(self) -> list[str]:
        """What happens to the file beside its lines, in words such as `new file`."""
        marked = (name for name, mark in _MARKS if any(line.startswith(mark) for line in self.head))
        words = list(dict.fromkeys(marked))
        words += [f"moved from {name}" for name in [self._told("rename from ")] if name]
        words += [f"copied from {name}" for name in [self._told("copy from ")] if name]
        before, after = self._told("old mode "), self._told("new mode ")
        return [*words, f"mode {before} → {after}"] if before or after else words

    @property
    def untold(self) -> list[str]:
        """The lines in front of the first hunk that say more than `name` and `notes` do."""
        name = self.name
        told = {f"diff --git a/{name} b/{name}", f"--- a/{name}", f"+++ b/{name}", *_TOLD}
        return [line for line in self.head if line not in told and not _INDEX.fullmatch(line)]

    @property
    def added(self) -> int:
        """Number of lines that are added."""
        return self._count("added")

    @property
    def removed(self) -> int:
        """Number of lines that are removed."""
        return self._count("removed")

    @property
    def size(self) -> int:
        """Number of lines to read."""
        return len(self.head) + sum(1 + len(hunk.lines) for hunk in self.hunks)

    def _count(self, kind: Kind) -> int:
        return sum(line.kind == kind for hunk in self.hunks for line in hunk.lines)

    def _told(self, mark: str) -> str:
        found = next((line for line in self.head if line.startswith(mark)), "")
        return _unquoted(found.removeprefix(mark).split("\t")[0].rstrip("\r"))


def parse_diff(diff: str) -> tuple[FileDiff, ...]:
    """Take a diff apart; whatever it holds, no line gets lost."""
    reader = _Reader()
    for line in diff.removesuffix("\n").split("\n") if diff else ():
        reader.read(line)
    return tuple(reader.files)


def lines_of(files: tuple[FileDiff, ...]) -> Iterator[str]:
    """Give back the lines of a diff, in order."""
    for file in files:
        yield from file.head
        for hunk in file.hunks:
            yield hunk.header
            yield from (line.text for line in hunk.lines)


class _Reader:
    """Reads line by line; the counts in a hunk's header tell where it ends."""

    def __init__(self) -> None:
        self.files: list[FileDiff] = []
        self._old = self._new = 0
        """Numbers of the next lines."""
        self._old_left = self._new_left = 0
        """Lines that the hunk still has."""

    def read(self, line: str) -> None:
        if not self._in_hunk(line):
            self._old_left = self._new_left = 0
            self._outside(line)

    def _in_hunk(self, line: str) -> bool:
        """Take a line that belongs to the hunk."""
        kind = _KINDS.get(line.rstrip("\r")[:1])
        if kind is None or not self.files or not self.files[-1].hunks:
            return False
        in_old, in_new = kind in {"removed", "same"}, kind in {"added", "same"}
        if in_old > self._old_left or in_new > self._new_left:
            return False
        found = Line(kind, line, self._old if in_old else None, self._new if in_new else None)
        self.files[-1].hunks[-1].lines.append(found)
        self._old, self._old_left = self._old + in_old, self._old_left - in_old
        self._new, self._new_left = self._new + in_new, self._new_left - in_new
        return True

    def _outside(self, line: str) -> None:
        found = _HUNK.match(line)
        if found is not None:
            self._open_hunk(line, found)
            return
        file = self.files[-1] if self.files else None
        begins = line.startswith("diff --git ") or (
            line.startswith("--- ") and file is not None and _has_old_name(file)
        )
        if file is None or begins or file.hunks:
            self.files.append(FileDiff([line]))
        else:
            file.head.append(line)

    def _open_hunk(self, line: str, found: re.Match[str]) -> None:
        if not self.files:
            self.files.append(FileDiff())
        self.files[-1].hunks.append(Hunk(line))
        self._old, self._new = int(found[1]), int(found[3])
        self._old_left = int(found[2] or 1)
        self._new_left = int(found[4] or 1)


def _has_old_name(file: FileDiff) -> bool:
    return any(line.startswith("--- ") for line in file.head)


def _unquoted(name: str) -> str:
    r"""Read a name as git writes those with special characters: `"caf\303\251"`."""
    if len(name) < 2 or not (name.startswith('"') and name.endswith('"')):
        return name
    raw = _ESCAPE.sub(_byte, name[1:-1].encode("utf-8", "surrogatepass"))
    return raw.decode("utf-8", "backslashreplace")


def _byte(found: re.Match[bytes]) -> bytes:
    text = found[1]
    value = int(text, 8) & 0xFF if len(text) == 3 else _ESCAPED[text[0]]
    return bytes([value])
