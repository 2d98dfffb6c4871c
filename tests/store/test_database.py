from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.errors import DatabaseUnavailable, StoreError
from penstock.store.database import Database
from penstock.store.embedded import SUPERUSER, Server, start
from penstock.store.listening import Listener, Notice
from support.postgres import FAST

KICK_ALL = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")


async def kick(server: Server, database: Database) -> None:
    async with Database(server.dsn("postgres", SUPERUSER)) as admin:
        await admin.fetch(KICK_ALL, {"name": database.url.parsed.database})


async def next_of(listener: Listener) -> Notice:
    return await asyncio.wait_for(anext(listener), 10)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "/nowhere"])
async def test_unreachable_database_is_told_apart(host: str) -> None:
    place = f"/penstock?host={host}" if host.startswith("/") else f"{host}/penstock"
    async with Database(f"postgresql://ann:s3cret@{place}", retry_s=0) as database:
        with pytest.raises(DatabaseUnavailable, match="cannot be reached") as caught:
            await database.fetch(text("SELECT 1"))

    assert "s3cret" not in f"{caught.value} {caught.value.__cause__!r}"


async def test_missing_database_is_no_reason_to_retry(postgres_server: Server) -> None:
    async with Database(postgres_server.dsn("nothing")) as database:
        with pytest.raises(StoreError, match="does not exist") as caught:
            await database.fetch(text("SELECT 1"))

    assert not caught.value.retryable


async def test_refused_statement_shows_no_parameters(database: Database) -> None:
    with pytest.raises(StoreError, match="refused") as caught:
        await database.fetch(text("SELECT CAST(:value AS text) / 0"), {"value": "s3cret"})

    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"


async def test_fetch_rides_out_lost_connections(postgres_server: Server, database: Database) -> None:
    await asyncio.gather(*(database.fetch(text("SELECT pg_sleep(0.05)")) for _ in range(5)))
    await kick(postgres_server, database)

    answers = await asyncio.gather(*(database.fetch(text("SELECT 1 AS one")) for _ in range(5)))

    assert [rows[0]["one"] for rows in answers] == [1] * 5


async def test_fetch_rides_out_a_restart_of_the_server(home: Path) -> None:
    server = start(home, tied=True, settings=FAST)
    async with Database(server.dsn(), retry_s=20) as database:
        await database.fetch(text("SELECT 1"))
        await asyncio.to_thread(server.stop)
        waiting = asyncio.create_task(database.fetch(text("SELECT 1 AS one")))
        await asyncio.sleep(0.3)
        assert not waiting.done()

        server = await asyncio.to_thread(start, home, tied=True, settings=FAST)

        assert (await waiting)[0]["one"] == 1
    server.stop()


async def test_fetch_gives_up_after_its_time(home: Path) -> None:
    async with Database(f"postgresql:///penstock?host={home}", retry_s=0.3) as database:
        with pytest.raises(DatabaseUnavailable):
            await asyncio.wait_for(database.fetch(text("SELECT 1")), 5)


async def test_transact_undoes_everything_when_the_work_fails(database: Database) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text("CREATE TABLE half (id int)"))
        raise LookupError("enough")

    with pytest.raises(LookupError):
        await database.transact(work)
    assert (await database.fetch(text("SELECT to_regclass('half') AS found")))[0]["found"] is None


async def test_transact_repeats_what_a_deadlock_undid(database: Database) -> None:
    await database.fetch(text("CREATE TABLE pair AS SELECT id, 0 AS n FROM generate_series(1, 2) AS id"))

    async def add(first: int, second: int) -> None:
        async def work(connection: AsyncConnection) -> None:
            for row in (first, second):
                await connection.execute(text("UPDATE pair SET n = n + 1 WHERE id = :id"), {"id": row})
                await asyncio.sleep(0.1)

        await database.transact(work)

    await asyncio.gather(add(1, 2), add(2, 1))

    assert [row["n"] for row in await database.fetch(text("SELECT n FROM pair"))] == [2, 2]


async def test_listener_says_first_that_it_has_connected(database: Database) -> None:
    async with database.listen("news") as notices:
        assert (await next_of(notices)).missed


async def test_listener_gets_what_is_notified(database: Database) -> None:
    async with database.listen("news", "other") as notices:
        await next_of(notices)
        await database.notify("news", "hello")
        await database.notify("other")

        assert [await next_of(notices), await next_of(notices)] == [
            Notice("news", "hello"),
            Notice("other", ""),
        ]


async def test_listener_comes_back_and_says_so(postgres_server: Server, database: Database) -> None:
    async with database.listen("news") as notices:
        await next_of(notices)
        await kick(postgres_server, database)

        assert (await next_of(notices)).missed
        await database.notify("news", "again")
        assert await next_of(notices) == Notice("news", "again")


async def test_listener_comes_back_after_a_restart_of_the_server(home: Path) -> None:
    server = start(home, tied=True, settings=FAST)
    async with Database(server.dsn()) as database, database.listen("news") as notices:
        await next_of(notices)
        await asyncio.to_thread(server.stop)
        server = await asyncio.to_thread(start, home, tied=True, settings=FAST)

        assert (await next_of(notices)).missed
    server.stop()


async def test_listener_that_is_refused_says_why(postgres_server: Server) -> None:
    async with Database(postgres_server.dsn("nothing")).listen("news") as notices:
        with pytest.raises(StoreError, match="does not exist"):
            await next_of(notices)


async def test_notification_that_is_too_long_is_refused(database: Database) -> None:
    with pytest.raises(StoreError, match="longer than"):
        await database.notify("news", "x" * 8000)
