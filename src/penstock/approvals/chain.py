"""The audit chain: what an entry is, how it is copied to a file, and whether a chain is whole.

An entry is a text: JSON as PostgreSQL writes a `jsonb`, so that there is one way to write it
and one way to read it. Its hash is SHA-256, in hex, over the hash of the entry before it, a
line feed and the text, in UTF-8. Nothing here needs a database: a copy can be checked anywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, cast

from penstock.errors import InputInvalid, Problem, SpecError

__all__ = [
    "GENESIS",
    "Broken",
    "Checker",
    "Entry",
    "Head",
    "Verdict",
    "check",
    "check_lines",
    "hash_of",
    "line_of",
    "parse_head",
    "read_lines",
]

COLUMNS = ("at", "kind", "run_id", "request_id", "person")
"""What the table holds of an entry a second time, to be searched by."""

_KEYS = ("at", "seq", "kind", "facts", "person", "run_id", "request_id")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEAD = re.compile(r"([0-9]{1,19}):([0-9a-f]{64})")

# JSON of PostgreSQL's own spelling consists of these and nothing else.
_PIECE = re.compile(
    r"""
    "[^"\\\x00-\x1f]*(?:\\(?:["\\bfnrt]|u00(?:0[0-7bef]|1[0-9a-f]))[^"\\\x00-\x1f]*)*"
    | (?!-0(?:\.0+)?(?![0-9.])) -?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?
    | true | false | null | [{}\[\]] | ,[ ] | :[ ]
    """,
    re.VERBOSE,
)
_MOST_DIGITS = 4000  # more than Python turns into a whole number


@dataclass(frozen=True)
class Head:
    """An entry by number and hash; whoever noted one can tell later whether it is still there."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


GENESIS = Head(0, "0" * 64)
"""What the first entry follows."""


@dataclass(frozen=True)
class Entry:
    """One entry, as it was found."""

    seq: int
    """Counts from 1, without gaps."""
    text: str
    previous: str
    """Hash of the entry before it."""
    hash: str
    columns: Mapping[str, str | None] | None = None
    """What stands beside the text in the table, one for each of `COLUMNS`; None in a copy."""

    @property
    def head(self) -> Head:
        """The entry by number and hash."""
        return Head(self.seq, self.hash)


@dataclass(frozen=True)
class Broken:
    """The first link of a chain that does not hold."""

    seq: int
    """Number of the entry that should stand here."""
    what: str
    """What of it is wrong, for example `hash`."""
    expected: str
    found: str

    def __str__(self) -> str:
        return f"entry {self.seq}: {self.what}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Verdict:
    """What a check has found."""

    start: Head
    """What the first entry had to follow."""
    head: Head
    """The last entry up to which the chain is whole."""
    broken: Broken | None = None

    @property
    def ok(self) -> bool:
        """Whether all of the chain is whole."""
        return self.broken is None

    @property
    def entries(self) -> int:
        """How many entries are whole."""
        return self.head.seq - self.start.seq


class Checker:
    """Checks entries one after the other and remembers the first broken link.

    Args:
        start: What the first entry must follow.
        noted: A head that somebody noted earlier: the chain must hold it.
    Raises:
        InputInvalid: The noted head lies before the start.
    """

    def __init__(self, start: Head = GENESIS, *, noted: Head | None = None) -> None:
        if noted is not None and noted.seq < start.seq:
            raise InputInvalid(
                f"the chain begins after entry {start.seq}, so it cannot show entry {noted.seq};"
                " give a later head, or a copy that begins earlier"
            )
        self._start = self.head = start
        self._noted = noted
        self._broken = self._fault_of_noted()

    def add(self, entry: Entry) -> bool:
        """Check the next entry; tell whether the chain is whole so far."""
        if self._broken is None:
            self._broken = _fault(self.head, entry)
        if self._broken is None:
            self.head = entry.head
            self._broken = self._fault_of_noted()
        return self._broken is None

    def end(self, last: Head | None = None) -> Verdict:
        """End the check.

        Args:
            last: Where the chain must end, when that is known.
        """
        broken = self._broken
        if broken is None and last is not None and last != self.head:
            broken = self._fault_of_end(last, "the head of the table")
        if broken is None and self._noted is not None and self._noted.seq > self.head.seq:
            broken = self._fault_of_end(self._noted, "the head that was noted")
        return Verdict(self._start, self.head, broken)

    def _fault_of_noted(self) -> Broken | None:
        if self._noted is None or self._noted.seq != self.head.seq or self._noted == self.head:
            return None
        return Broken(self.head.seq, "the head that was noted", self._noted.hash, self.head.hash)

    def _fault_of_end(self, wanted: Head, what: str) -> Broken:
        if wanted.seq > self.head.seq:
            found = f"nothing: the chain ends with entry {self.head.seq}"
            return Broken(self.head.seq + 1, what, f"entries up to {wanted}", found)
        return Broken(self.head.seq, what, str(wanted), str(self.head))


def check(entries: Iterable[Entry], *, start: Head = GENESIS, noted: Head | None = None) -> Verdict:
    """Check a chain, entry by entry, up to the first broken link.

    Args:
        start: What the first entry must follow.
        noted: A head that somebody noted earlier: the chain must hold it.
    Raises:
        InputInvalid: The noted head lies before the start.
    """
    checker = Checker(start, noted=noted)
    for entry in entries:
        if not checker.add(entry):
            break
    return checker.end()


def check_lines(lines: Iterable[bytes], *, file: str, noted: Head | None = None) -> Verdict:
    """Check a copy; one that begins later than the chain is checked from where it begins.

    Args:
        lines: What `line_of` gave.
        file: Name of the file, for messages.
    Raises:
        SpecError: The file holds no entries, or a line is none.
        InputInvalid: The noted head lies before the first entry.
    """
    entries = read_lines(lines, file=file)
    first = next(entries, None)
    if first is None:
        raise SpecError.of([Problem(file, 1, 1, "there are no entries in it")])
    start = GENESIS if first.seq <= 1 else Head(first.seq - 1, first.previous)
    return check(chain([first], entries), start=start, noted=noted)


def hash_of(previous: str, text: str) -> str:
    """Give the hash of an entry.

    Args:
        previous: Hash of the entry before it.
        text: The entry.
    """
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


def parse_head(text: str) -> Head:
    """Read a head that somebody noted.

    Args:
        text: `<number>:<hash>`.
    Raises:
        InputInvalid: It is none.
    """
    match = _HEAD.fullmatch(text.strip())
    if match is None:
        raise InputInvalid(f"{text!r} is no head of the audit chain; it looks like 42:<64 hex digits>")
    return Head(int(match[1]), match[2])


def line_of(entry: Entry) -> bytes:
    """Write an entry as a line of a copy: JSON in plain ASCII, which shows every character."""
    fields = {"seq": entry.seq, "previous": entry.previous, "hash": entry.hash, "entry": entry.text}
    return json.dumps(fields).encode("ascii") + b"\n"


def read_lines(lines: Iterable[bytes], *, file: str) -> Iterator[Entry]:
    """Read the entries of a copy.

    Raises:
        SpecError: A line is not as `line_of` writes it.
    """
    for number, line in enumerate(lines, 1):
        entry = _entry_of(line)
        if entry is None:
            what = "this is not as an export writes it" if line.endswith(b"\n") else "the line is cut off"
            raise SpecError.of([Problem(file, number, 1, what)])
        yield entry


def _entry_of(line: bytes) -> Entry | None:
    try:
        fields: Any = json.loads(line.decode("ascii"))
        values = fields["seq"], fields["entry"], fields["previous"], fields["hash"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if [type(value) for value in values] != [int, str, str, str]:
        return None
    entry = Entry(*values)
    # Written again it must be the same line: so nothing in it goes unread.
    return entry if line_of(entry) == line else None


def _fault(head: Head, entry: Entry) -> Broken | None:
    seq = head.seq + 1
    if entry.seq != seq:
        return Broken(seq, "number", str(seq), str(entry.seq))
    if entry.previous != head.hash:
        return Broken(seq, "hash of the entry before", head.hash, repr(entry.previous))
    try:
        computed = hash_of(entry.previous, entry.text)
    except UnicodeEncodeError:
        return Broken(seq, "text", "characters of Unicode", "half of a character")
    if entry.hash != computed:
        return Broken(seq, "hash", f"{computed}, which fits its text", repr(entry.hash))
    return _fault_of_text(seq, entry)


def _fault_of_text(seq: int, entry: Entry) -> Broken | None:
    try:
        fields = _parse(entry.text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply to be read" if isinstance(error, RecursionError) else str(error)
        return Broken(seq, "text", "an entry as PostgreSQL writes it", reason)
    for name, fits in _FORM.items():
        if not fits(fields[name]):
            return Broken(seq, f"{name!r} in its text", "a value of its form", repr(fields[name]))
    if fields["seq"] != seq:
        return Broken(seq, "number in its text", str(seq), str(fields["seq"]))
    for name in COLUMNS if entry.columns is not None else ():
        beside = cast("Mapping[str, str | None]", entry.columns)[name]
        if beside != fields[name]:
            return Broken(seq, f"column {name!r}", f"{fields[name]!r} as in its text", repr(beside))
    return None


def _parse(text: str) -> dict[str, Any]:
    # What JSON allows and PostgreSQL never writes would be a second way to say the same.
    left = _PIECE.sub("", text)
    if left:
        raise ValueError(f"{left[:20]!r} does not belong there")
    fields: Any = json.loads(text, object_pairs_hook=_in_order, parse_int=_whole)
    if not isinstance(fields, dict) or tuple(cast("dict[str, Any]", fields)) != _KEYS:
        raise ValueError(f"it is not an object of {', '.join(_KEYS)}")
    return cast("dict[str, Any]", fields)


def _in_order(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Take an object whose keys stand as in a `jsonb`: each once, shorter ones first, then by their bytes."""
    keys = [key.encode() for key, _ in pairs]
    for before, after in pairwise(keys):
        if (len(before), before) >= (len(after), after):
            raise ValueError(f"the key {after.decode()!r} stands where it does not belong")
    return dict(pairs)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _is_id(value: Any) -> bool:
    return value is None or (isinstance(value, str) and _UUID.fullmatch(value) is not None)


_FORM: Mapping[str, Callable[[Any], bool]] = {
    "at": lambda value: isinstance(value, str) and _TIME.fullmatch(value) is not None,
    "seq": lambda value: type(value) is int,
    "kind": lambda value: isinstance(value, str),
    "facts": lambda value: isinstance(value, dict),
    "person": lambda value: value is None or isinstance(value, str),
    "run_id": _is_id,
    "request_id": _is_id,
}
