from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, text

from penstock.errors import StoreError
from penstock.store import migrate
from penstock.store.approval_tables import metadata
from penstock.store.database import Database
from penstock.store.embedded import SUPERUSER, USER, Server
from penstock.store.runs import finish_run, get_run
from penstock.store.states import RunState
from penstock.store.tables import SCHEMA

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


INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'penstock'"
KEYS = """
    SELECT conname, conrelid::regclass::text AS of_table, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'penstock'::regnamespace AND contype <> 'n'
"""


async def test_indexes_and_keys_are_what_the_tables_say(database: Database, empty_url: str) -> None:
    def create(connection: Connection) -> None:
        connection.execute(text("CREATE SCHEMA penstock"))
        metadata.create_all(connection)

    async with Database(empty_url) as declared:
        await declared.transact(lambda connection: connection.run_sync(create))
        for statement in (INDEXES, KEYS):
            made, said = [
                {tuple(map(str, row.values())) for row in await place.fetch(text(statement))}
                for place in (database, declared)
            ]
            assert {row for row in made if "alembic" not in row[0]} == said


async def test_upgrade_keeps_the_runs_of_the_first_version(empty_url: str) -> None:
    run_id, revision_id = uuid4(), uuid4()
    async with Database(empty_url) as database:
        await database.transact(lambda connection: connection.run_sync(to_first))
        for statement in RUN_OF_THE_FIRST_VERSION:
            await database.fetch(text(statement), {"run": run_id, "revision": revision_id})

        await migrate.upgrade(empty_url)

        run = await get_run(database, run_id)
        assert (run.state, run.token, run.epoch, run.parent, run.holds_slot) == ("running", 0, 1, None, False)
        assert await finish_run(database, run_id, RunState.INTERRUPTED)


def to_first(connection: Connection) -> None:
    connection.execute(text("CREATE SCHEMA penstock"))
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")


RUN_OF_THE_FIRST_VERSION = (
    "INSERT INTO penstock.workflow (name) VALUES ('fix')",
    """
    INSERT INTO penstock.workflow_revision (id, workflow, number, digest, source, spec, agents, created_by)
    VALUES (:revision, 'fix', 1, 'd', '', '{}', '{}', 'ann')
    """,
    """
    INSERT INTO penstock.run (id, workflow, revision_id, name, trust, state)
    VALUES (:run, 'fix', :revision, 'fox', 'operator', 'running')
    """,
)
