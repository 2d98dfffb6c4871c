"""Bring the schema `penstock` up to date; Prefect's own tables are never touched."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Connection, text

from penstock.errors import StoreError
from penstock.store.database import Database
from penstock.store.tables import SCHEMA
from penstock.store.urls import DatabaseUrl

T = TypeVar("T")

_LOCK_KEY = 0x50454E53
"""Key of the advisory lock under which one process at a time migrates."""


async def upgrade(database_url: str | SecretStr | DatabaseUrl) -> str:
    """Run every pending migration in one transaction and give the revision reached.

    Any number of processes may call this at once: one works, the others wait and find it done.

    Raises:
        StoreError: The database is newer than this Penstock, or a migration failed; then
            nothing has changed.
        DatabaseUnavailable: The database cannot be reached.
    """

    def work(connection: Connection) -> str:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        _check_known(_current(connection))
        _make_schema(connection)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return head()

    async with _opened(database_url) as database:
        return await database.transact(lambda connection: connection.run_sync(work))


async def current(database_url: str | SecretStr | DatabaseUrl) -> str | None:
    """Give the revision of the database; None where nothing has been migrated."""
    return await _read(database_url, _current)


def head() -> str:
    """Give the newest revision that this Penstock knows."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise StoreError("this Penstock was built without its migrations")
    return revision


async def pending(database_url: str | SecretStr | DatabaseUrl) -> list[str]:
    """List the revisions that `upgrade` would run, oldest first.

    Raises:
        StoreError: The database is newer than this Penstock.
    """
    reached = await _read(database_url, _current)
    _check_known(reached)
    scripts = _scripts().iterate_revisions("head", reached or "base")
    return [script.revision for script in scripts][::-1]


async def _read(database_url: str | SecretStr | DatabaseUrl, read: Callable[[Connection], T]) -> T:
    async with _opened(database_url) as database:
        return await database.transact(lambda connection: connection.run_sync(read))


@asynccontextmanager
async def _opened(database_url: str | SecretStr | DatabaseUrl) -> AsyncGenerator[Database]:
    async with Database(database_url, pool_size=1, statement_s=600) as database:
        yield database


def _config() -> Config:
    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(
        connection, opts={"version_table_schema": SCHEMA}
    ).get_current_revision()


def _check_known(reached: str | None) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if reached is not None and reached not in known:
        raise StoreError(
            f"the database is at revision {reached!r}, which this Penstock does not know;"
            " install the version that made it, or a newer one"
        )


def _make_schema(connection: Connection) -> None:
    # IF NOT EXISTS wants the right to create schemas even where ours exists.
    exists = connection.scalar(
        text("SELECT count(*) FROM pg_namespace WHERE nspname = :name"), {"name": SCHEMA}
    )
    if not exists:
        connection.execute(text(f'CREATE SCHEMA "{SCHEMA}"'))
