"""The audit chain from the command line: checked, copied and read, with and without a database."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner

from penstock.cli.main import app
from penstock.engine.auditing import export
from penstock.store import audit
from penstock.store.database import Database
from store.chains import CUT_HEAD, REQUEST, RUN, tamper
from support.postgres import database, database_url, postgres_server, postgres_template

__all__ = ["database", "database_url", "postgres_server", "postgres_template"]

NOBODY_THERE = "postgresql://penstock@127.0.0.1:9/penstock"


@pytest.fixture
async def chain(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Give a database with a chain of five entries, which the settings name."""
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", database.url.dsn)
    for person in ("ann", "bob", "cid", "ann"):
        facts = {"comment": f"fine\n\x1b[31m, says {person}"}
        await audit.record(
            database, kind="decision", run_id=RUN, request_id=REQUEST, person=person, facts=facts
        )
    await audit.record(database, kind="policy.loaded")
    return database


async def penstock(*arguments: object, given: bytes = b"") -> tuple[int, str, str]:
    """Give a command's exit code, output and messages."""

    def run() -> tuple[int, str, str]:
        words = ["audit", *map(str, arguments)]
        result = CliRunner().invoke(app, words, input=given, catch_exceptions=False)
        return result.exit_code, result.stdout, result.stderr

    return await asyncio.to_thread(run)


def offline(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process whose database is away, and tell what it has imported."""
    words = ["penstock", "audit", *map(str, arguments)]
    program = f"""
import sys
from penstock.cli.main import main
sys.argv = {words!r}
try:
    main()
finally:
    print("imported", sorted({{"prefect", "sqlalchemy", "asyncpg"}} & set(sys.modules)), file=sys.stderr)
"""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PENSTOCK_DATABASE_URL": NOBODY_THERE},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def copied(database: Database) -> str:
    file = io.BytesIO()
    await export(database, file)
    return file.getvalue().decode()


async def test_whole_chain_is_told_with_its_head(chain: Database) -> None:
    last = await audit.head(chain)

    exit_code, told, messages = await penstock("verify")
    as_json = await penstock("verify", "--json", "--head", f"5:{last.hash}")

    assert (exit_code, messages) == (0, "")
    assert told == f"whole: 5 entries, 1 to 5\nhead 5:{last.hash}\n"
    assert as_json[0] == 0
    assert json.loads(as_json[1]) == {
        "ok": True,
        "entries": 5,
        "start": {"seq": 0, "hash": "0" * 64},
        "head": {"seq": 5, "hash": last.hash},
        "broken": None,
    }


async def test_empty_chain_is_whole(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", database.url.dsn)

    told = await penstock("verify")
    listed = await penstock("list")

    assert told[:2] == (0, f"whole: no entries\nhead 0:{'0' * 64}\n")
    assert listed[:2] == (0, "there is none\n")


@pytest.mark.usefixtures("chain")
async def test_broken_chain_is_told_with_the_first_broken_link(database: Database) -> None:
    await tamper(database, "UPDATE penstock.audit_entry SET person = E'eve\\x1b[2J' WHERE seq = 3")

    exit_code, told, messages = await penstock("verify")
    as_json = await penstock("verify", "--json")

    assert (exit_code, told) == (1, "")
    assert "broken: entry 3: column 'person': expected 'cid' as in its text, found 'eve" in messages
    assert "whole before that: 2 entries, 1 to 2" in messages
    assert "\x1b" not in messages
    assert as_json[0] == 1
    found = json.loads(as_json[1])
    assert (found["ok"], found["entries"], found["broken"]["seq"]) == (False, 2, 3)
    assert set(found["broken"]) == {"seq", "what", "expected", "found", "message"}


async def test_noted_head_finds_what_was_cut_off(chain: Database, database: Database) -> None:
    last = await audit.head(chain)
    await tamper(database, "DELETE FROM penstock.audit_entry WHERE seq = 5")
    await tamper(
        database,
        CUT_HEAD,
    )

    without = await penstock("verify")
    exit_code, _, messages = await penstock("verify", "--head", f"5:{last.hash}")

    assert without[0] == 0
    assert exit_code == 1
    assert "entry 5: the head that was noted" in messages


@pytest.mark.usefixtures("chain")
async def test_head_that_is_none_is_bad_usage() -> None:
    exit_code, _, messages = await penstock("verify", "--head", "five")

    assert exit_code == 2
    assert "'five' is no head of the audit chain" in messages


@pytest.mark.usefixtures("chain")
async def test_copy_is_checked_without_database_and_without_prefect(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"

    exported = await penstock("export", file)
    done = await asyncio.to_thread(offline, "verify", file)

    assert exported[0] == 0
    assert exported[1] == ""
    assert exported[2].startswith("head 5:")
    assert done.returncode == 0
    assert done.stdout == f"whole: 5 entries, 1 to 5\n{exported[2]}"
    assert done.stderr == "imported []\n"


async def test_copy_goes_through_standard_output_and_input(chain: Database) -> None:
    exit_code, lines, messages = await penstock("export", "-", "--after", "2")
    verified = await penstock("verify", "-", given=lines.encode())

    assert exit_code == 0
    assert len(lines.splitlines()) == 3
    assert verified[0] == 0
    assert verified[1] == f"whole: 3 entries, 3 to 5\n{messages}"
    assert verified[2].startswith("it follows on 2:")
    assert (await copied(chain)).endswith(lines)


async def test_changed_copy_is_broken_and_a_bad_one_is_named_with_its_line(
    chain: Database, tmp_path: Path
) -> None:
    changed, bad, empty = tmp_path / "changed", tmp_path / "bad", tmp_path / "empty"
    good = await copied(chain)
    changed.write_text(good.replace("bob", "eve"))
    bad.write_text(good.replace('"previous"', '"before"'))
    empty.touch()

    assert (await penstock("verify", changed))[0] == 1
    for file, words in (
        (bad, "this is not as an export"),
        (empty, "there are no entries"),
        (tmp_path / "no", "No such file"),
    ):
        exit_code, _, messages = await penstock("verify", file)
        assert exit_code == 2
        assert messages.startswith(f"{file}:1:1: {words}")
    as_json = await penstock("verify", bad, "--json")
    assert json.loads(as_json[1])["error"]["problems"][0]["line"] == 1


@pytest.mark.usefixtures("chain")
async def test_copy_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    nowhere = await penstock("export", tmp_path / "none" / "audit.jsonl")
    nothing = await penstock("export", "-", "--after", "6")

    assert nowhere[0] == nothing[0] == 2
    assert "cannot be written" in nowhere[2]
    assert "the audit chain ends with entry 5" in nothing[2]


@pytest.mark.usefixtures("chain")
async def test_list_shows_the_newest_last() -> None:
    exit_code, told, _ = await penstock("list", "--limit", "3")
    as_json = await penstock("list", "--json")

    head, *lines = told.splitlines()
    assert exit_code == 0
    assert head.split() == ["SEQ", "AT", "KIND", "PERSON", "REQUEST", "RUN", "FACTS"]
    assert [line.split()[0] for line in lines] == ["3", "4", "5"]
    assert str(REQUEST)[:13] in lines[0]
    assert "says cid" in lines[0]
    assert "\x1b" not in told
    assert [entry["seq"] for entry in json.loads(as_json[1])] == [1, 2, 3, 4, 5]
    assert json.loads(as_json[1])[1]["facts"] == {"comment": "fine\n\x1b[31m, says bob"}


@pytest.mark.parametrize(
    ("options", "seqs"),
    [
        (("--person", "ann"), [1, 4]),
        (("--kind", "policy.loaded"), [5]),
        (("--request", REQUEST), [1, 2, 3, 4]),
        (("--run", RUN, "--person", "bob"), [2]),
        (("--run", UUID(int=1)), []),
    ],
)
@pytest.mark.usefixtures("chain")
async def test_list_is_narrowed(options: tuple[object, ...], seqs: list[int]) -> None:
    exit_code, told, _ = await penstock("list", *options, "--json")

    assert exit_code == 0
    assert [entry["seq"] for entry in json.loads(told)] == seqs


@pytest.mark.usefixtures("chain")
async def test_entry_with_a_time_that_is_none_is_listed(database: Database) -> None:
    await tamper(database, "UPDATE penstock.audit_entry SET entry = 'x', at = 'infinity' WHERE seq = 5")

    exit_code, told, _ = await penstock("list", "--limit", "1")

    assert exit_code == 0
    assert "infinity" in told
    assert "unreadable" in told


@pytest.mark.usefixtures("chain")
async def test_id_that_is_none_is_bad_usage() -> None:
    exit_code, told, messages = await penstock("list", "--request", "zz")

    assert (exit_code, told) == (2, "")
    assert "'zz' is not the id of an approval" in messages


@pytest.mark.usefixtures("chain")
async def test_person_at_a_terminal_sees_how_far_the_check_is() -> None:
    terminal, end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "penstock.cli.main",
        "audit",
        "verify",
        stdout=asyncio.subprocess.PIPE,
        stderr=end,
    )
    printed, _ = await process.communicate()
    os.close(end)
    seen = os.read(terminal, 1000).decode()
    os.close(terminal)

    assert process.returncode == 0
    assert printed.startswith(b"whole: 5 entries")
    assert seen == "\r5 of 5 entries checked\r\n"
