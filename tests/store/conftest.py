from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from penstock.store.database import Database
from penstock.store.listening import Listener
from penstock.store.runs import Entry
from penstock.store.tables import SIGNAL_CHANNEL
from penstock.store.workflows import Revision, save_revision
from store.entering import enter
from support.postgres import database, database_url, postgres_server, postgres_template, temporary_home

__all__ = ["database", "database_url", "home", "postgres_server", "postgres_template", "revision"]


@pytest.fixture
def home() -> Generator[Path]:
    with temporary_home() as path:
        yield path


@pytest.fixture
async def revision(database: Database) -> Revision:
    return await save_revision(
        database,
        workflow="fix",
        digest="d1",
        source="kind: Workflow",
        spec={"nodes": []},
        agents={"patcher": "1"},
        created_by="ann",
    )


@pytest.fixture
async def entry(database: Database, revision: Revision) -> Entry:
    return await enter(database, revision)


@pytest.fixture
async def signals(database: Database) -> AsyncGenerator[Listener]:
    async with database.listen(SIGNAL_CHANNEL) as listener:
        assert (await anext(listener)).missed
        yield listener
