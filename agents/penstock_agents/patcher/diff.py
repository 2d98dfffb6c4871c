"""What a unified diff says, as values; reading one is in `parsing`, applying one in `applying`.

A diff is rendered again from these values before anybody sees or uses it. So what is shown and
what is applied hold nothing that the parser did not understand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from penstock_agents.patcher import paths

NULL = "/dev/null"
PLAIN, EXECUTABLE = "100644", "100755"
_NO_NEWLINE = "\\ No newline at end of file\n"
_SWAPPED = {" ": " ", "+": "-", "-": "+"}
_HIDDEN = re.compile(
    r"[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
"""Characters that make text look like other text: direction marks, empty widths, controls."""


@dataclass(frozen=True)
class Hunk:
    """One changed place of a file."""

    old_start: int
    """First line in the old file, counted from 1; the line before when no old line is named."""
    new_start: int
    lines: tuple[str, ...]
    """Lines after their mark (space, plus or minus), each with its newline if the file has it."""
    section: str = ""

    @property
    def old(self) -> bytes:
        """The lines as they were."""
        return self._side(" -")

    @property
    def new(self) -> bytes:
        """The lines as they become."""
        return self._side(" +")

    @property
    def added(self) -> int:
        """Number of added lines."""
        return sum(line[0] == "+" for line in self.lines)

    @property
    def removed(self) -> int:
        """Number of removed lines."""
        return sum(line[0] == "-" for line in self.lines)

    @property
    def at_start(self) -> bool:
        """Whether its old lines must be the first of the file."""
        return self.old_start <= 1

    @property
    def at_end(self) -> bool:
        """Whether its old lines must be the last of the file: no context follows the change."""
        return self.lines[-1][0] != " "

    def reversed(self) -> Hunk:
        """Give the hunk that takes this one back."""
        lines = tuple(_SWAPPED[line[0]] + line[1:] for line in self.lines)
        return Hunk(self.new_start, self.old_start, lines, self.section)

    def render(self) -> str:
        """Write the hunk as git does."""
        old = _range(self.old_start, len(self.lines) - self.added)
        new = _range(self.new_start, len(self.lines) - self.removed)
        section = f" {self.section}" if self.section else ""
        body = [line if line.endswith("\n") else f"{line}\n{_NO_NEWLINE}" for line in self.lines]
        return f"@@ -{old} +{new} @@{section}\n{''.join(body)}"

    def _side(self, marks: str) -> bytes:
        return "".join(line[1:] for line in self.lines if line[0] in marks).encode()


@dataclass(frozen=True)
class FilePatch:
    """What a diff does to one file."""

    old: str | None
    """Path before; None when the file is created."""
    new: str | None
    """Path after; None when the file is deleted."""
    hunks: tuple[Hunk, ...] = ()
    old_mode: str | None = None
    """Mode before, where the diff names it."""
    new_mode: str | None = None

    @property
    def path(self) -> str:
        """The path it is known by."""
        return self.new or self.old or ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path it touches."""
        return tuple(dict.fromkeys(path for path in (self.old, self.new) if path is not None))

    @property
    def action(self) -> str:
        """Create, delete, rename, modify or change mode."""
        if self.old is None:
            return "create"
        if self.new is None:
            return "delete"
        if self.old != self.new:
            return "rename"
        return "modify" if self.hunks else "change mode"

    @property
    def detail(self) -> str:
        """What a reader should know beside the path and the action."""
        added, removed = (sum(getattr(hunk, what) for hunk in self.hunks) for what in ("added", "removed"))
        places = f"{len(self.hunks)} hunk{'s' if len(self.hunks) != 1 else ''}"
        parts = [f"from {self.old}"] if self.action == "rename" else []
        parts += [f"{places}, +{added} -{removed}"] if self.hunks else []
        if self.new_mode == EXECUTABLE:
            parts.append("becomes executable")
        elif self.old_mode == EXECUTABLE and self.new_mode is not None:
            parts.append("is executable no more")
        if any(_HIDDEN.search(line) for hunk in self.hunks for line in hunk.lines if line[0] == "+"):
            parts.append("adds characters that cannot be seen")
        return "; ".join(parts)

    def reversed(self) -> FilePatch:
        """Give the change that takes this one back."""
        hunks = tuple(hunk.reversed() for hunk in self.hunks)
        return FilePatch(self.new, self.old, hunks, self.new_mode, self.old_mode)

    def render(self) -> str:
        """Write the change as git does, without the lines that only inform."""
        old, new = (self.old or self.path), self.path
        head = [f"diff --git {paths.written(f'a/{old}')} {paths.written(f'b/{new}')}", *self._headers()]
        if self.hunks:
            head += [f"--- {_side('a', self.old)}", f"+++ {_side('b', self.new)}"]
        return "\n".join(head) + "\n" + "".join(hunk.render() for hunk in self.hunks)

    def _headers(self) -> list[str]:
        if self.old is None:
            return [f"new file mode {self.new_mode or PLAIN}"]
        if self.new is None:
            return [f"deleted file mode {self.old_mode or PLAIN}"]
        lines: list[str] = []
        if self.new_mode is not None and self.old_mode != self.new_mode:
            lines += [f"old mode {self.old_mode}", f"new mode {self.new_mode}"]
        if self.old != self.new:
            lines += [f"rename from {paths.written(self.old)}", f"rename to {paths.written(self.new)}"]
        return lines


def render(patch: Sequence[FilePatch]) -> str:
    """Write a whole diff."""
    return "".join(item.render() for item in patch)


def undoing(patch: Sequence[FilePatch], modes: Mapping[str, str]) -> tuple[FilePatch, ...]:
    """Give the diff that takes another one back.

    Args:
        modes: Mode of each file before the other one; a diff need not name the mode that it deletes.
    """
    back = (item.reversed() for item in patch)
    return tuple(
        replace(item, new_mode=modes.get(item.path, item.new_mode)) if item.old is None else item
        for item in back
    )


def _range(start: int, count: int) -> str:
    return str(start) if count == 1 else f"{start},{count}"


def _side(prefix: str, path: str | None) -> str:
    """Write a name for `---` or `+++`; one with a blank ends in a tab, so that its end is seen."""
    if path is None:
        return NULL
    return paths.written(f"{prefix}/{path}") + ("\t" if " " in path else "")
