from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from penstock.errors import NotFound, StoreError
from penstock.store.database import Database
from penstock.store.workflows import (
    Revision,
    current_revision,
    current_revision_for_deployment,
    delete_workflow,
    get_revision,
    get_revision_by_number,
    get_workflow,
    list_revisions,
    list_workflows,
    save_revision,
    set_deployment,
)


async def save(database: Database, digest: str, workflow: str = "fix", **changes: Any) -> Revision:
    values: dict[str, Any] = {
        "source": digest,
        "spec": {"digest": digest},
        "agents": {},
        "created_by": "ann",
        **changes,
    }
    return await save_revision(database, workflow=workflow, digest=digest, **{**values, **changes})


async def test_save_revision_counts_and_makes_current(database: Database) -> None:
    first, second = await save(database, "a"), await save(database, "b")

    assert (first.number, second.number) == (1, 2)
    assert await current_revision(database, "fix") == second


async def test_save_revision_with_a_known_digest_makes_that_one_current(database: Database) -> None:
    first = await save(database, "a")
    await save(database, "b")

    assert await save(database, "a") == first
    assert await current_revision(database, "fix") == first


async def test_save_revision_numbers_have_no_gaps_under_concurrency(database: Database) -> None:
    saved = await asyncio.gather(*(save(database, f"d{index % 15}") for index in range(30)))

    assert sorted({revision.number for revision in saved}) == list(range(1, 16))
    assert len({revision.id for revision in saved}) == 15


async def test_save_revision_that_fails_leaves_no_gap(database: Database) -> None:
    await save(database, "a")
    with pytest.raises(StoreError):
        await save(database, "b", created_by=None)

    assert (await save(database, "c")).number == 2


async def test_save_revision_keeps_every_character_of_the_spec(database: Database) -> None:
    spec = {"text": "a\x00b\ud800\x1a", "\x00": [1.5, None, True]}
    saved = await save(database, "a", spec=spec)

    assert (await get_revision(database, saved.id)).spec == spec


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE penstock.workflow_revision SET source = 'other'",
        "DELETE FROM penstock.workflow_revision",
        "TRUNCATE penstock.workflow_revision CASCADE",
    ],
)
async def test_revision_never_changes(database: Database, revision: Revision, statement: str) -> None:
    with pytest.raises(StoreError, match="never change"):
        await database.fetch(text(statement))

    assert await get_revision(database, revision.id) == revision


async def test_deployment_leads_to_the_current_revision(database: Database, revision: Revision) -> None:
    deployment = uuid4()
    await set_deployment(database, "fix", deployment)

    assert await current_revision_for_deployment(database, deployment) == revision


async def test_deployment_moves_between_workflows(database: Database, revision: Revision) -> None:
    deployment = uuid4()
    other = await save(database, "o", workflow="other")
    for name in (revision.workflow, "other", "other"):
        await set_deployment(database, name, deployment)

    assert await current_revision_for_deployment(database, deployment) == other


async def test_deleted_workflow_is_gone_and_comes_back(database: Database, revision: Revision) -> None:
    deployment = uuid4()
    await set_deployment(database, "fix", deployment)
    await delete_workflow(database, "fix")

    with pytest.raises(NotFound):
        await current_revision_for_deployment(database, deployment)
    with pytest.raises(NotFound):
        await current_revision(database, "fix")
    assert await list_workflows(database) == []
    assert [workflow.name for workflow in await list_workflows(database, deleted=True)] == ["fix"]
    assert (await save(database, "d1")).id == revision.id
    assert [workflow.name for workflow in await list_workflows(database)] == ["fix"]


async def test_workflow_and_its_revisions_are_listed(database: Database) -> None:
    first, second = await save(database, "a"), await save(database, "b")

    assert [found.number for found in await list_revisions(database, "fix")] == [2, 1]
    assert await get_revision_by_number(database, "fix", 1) == first
    workflow = await get_workflow(database, "fix")
    assert (workflow.revision_id, workflow.number) == (second.id, 2)


async def test_unknown_things_are_not_found(database: Database) -> None:
    for call in (
        get_revision(database, uuid4()),
        get_revision_by_number(database, "none", 1),
        get_workflow(database, "none"),
        set_deployment(database, "none", uuid4()),
        delete_workflow(database, "none"),
    ):
        with pytest.raises(NotFound):
            await call
