"""The audit table on a real PostgreSQL: one chain whatever happens, and nothing done to it stays hidden."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from penstock.approvals.chain import GENESIS, Entry, Head, check, check_lines, hash_of, parse_head
from penstock.engine.auditing import export, export_file, history, verify
from penstock.errors import InputInvalid, StoreError
from penstock.store import audit
from penstock.store.database import Database
from penstock.store.embedded import SUPERUSER, USER

ROOT = Path(__file__).parents[2]
RUN, REQUEST = uuid4(), uuid4()
AWKWARD = {
    "comment": "\0 \x1a \ud800 \u202e ü \U0001f600",
    "n": [1.5, 0.0, 1e3, 10**40],
    "": {"b": 1, "aa": 2},
}


@pytest.fixture
async def superuser(database_url: str) -> AsyncGenerator[Database]:
    """Give somebody whom no trigger stops."""
    async with Database(database_url.replace(f"//{USER}@", f"//{SUPERUSER}@"), retry_s=5) as database:
        yield database


async def fill(database: Database, count: int = 6, person: str = "ann") -> list[Head]:
    """Append entries and give the head after each."""
    heads: list[Head] = []
    for number in range(count):
        await audit.record(
            database, kind="decision", run_id=RUN, request_id=REQUEST, person=person, facts={"n": number}
        )
        found = await audit.head(database)
        heads.append(Head(found.seq, found.hash))
    return heads


async def tamper(superuser: Database, *statements: str, values: Mapping[str, Any] | None = None) -> None:
    """Change the tables as somebody would who has switched the triggers off."""
    async with superuser.transaction() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            await connection.execute(text(statement), dict(values or {}))


async def rows(database: Database) -> list[audit.AuditRow]:
    return await audit.entries(database)


async def broken(database: Database, noted: Head | None = None) -> tuple[int, str]:
    """Check the chain, in the table and in a copy, and give the entry and what is wrong with it."""
    verdict = await verify(database, noted=noted)
    assert not verdict.ok
    assert verdict.broken is not None
    assert verdict.head.seq < verdict.broken.seq or verdict.broken.what.startswith("the head")
    return verdict.broken.seq, verdict.broken.what


async def test_entry_holds_what_it_was_given(database: Database) -> None:
    seq = await audit.record(
        database, kind="decision", run_id=RUN, request_id=REQUEST, person="ann", facts=AWKWARD
    )
    await audit.record(database, kind="policy.loaded")

    first, second = await history(database)

    assert seq == first["seq"] == 1
    assert first["facts"] == AWKWARD
    assert (first["kind"], first["person"]) == ("decision", "ann")
    assert (first["run_id"], first["request_id"]) == (str(RUN), str(REQUEST))
    assert second["facts"] == {}
    assert [second[name] for name in ("run_id", "request_id", "person")] == [None, None, None]
    assert (await verify(database)).ok


async def test_names_and_facts_that_postgresql_does_not_take_break_no_write(database: Database) -> None:
    await audit.record(database, kind="session.refused", person="a\0b\ud800", facts={"\0": "\udfff"})

    (entry,) = await history(database)

    assert entry["person"] == "a\ufffdb\ufffd"
    assert entry["facts"] == {"\0": "\udfff"}
    assert (await verify(database)).ok


@pytest.mark.parametrize("depth", [10, 199, 200, 5000])
async def test_facts_that_nobody_could_read_again_are_refused(database: Database, depth: int) -> None:
    facts: dict[str, Any] = {"[{": "]}"}
    for _ in range(depth):
        facts = {"[": facts}

    if depth < 200:
        await audit.record(database, kind="decision", facts=facts)
    else:
        with pytest.raises(StoreError, match="nested"):
            await audit.record(database, kind="decision", facts=facts)
    assert (await verify(database)).ok


async def test_fifty_writers_make_one_chain(database_url: str) -> None:
    async with Database(database_url, pool_size=25, retry_s=5) as database:

        async def write(number: int) -> int:
            if number % 5:
                return await audit.record(database, kind="decision", facts={"n": number})
            async with database.transaction() as connection:
                return await audit.append(connection, kind="decision", facts={"n": number})

        seqs = await asyncio.gather(*(write(number) for number in range(50)))
        found = await history(database)

        assert sorted(seqs) == list(range(1, 51))
        assert sorted(entry["facts"]["n"] for entry in found) == list(range(50))
        verdict = await verify(database)
        assert (verdict.ok, verdict.entries) == (True, 50)


async def test_transaction_that_is_undone_leaves_no_gap(database: Database) -> None:
    await fill(database, 2)

    async with database.transaction() as connection:
        assert await audit.append(connection, kind="decision") == 3
        await connection.rollback()

    assert await audit.record(database, kind="decision") == 3
    assert (await verify(database)).entries == 3


async def test_entry_is_part_of_the_transaction_that_it_tells_of(database: Database) -> None:
    async with database.transaction() as connection:
        await audit.append(connection, kind="decision", person="ann")
        assert await rows(database) == []

    assert [row.person for row in await rows(database)] == ["ann"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE penstock.audit_entry SET person = 'bob'",
        "DELETE FROM penstock.audit_entry WHERE seq = 1",
        "TRUNCATE penstock.audit_entry",
    ],
)
async def test_table_takes_no_change(database: Database, statement: str) -> None:
    await fill(database, 2)

    with pytest.raises(StoreError, match="append-only"):
        await database.fetch(text(statement))

    assert (await verify(database)).entries == 2


PAST = """
    CREATE FUNCTION past.clock_timestamp() RETURNS timestamptz LANGUAGE sql
        AS $$ SELECT CAST('1999-12-31 23:59:59.5+00' AS timestamptz) $$
"""


async def test_clock_that_jumps_backwards_breaks_nothing(database: Database) -> None:
    await fill(database, 1)
    async with database.transaction() as connection:
        for statement in ("CREATE SCHEMA past", PAST, "SET LOCAL search_path = past, pg_catalog"):
            await connection.execute(text(statement))
        await audit.append(connection, kind="decision")
    await fill(database, 1)

    times = [entry["at"] for entry in await history(database)]

    assert times[1] == "1999-12-31T23:59:59.500000Z" < times[0] < times[2]
    assert (await verify(database)).entries == 3


SHIFT = "UPDATE penstock.audit_entry SET seq = seq + 1000 WHERE seq >= 3"
BACK = "UPDATE penstock.audit_entry SET seq = seq - 999 WHERE seq > 1000"
FORGE = """
    INSERT INTO penstock.audit_entry (seq, entry, previous, hash, at, kind, run_id, request_id, person)
    SELECT {seq}, entry, previous, repeat('a', 64), at, kind, run_id, request_id, person
    FROM penstock.audit_entry WHERE seq = 2
"""


@pytest.mark.parametrize(
    ("statements", "where"),
    [
        (["UPDATE penstock.audit_entry SET entry = replace(entry, 'ann', 'bob') WHERE seq = 3"], (3, "hash")),
        (["UPDATE penstock.audit_entry SET entry = entry || ' ' WHERE seq = 6"], (6, "hash")),
        (["UPDATE penstock.audit_entry SET person = 'bob' WHERE seq = 3"], (3, "column 'person'")),
        (["UPDATE penstock.audit_entry SET person = NULL WHERE seq = 6"], (6, "column 'person'")),
        (["UPDATE penstock.audit_entry SET kind = 'decision ' WHERE seq = 1"], (1, "column 'kind'")),
        (["UPDATE penstock.audit_entry SET run_id = request_id WHERE seq = 4"], (4, "column 'run_id'")),
        (["UPDATE penstock.audit_entry SET request_id = NULL WHERE seq = 4"], (4, "column 'request_id'")),
        (["UPDATE penstock.audit_entry SET at = at + interval '1 us' WHERE seq = 4"], (4, "column 'at'")),
        (["UPDATE penstock.audit_entry SET at = 'infinity' WHERE seq = 4"], (4, "column 'at'")),
        (
            ["UPDATE penstock.audit_entry SET at = at - interval '4051 years' WHERE seq = 4"],
            (4, "column 'at'"),
        ),
        (["UPDATE penstock.audit_entry SET hash = repeat('b', 64) WHERE seq = 5"], (5, "hash")),
        (
            ["UPDATE penstock.audit_entry SET previous = repeat('b', 64) WHERE seq = 5"],
            (5, "hash of the entry before"),
        ),
        (["DELETE FROM penstock.audit_entry WHERE seq = 3"], (3, "number")),
        (["DELETE FROM penstock.audit_entry WHERE seq = 1"], (1, "number")),
        (["DELETE FROM penstock.audit_entry WHERE seq > 4"], (5, "the head of the table")),
        (["DELETE FROM penstock.audit_entry"], (1, "the head of the table")),
        (["TRUNCATE penstock.audit_entry"], (1, "the head of the table")),
        (["UPDATE penstock.audit_head SET seq = 4"], (6, "the head of the table")),
        (["UPDATE penstock.audit_head SET hash = repeat('c', 64)"], (6, "the head of the table")),
        (["DELETE FROM penstock.audit_head"], (1, "the head of the table")),
        ([SHIFT, FORGE.format(seq=3), BACK], (3, "hash of the entry before")),
        ([FORGE.format(seq=7)], (7, "hash of the entry before")),
        ([FORGE.format(seq=-5)], (1, "number")),
        ([FORGE.format(seq=0)], (1, "number")),
        (
            [
                "UPDATE penstock.audit_entry SET seq = seq - 5 WHERE seq IN (2, 3)",
                "UPDATE penstock.audit_entry SET seq = -seq WHERE seq < 0",
            ],
            (2, "hash of the entry before"),
        ),
    ],
)
async def test_tampering_is_found(
    database: Database, superuser: Database, statements: list[str], where: tuple[int, str]
) -> None:
    await fill(database)

    await tamper(superuser, *statements)

    assert await broken(database) == where


async def test_entry_beyond_the_head_is_found_though_it_fits(database: Database, superuser: Database) -> None:
    (*_, last) = await fill(database)
    line = (await rows(database))[-1].entry.replace('"seq": 6', '"seq": 7')

    await tamper(
        superuser,
        _INSERT,
        values={"line": line, "hash": hash_of(last.hash, line)},
    )

    assert await broken(database) == (7, "the head of the table")


async def test_chain_that_was_written_anew_is_found_by_a_noted_head_alone(
    database: Database, superuser: Database
) -> None:
    heads = await fill(database)

    await rewrite(database, superuser)

    assert (await verify(database)).ok
    assert [entry["person"] for entry in await history(database)] == ["bob"] * 6
    for noted in heads:
        assert await broken(database, noted) == (noted.seq, "the head that was noted")


async def test_end_that_was_cut_off_with_its_head_is_found_by_a_noted_head_alone(
    database: Database, superuser: Database
) -> None:
    heads = await fill(database)

    await tamper(
        superuser,
        "DELETE FROM penstock.audit_entry WHERE seq > 4",
        "UPDATE penstock.audit_head SET (seq, hash) ="
        " (SELECT seq, hash FROM penstock.audit_entry ORDER BY seq DESC LIMIT 1)",
    )

    assert (await verify(database)).ok
    assert (await verify(database, noted=heads[3])).ok
    assert await broken(database, heads[4]) == (5, "the head that was noted")


_INSERT = """
    INSERT INTO penstock.audit_entry (seq, entry, previous, hash, at, kind, run_id, request_id, person)
    SELECT seq + 1, :line, hash, :hash, at, kind, run_id, request_id, person
    FROM penstock.audit_entry WHERE seq = 6
"""


async def rewrite(database: Database, superuser: Database) -> None:
    """Put another person into every entry, with hashes that fit, as somebody with all rights could."""
    previous = GENESIS.hash
    for row in await rows(database):
        line = row.entry.replace("ann", "bob")
        new = hash_of(previous, line)
        await tamper(
            superuser,
            "UPDATE penstock.audit_entry SET entry = :line, previous = :previous, hash = :hash,"
            " person = 'bob' WHERE seq = :seq",
            values={"line": line, "previous": previous, "hash": new, "seq": row.seq},
        )
        previous = new
    await tamper(superuser, "UPDATE penstock.audit_head SET hash = :hash", values={"hash": previous})


async def test_check_leaves_alone_what_is_appended_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BLOCK", 2)
    heads = await fill(database)
    told: list[tuple[int, int]] = []

    def tell(checked: int, entries: int) -> None:
        told.append((checked, entries))

    async def append_more() -> None:
        while len(told) < 3:
            await audit.record(database, kind="decision")

    verdict, _ = await asyncio.gather(verify(database, progress=tell), append_more())

    assert verdict.ok
    assert verdict.entries >= len(heads)
    assert told[-1] == (verdict.entries, verdict.entries)
    assert [checked for checked, _ in told] == sorted({checked for checked, _ in told})


async def test_empty_table_is_whole(database: Database) -> None:
    verdict = await verify(database)

    assert (verdict.ok, verdict.entries, verdict.head) == (True, 0, GENESIS)
    assert await verify(database, noted=GENESIS) == verdict


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


async def test_broken_chain_is_copied_with_its_break(database: Database, superuser: Database) -> None:
    await fill(database)
    await tamper(
        superuser, "UPDATE penstock.audit_entry SET entry = replace(entry, 'ann', 'bob') WHERE seq = 3"
    )
    file = io.BytesIO()

    await export(database, file)
    verdict = check_lines(file.getvalue().splitlines(keepends=True), file="f")

    assert verdict.broken is not None
    assert (verdict.broken.seq, verdict.broken.what) == (3, "hash")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


async def test_listing_shows_the_text_and_what_somebody_made_of_it(
    database: Database, superuser: Database
) -> None:
    await fill(database, 2)
    await tamper(
        superuser,
        "UPDATE penstock.audit_entry SET person = 'bob' WHERE seq = 1",
        "UPDATE penstock.audit_entry SET entry = '{nonsense' WHERE seq = 2",
    )

    first, second = await history(database)

    assert first["person"] == "ann"
    assert second["facts"] == {"unreadable": "{nonsense"}
    assert second["person"] == "ann"


async def test_without_its_head_nothing_is_appended_or_copied(
    database: Database, superuser: Database
) -> None:
    await tamper(superuser, "DELETE FROM penstock.audit_head")

    with pytest.raises(StoreError, match="its row was removed"):
        await audit.head(database)
    with pytest.raises(StoreError, match="its row was removed"):
        await export(database, io.BytesIO())
    with pytest.raises(StoreError, match="refused"):
        await audit.record(database, kind="decision")


NUMBERS = [
    "0",
    "-0",
    "-0.0",
    "-0.05",
    "1.50",
    "1e3",
    "1E-2",
    "10",
    "01",
    "1.",
    ".5",
    "-10.0",
    "1" * 5000,
    "0.0",
]
STRINGS = [
    r'"\u0001"', r'"\u001A"', r'"\u001a"', r'"\u0008"', r'"\b"', r'"\t"', r'"\/"', '"/"', r'"\u00e9"', '"é"',
    r'"\u007f"', '"\x7f"', r'"\ud83d\ude00"', '"\U0001f600"', r'"\\"', r'"\""', '"\u2028"', '""', r'"\u000b"',
]  # fmt: skip
SHAPES = [
    "{}", "[]", "{ }", "[ ]", "[1,2]", "[1, 2]", "[1 ,2]", "[1,  2]", '{"a":1}', '{"a": 1}', '{"a":  1}',
    '{"b": 1, "a": 2}', '{"a": 2, "b": 1}', '{"aa": 1, "b": 2}', '{"b": 2, "aa": 1}', '{"a": 1, "a": 2}',
    '{"é": 1, "zz": 2}', '{"zz": 1, "é": 2}', '{"z": 1, "é": 2}', '{"": 1, "a": {"c": [], "d": {}}}',
    "null", "true", "false", " null", "null ", "[null, [true, [false]]]",
]  # fmt: skip


async def test_what_postgresql_writes_is_all_that_a_check_takes(database: Database) -> None:
    texts = [f'{{"x": {value}}}' for value in (*NUMBERS, *STRINGS, *SHAPES)]
    for value in texts:
        entry = (
            f'{{"at": "2026-11-21T08:00:00.000001Z", "seq": 1, "kind": "k", "facts": {value},'
            ' "person": null, "run_id": null, "request_id": null}'
        )
        try:
            found = await database.fetch(_AS_JSONB, {"entry": entry})
            canonical = found[0]["written"] == entry
        except StoreError:
            canonical = False
        verdict = check([Entry(1, entry, GENESIS.hash, hash_of(GENESIS.hash, entry))])

        assert verdict.ok is canonical, (value, str(verdict.broken))


_AS_JSONB = text("SELECT CAST(CAST(CAST(:entry AS text) AS jsonb) AS text) AS written")


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
