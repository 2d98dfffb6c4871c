"""The database that the settings name: an external one, or the embedded server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from penstock.settings import Settings
from penstock.store import embedded
from penstock.store.database import Database

__all__ = ["open_database"]


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncGenerator[Database]:
    """Open the database; the embedded server is started when nobody has, and left as it was found."""
    if settings.database_url is not None:
        async with Database(settings.database_url) as database:
            yield database
        return
    async with embedded.running(settings.home_dir, tied=True) as server, Database(server.url) as database:
        yield database
