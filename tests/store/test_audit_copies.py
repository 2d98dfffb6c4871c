"""Copies and listings of the audit chain, from a real PostgreSQL."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import sys
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest

from penstock.approvals.chain import check_lines, parse_head
from penstock.engine.auditing import export, export_file, history
from penstock.errors import InputInvalid, StoreError
from penstock.store import audit
from penstock.store.database import Database
from store.chains import AWKWARD, RUN, fill, tamper

ROOT = Path(__file__).parents[2]


async def test_copy_has_every_entry_and_can_be_checked_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BLOCK", 2)
    heads = await fill(database)
    await audit.record(database, kind="decision", person="\u202eü\u2028", facts=AWKWARD)
    file = io.BytesIO()

    last = await export(database, file)
    verdict = check_lines(file.getvalue().splitlines(keepends=True), file="f", noted=heads[2])

    assert (verdict.ok, verdict.entries, verdict.head) == (True, 7, last)


async def test_copy_of_the_newer_entries_joins_the_older_one(database: Database) -> None:
    heads = await fill(database)
    newer, none = io.BytesIO(), io.BytesIO()

    last = await export(database, newer, after=4)
    nothing = await export(database, none, after=6)

    verdict = check_lines(newer.getvalue().splitlines(keepends=True), file="f", noted=heads[3])
    assert (verdict.ok, verdict.entries, verdict.start, verdict.head) == (True, 2, heads[3], last)
    assert (none.getvalue(), nothing) == (b"", last)


@pytest.mark.parametrize("after", [7, -1])
async def test_copy_after_an_entry_that_is_not_there_is_refused(database: Database, after: int) -> None:
    await fill(database)

    with pytest.raises(InputInvalid, match="ends with entry 6"):
        await export(database, io.BytesIO(), after=after)


async def test_broken_chain_is_copied_with_its_break(database: Database) -> None:
    await fill(database)
    await tamper(
        database, "UPDATE penstock.audit_entry SET entry = replace(entry, 'ann', 'bob') WHERE seq = 3"
    )
    file = io.BytesIO()

    await export(database, file)
    verdict = check_lines(file.getvalue().splitlines(keepends=True), file="f")

    assert verdict.broken is not None
    assert (verdict.broken.seq, verdict.broken.what) == (3, "hash")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_chain_without_its_end_is_copied_as_far_as_it_goes(database: Database) -> None:
    heads = await fill(database)
    await tamper(database, "DELETE FROM penstock.audit_entry WHERE seq > 4")
    file = io.BytesIO()

    assert await export(database, file) == heads[3]
    assert len(file.getvalue().splitlines()) == 4


async def test_file_is_there_when_all_of_it_is_or_not_at_all(database: Database, tmp_path: Path) -> None:
    await fill(database)
    file, link = tmp_path / "copy.jsonl", tmp_path / "link"
    file.write_text("older")
    link.symlink_to(file)

    with pytest.raises(InputInvalid):
        await export_file(database, file, after=9)
    before = file.read_text()
    await export_file(database, link)

    assert before == "older"
    assert link.is_symlink()
    assert len(file.read_bytes().splitlines()) == 6
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await asyncio.to_thread(names, tmp_path) == ["copy.jsonl", "link"]


async def test_file_that_cannot_be_written_is_told(database: Database, tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="cannot be written: No such file"):
        await export_file(database, tmp_path / "none" / "copy.jsonl")
    with pytest.raises(InputInvalid, match="cannot be written: Is a directory"):
        await export_file(database, tmp_path)


async def test_device_is_written_and_stays_a_device(database: Database, tmp_path: Path) -> None:
    await fill(database)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = asyncio.create_task(asyncio.to_thread(pipe.read_bytes))

    await asyncio.to_thread(lambda: asyncio.run(_export(database.url.dsn, pipe)))

    assert len((await reading).splitlines()) == 6
    assert stat.S_ISFIFO(pipe.stat().st_mode)


async def _export(dsn: str, path: Path) -> None:
    async with Database(dsn) as database:
        await export_file(database, path)


async def test_listing_takes_the_newest_that_fit_and_shows_them_oldest_first(database: Database) -> None:
    other = uuid4()
    await fill(database)
    await audit.record(database, kind="session.opened", person="bob", request_id=other)
    await audit.record(database, kind="session.opened", person="ann", run_id=other)

    async def seqs(**wanted: Any) -> list[int]:
        return [entry["seq"] for entry in await history(database, **wanted)]

    assert await seqs(limit=3) == [6, 7, 8]
    assert await seqs(kind="session.opened") == [7, 8]
    assert await seqs(person="ann", limit=2) == [6, 8]
    assert await seqs(request_id=other) == [7]
    assert await seqs(run_id=other, person="ann") == [8]
    assert await seqs(run_id=other, person="bob") == []


async def test_entries_come_in_blocks_that_can_be_narrowed(database: Database) -> None:
    other: UUID = uuid4()
    await fill(database)
    await audit.record(database, kind="decision", request_id=other)

    assert [row.seq for row in await audit.entries(database, after=2, limit=3)] == [3, 4, 5]
    assert [row.seq for row in await audit.entries(database, request_id=other)] == [7]
    assert [row.seq for row in await audit.entries(database, run_id=RUN, after=5)] == [6]


async def test_listing_shows_the_text_and_what_somebody_made_of_it(database: Database) -> None:
    await fill(database, 2)
    await tamper(
        database,
        "UPDATE penstock.audit_entry SET person = 'bob' WHERE seq = 1",
        "UPDATE penstock.audit_entry SET entry = '{nonsense' WHERE seq = 2",
    )

    first, second = await history(database)

    assert first["person"] == "ann"
    assert second["facts"] == {"unreadable": "{nonsense"}
    assert second["person"] == "ann"


async def test_without_its_head_nothing_is_appended_or_copied(database: Database) -> None:
    await tamper(database, "DELETE FROM penstock.audit_head")

    with pytest.raises(StoreError, match="its row was removed"):
        await audit.head(database)
    with pytest.raises(StoreError, match="its row was removed"):
        await export(database, io.BytesIO())
    with pytest.raises(StoreError, match="refused"):
        await audit.record(database, kind="decision")


def test_every_kind_is_documented() -> None:
    page = (ROOT / "docs" / "AUDIT.md").read_text()

    assert [kind for kind in get_args(audit.AuditKind) if f"| `{kind}` |" not in page] == []


async def test_page_verifies_offline_as_it_says(database: Database, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "AUDIT.md").read_text()
    program, copy, bad = tmp_path / "check.py", tmp_path / "copy.jsonl", tmp_path / "bad.jsonl"
    program.write_text(page.partition("```python\n")[2].partition("```")[0])
    await fill(database)
    await audit.record(database, kind="decision", person="\u2028ü", facts=AWKWARD)
    last = await export_file(database, copy)
    bad.write_text(copy.read_text().replace("ann", "bob", 1))

    good_exit, good = await _python(program, copy)
    bad_exit, told = await _python(program, bad)

    assert (good_exit, parse_head(good)) == (0, last)
    assert bad_exit != 0
    assert "entry 1" in told


async def _python(program: Path, *arguments: Path) -> tuple[int, str]:
    """Run a program without our packages; give its exit code and all that it prints."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", program, *arguments, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    return int(process.returncode or 0), printed.decode()
