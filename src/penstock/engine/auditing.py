"""The audit chain of the database: checked, copied to a file, and listed.

It joins the table, which knows nothing of chains, with the rules, which know no table.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from penstock.approvals.chain import COLUMNS, GENESIS, Broken, Checker, Entry, Head, Verdict, line_of
from penstock.errors import InputInvalid, StoreError
from penstock.store.audit import AuditBounds, AuditRow, blocks, bounds, latest
from penstock.store.database import Database
from penstock.store.documents import decode

__all__ = ["export", "export_file", "history", "verify"]


async def verify(
    database: Database,
    *,
    noted: Head | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Check the whole chain as it was when the check began; what is appended meanwhile is left alone.

    Args:
        noted: A head that somebody noted earlier: the chain must hold it.
        progress: Told after each block how many entries are checked and how many there are.
    """
    found = await bounds(database)
    checker = Checker(noted=noted)
    if (broken := _fault_of_bounds(found)) is not None:
        return Verdict(GENESIS, GENESIS, broken)
    async for rows in blocks(database, until=found.last or 0):
        if not all(checker.add(_entry_of(row)) for row in rows):
            break
        if progress is not None:
            progress(checker.head.seq, found.last or 0)
    return checker.end(_head_of(found))


async def export(database: Database, file: IO[bytes], *, after: int = 0) -> Head:
    """Copy the entries after one of them, as lines that can be checked anywhere; give the last one.

    A chain that is broken is copied as well: that it is broken shows in the copy.

    Args:
        after: Number of an entry; 0 copies everything.
    Raises:
        InputInvalid: There is no such entry.
    """
    found = await bounds(database)
    last = _head_of(found)
    if not 0 <= after <= last.seq:
        raise InputInvalid(f"there is no entry {after}: the audit chain ends with entry {last.seq}")
    until = max(last.seq, found.last or 0)
    async for rows in blocks(database, after=after, until=until):
        for row in rows:
            entry = _entry_of(row)
            file.write(line_of(entry))
            last = entry.head
    return last


async def export_file(database: Database, path: Path, *, after: int = 0) -> Head:
    """Copy entries to a file, which appears when all of it is on the disk, or not at all.

    Raises:
        InputInvalid: There is no entry `after`, or the file cannot be written.
    """
    try:
        with _replacing(path) as file:
            return await export(database, file, after=after)
    except OSError as error:
        raise InputInvalid(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


async def history(
    database: Database,
    *,
    request_id: UUID | None = None,
    run_id: UUID | None = None,
    kind: str | None = None,
    person: str | None = None,
    limit: int = 1000,
) -> list[dict[str, Any]]:
    """List the newest entries that fit, oldest first, in JSON types.

    Args:
        request_id: Only entries about this request.
        run_id: Only entries about this run.
        limit: Entries at most.
    Returns:
        For each `seq`, `at`, `kind`, `run_id`, `request_id`, `person`, `facts` and `hash`.
    """
    rows = await latest(database, request_id=request_id, run_id=run_id, kind=kind, person=person, limit=limit)
    return [_shown(row) for row in rows]


def _entry_of(row: AuditRow) -> Entry:
    columns: dict[str, str | None] = {name: getattr(row, name) for name in COLUMNS}
    return Entry(row.seq, row.entry, row.previous, row.hash, columns)


def _head_of(found: AuditBounds) -> Head:
    if found.head is None:
        raise StoreError("the audit chain has no head any more: its row was removed")
    return Head(found.head.seq, found.head.hash)


def _fault_of_bounds(found: AuditBounds) -> Broken | None:
    if found.first is not None and found.first < 1:
        return Broken(1, "number", "1", str(found.first))
    if found.head is None:
        return Broken(1, "the head of the table", "one row", "none")
    return None


def _shown(row: AuditRow) -> dict[str, Any]:
    """Show what the text says, for that is what the hash covers."""
    try:
        fields: Any = decode(row.entry)
        shown = {name: fields[name] for name in (*COLUMNS, "facts")}
    except (ValueError, LookupError, TypeError, RecursionError):
        # Somebody has made something else of it: that must be seen, too.
        shown = {**{name: getattr(row, name) for name in COLUMNS}, "facts": {"unreadable": row.entry}}
    return {"seq": row.seq, **shown, "hash": row.hash}


@contextmanager
def _replacing(path: Path) -> Generator[IO[bytes]]:
    """Open a file that takes the place of `path` in the end; a device is written as it is."""
    path = path.resolve()  # what a link leads to is replaced, not the link
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    _keep(path.parent)


def _keep(folder: Path) -> None:
    """Have the name of a new file on the disk as well."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
