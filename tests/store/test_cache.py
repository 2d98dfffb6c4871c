from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from penstock.store.cache import Cached, cached, forget_expired, remember
from penstock.store.database import Database

AGE = text("UPDATE penstock.cached_output SET expires_at = expires_at - make_interval(secs => 61)")


async def keep(database: Database, key: str, output: Any, reference: str | None = None) -> UUID:
    run_id = uuid4()
    await remember(
        database, key, agent="scanner", run_id=run_id, output=output, output_ref=reference, ttl_s=60
    )
    return run_id


async def test_output_is_kept_under_its_key(database: Database) -> None:
    run_id = await keep(database, "k", {"text": "a\x00b"})
    other = await keep(database, "large", None, "results/1")

    assert await cached(database, "k") == Cached({"text": "a\x00b"}, None, run_id)
    assert await cached(database, "large") == Cached(None, "results/1", other)
    assert await cached(database, "none") is None


async def test_newer_output_takes_the_place(database: Database) -> None:
    await asyncio.gather(*(keep(database, "k", index) for index in range(6)))
    run_id = await keep(database, "k", "last")

    assert await cached(database, "k") == Cached("last", None, run_id)


async def test_output_is_forgotten_after_its_time(database: Database) -> None:
    for key in "ab":
        await keep(database, key, key)
    await database.fetch(AGE)
    await keep(database, "b", "new")

    assert await cached(database, "a") is None
    assert await forget_expired(database) == 1
    assert await forget_expired(database) == 0
    assert await cached(database, "b") is not None
