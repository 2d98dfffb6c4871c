"""A real PostgreSQL for tests: one server per session, one migrated database per test.

A conftest imports the fixtures it wants and lists them in `__all__`.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text

from penstock.store import migrate
from penstock.store.database import Database
from penstock.store.embedded import SUPERUSER, USER, Server, start

TEMPLATE = "penstock_template"
FAST = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB"}


@contextmanager
def temporary_home() -> Generator[Path]:
    """Make a home that the server's account can reach, also when tests run as root."""
    home = Path(tempfile.mkdtemp(prefix="penstock-test-"))
    home.chmod(0o711)
    try:
        yield home
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def postgres_server() -> Generator[Server]:
    """Run one server for all tests; it ends with the test process, however that ends."""
    with temporary_home() as home:
        server = start(home, tied=True, settings=FAST)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Server) -> str:
    """Make the migrated database that those of the tests are copies of."""

    async def make() -> None:
        async with _admin(postgres_server) as admin:
            await admin.fetch(text(f"CREATE DATABASE {TEMPLATE} OWNER {USER}"))
        await migrate.upgrade(postgres_server.dsn(TEMPLATE))

    asyncio.run(make())
    return TEMPLATE


@pytest.fixture
async def database_url(postgres_server: Server, postgres_template: str) -> AsyncGenerator[str]:
    """Give the URL of a migrated, empty database of the test's own."""
    name = f"test_{uuid4().hex}"
    async with _admin(postgres_server) as admin:
        await admin.fetch(text(f"CREATE DATABASE {name} OWNER {USER} TEMPLATE {postgres_template}"))
        yield postgres_server.dsn(name)
        await admin.fetch(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[Database]:
    """Give a `Database` on a migrated, empty database of the test's own."""
    async with Database(database_url, retry_s=5) as database:
        yield database


def _admin(server: Server) -> Database:
    return Database(server.dsn("postgres", SUPERUSER), retry_s=0)
