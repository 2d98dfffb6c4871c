"""The audit table on a real PostgreSQL: one chain whatever happens, and nothing done to it stays hidden."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from penstock.approvals.chain import GENESIS, Entry, Head, check, hash_of
from penstock.engine.auditing import history, verify
from penstock.errors import StoreError
from penstock.store import audit
from penstock.store.database import Database
from store.chains import AWKWARD, CUT_HEAD, REQUEST, RUN, fill, tamper


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
async def test_tampering_is_found(database: Database, statements: list[str], where: tuple[int, str]) -> None:
    await fill(database)

    await tamper(database, *statements)

    assert await broken(database) == where


async def test_entry_beyond_the_head_is_found_though_it_fits(database: Database) -> None:
    (*_, last) = await fill(database)
    line = (await rows(database))[-1].entry.replace('"seq": 6', '"seq": 7')

    await tamper(
        database,
        _INSERT,
        values={"line": line, "hash": hash_of(last.hash, line)},
    )

    assert await broken(database) == (7, "the head of the table")


async def test_chain_that_was_written_anew_is_found_by_a_noted_head_alone(database: Database) -> None:
    heads = await fill(database)

    await rewrite(database)

    assert (await verify(database)).ok
    assert [entry["person"] for entry in await history(database)] == ["bob"] * 6
    for noted in heads:
        assert await broken(database, noted) == (noted.seq, "the head that was noted")


async def test_end_that_was_cut_off_with_its_head_is_found_by_a_noted_head_alone(database: Database) -> None:
    heads = await fill(database)

    await tamper(
        database,
        "DELETE FROM penstock.audit_entry WHERE seq > 4",
        CUT_HEAD,
    )

    assert (await verify(database)).ok
    assert (await verify(database, noted=heads[3])).ok
    assert await broken(database, heads[4]) == (5, "the head that was noted")


_INSERT = """
    INSERT INTO penstock.audit_entry (seq, entry, previous, hash, at, kind, run_id, request_id, person)
    SELECT seq + 1, :line, hash, :hash, at, kind, run_id, request_id, person
    FROM penstock.audit_entry WHERE seq = 6
"""


async def rewrite(database: Database) -> None:
    """Put another person into every entry, with hashes that fit, as somebody with all rights could."""
    previous = GENESIS.hash
    for row in await rows(database):
        line = row.entry.replace("ann", "bob")
        new = hash_of(previous, line)
        await tamper(
            database,
            "UPDATE penstock.audit_entry SET entry = :line, previous = :previous, hash = :hash,"
            " person = 'bob' WHERE seq = :seq",
            values={"line": line, "previous": previous, "hash": new, "seq": row.seq},
        )
        previous = new
    await tamper(database, "UPDATE penstock.audit_head SET hash = :hash", values={"hash": previous})


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
