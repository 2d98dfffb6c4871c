from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, text

from penstock.errors import StoreError
from penstock.store import migrate
from penstock.store.database import Database
from penstock.store.embedded import SUPERUSER, USER, Server
from penstock.store.tables import SCHEMA, metadata

CHECKS = """
    SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint
    WHERE contype = 'c' AND connamespace = 'penstock'::regnamespace
"""


@pytest.fixture
async def empty_url(postgres_server: Server) -> AsyncGenerator[str]:
    name = f"empty_{uuid4().hex}"
    async with Database(postgres_server.dsn("postgres", SUPERUSER)) as admin:
        await admin.fetch(text(f"CREATE DATABASE {name} OWNER {USER}"))
        yield postgres_server.dsn(name)
        await admin.fetch(text(f"DROP DATABASE {name} WITH (FORCE)"))


async def test_upgrade_reaches_the_head(empty_url: str) -> None:
    assert await migrate.current(empty_url) is None
    assert (await migrate.pending(empty_url))[-1] == migrate.head()

    assert await migrate.upgrade(empty_url) == migrate.head()

    assert await migrate.current(empty_url) == migrate.head()
    assert await migrate.pending(empty_url) == []


async def test_upgrade_runs_once_when_many_start_at_once(empty_url: str) -> None:
    reached = await asyncio.gather(*(migrate.upgrade(empty_url) for _ in range(5)))

    assert set(reached) == {migrate.head()}


async def test_upgrade_touches_nothing_outside_its_schema(empty_url: str) -> None:
    async with Database(empty_url) as database:
        await database.fetch(text("CREATE TABLE public.alembic_version (version_num text)"))
        await database.fetch(text("INSERT INTO public.alembic_version VALUES ('prefects')"))

        await migrate.upgrade(empty_url)

        found = await database.fetch(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        version = await database.fetch(text("SELECT version_num FROM public.alembic_version"))
    assert [row["tablename"] for row in found] == ["alembic_version"]
    assert [row["version_num"] for row in version] == ["prefects"]


async def test_database_of_a_newer_penstock_is_refused(database: Database, database_url: str) -> None:
    await database.fetch(text("UPDATE penstock.alembic_version SET version_num = '9999'"))

    with pytest.raises(StoreError, match="9999"):
        await migrate.upgrade(database_url)
    with pytest.raises(StoreError, match="9999"):
        await migrate.pending(database_url)


async def test_tables_are_what_the_migrations_make(database: Database) -> None:
    def ours(_object: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
        return kind != "table" or name != "alembic_version"

    def only_our_schema(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "schema" or name == SCHEMA

    def differences(connection: Connection) -> list[Any]:
        options = {
            "include_schemas": True,
            "include_object": ours,
            "include_name": only_our_schema,
            "compare_server_default": True,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    found = await database.transact(lambda connection: connection.run_sync(differences))

    assert found == []


async def test_checks_are_what_the_tables_say(database: Database) -> None:
    found = await database.fetch(text(CHECKS))

    declared = {
        str(check.name): set(re.findall(r"'(\w+)'", str(check.sqltext)))
        for table in metadata.tables.values()
        for check in table.constraints
        if isinstance(check, CheckConstraint)
    }
    assert {row["name"]: set(re.findall(r"'(\w+)'", row["definition"])) for row in found} == declared
