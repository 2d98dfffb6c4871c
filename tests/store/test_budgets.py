from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from penstock.store.budgets import reserve
from penstock.store.database import Database
from penstock.store.runs import Entry
from penstock.store.workflows import Revision
from store.entering import enter

AGE = text("UPDATE penstock.mutation SET at = at - make_interval(secs => 61)")


async def spend(
    database: Database, entry: Entry, *targets: str, unit: str = "apply", **changes: Any
) -> tuple[str, ...]:
    values: dict[str, Any] = {
        "run_id": entry.run.id,
        "token": entry.run.token,
        "node_id": unit,
        "item": "",
        "epoch": 1,
        "workflow": "fix",
        "targets": targets,
        "per_target": True,
        "limit": 2,
        "window_s": 60,
        **changes,
    }
    return await reserve(database, **values)


async def test_targets_have_budgets_of_their_own(database: Database, entry: Entry) -> None:
    assert await spend(database, entry, "a", "b", unit="n1") == ()
    assert await spend(database, entry, "a", unit="n2") == ()

    assert await spend(database, entry, "a", "b", unit="n3") == ("a",)
    assert await spend(database, entry, "b", unit="n4") == ()
    assert await spend(database, entry, unit="n5") == ()


async def test_refused_change_counts_nothing(database: Database, entry: Entry) -> None:
    for unit in ("n1", "n2"):
        await spend(database, entry, "a", unit=unit)
    for unit in ("n3", "n4", "n5"):
        assert await spend(database, entry, "a", "b", unit=unit) == ("a",)

    assert await spend(database, entry, "b", unit="n6") == ()


async def test_same_change_counts_once_per_epoch(database: Database, entry: Entry) -> None:
    for _ in range(3):
        assert await spend(database, entry, "a", "a", limit=1) == ()

    assert await spend(database, entry, "a", limit=1, epoch=2) == ("a",)
    assert await spend(database, entry, "a", limit=1, item="x") == ("a",)


async def test_workflow_has_one_budget_for_all_targets(database: Database, entry: Entry) -> None:
    assert await spend(database, entry, "a", "b", "c", unit="n1", per_target=False) == ()
    assert await spend(database, entry, unit="n2", per_target=False) == ()

    assert await spend(database, entry, "d", unit="n3", per_target=False) == ("fix",)
    assert await spend(database, entry, unit="n4", per_target=False) == ("fix",)
    assert await spend(database, entry, "a", "b", "c", unit="n1", per_target=False) == ()
    assert await spend(database, entry, "d", unit="n3", per_target=False, workflow="other") == ()


@pytest.mark.parametrize("per_target", [True, False])
async def test_budget_is_there_again_after_its_window(
    database: Database, entry: Entry, *, per_target: bool
) -> None:
    assert await spend(database, entry, "a", unit="n1", limit=1, per_target=per_target) == ()
    assert await spend(database, entry, "a", unit="n2", limit=1, per_target=per_target) != ()
    await database.fetch(AGE)

    assert await spend(database, entry, "a", unit="n2", limit=1, per_target=per_target) == ()


@pytest.mark.parametrize("per_target", [True, False])
async def test_many_at_once_stay_within_the_budget(
    database: Database, revision: Revision, *, per_target: bool
) -> None:
    entries = [await enter(database, revision) for _ in range(12)]

    over = await asyncio.gather(
        *(spend(database, entry, "a", limit=5, per_target=per_target) for entry in entries)
    )

    assert sum(not found for found in over) == 5
