"""Workflows and their revisions, which never change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.errors import NotFound
from penstock.store.database import Database
from penstock.store.documents import encode


@dataclass(frozen=True)
class Workflow:
    """A workflow by its name."""

    name: str
    deployment_id: UUID | None
    """Prefect's deployment of it."""
    revision_id: UUID | None
    """The current revision."""
    number: int | None
    """Number of the current revision."""
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


@dataclass(frozen=True)
class Revision:
    """One state of a workflow file, frozen."""

    id: UUID
    workflow: str
    number: int
    """Counts from 1 per workflow, without gaps."""
    digest: str
    source: str
    """The file as it was written."""
    spec: Mapping[str, Any]
    """The file as it was understood."""
    agents: Mapping[str, str]
    """Versions of the agents it uses, {name: version}."""
    created_by: str
    created_at: datetime


async def save_revision(
    database: Database,
    *,
    workflow: str,
    digest: str,
    source: str,
    spec: Mapping[str, Any],
    agents: Mapping[str, str],
    created_by: str,
) -> Revision:
    """Save a workflow's revision and make it the current one; a deleted workflow comes back.

    Args:
        digest: Of all that makes the revision what it is, the agents' versions included. A
            revision with this digest that exists already is made current and returned.
    """
    values = {
        "workflow": workflow,
        "digest": digest,
        "source": source,
        "spec": encode(spec),
        "agents": encode(agents),
        "created_by": created_by,
    }

    async def work(connection: AsyncConnection) -> Revision:
        # The row of the workflow is the lock under which numbers are given out.
        await connection.execute(_CLAIM_WORKFLOW, {"workflow": workflow})
        found = await _one(connection, _BY_DIGEST, {"workflow": workflow, "digest": digest})
        revision = found or await _one(connection, _INSERT_REVISION, {**values, "id": uuid4()})
        if revision is None:
            raise NotFound(f"workflow {workflow!r} vanished while it was saved")
        await connection.execute(_MAKE_CURRENT, {"workflow": workflow, "revision": revision.id})
        return revision

    return await database.transact(work)


async def get_revision(database: Database, revision_id: UUID) -> Revision:
    """Get a revision by its id.

    Raises:
        NotFound: There is none.
    """
    rows = await database.fetch(_BY_ID, {"id": revision_id})
    if not rows:
        raise NotFound(f"there is no revision {str(revision_id)!r}")
    return Revision(**rows[0])


async def get_revision_by_number(database: Database, workflow: str, number: int) -> Revision:
    """Get a workflow's revision by its number.

    Raises:
        NotFound: There is none.
    """
    rows = await database.fetch(_BY_NUMBER, {"workflow": workflow, "number": number})
    if not rows:
        raise NotFound(f"workflow {workflow!r} has no revision {number}")
    return Revision(**rows[0])


async def list_revisions(database: Database, workflow: str, *, limit: int = 100) -> list[Revision]:
    """List a workflow's revisions, newest first."""
    rows = await database.fetch(_BY_WORKFLOW, {"workflow": workflow, "limit": limit})
    return [Revision(**row) for row in rows]


async def current_revision(database: Database, workflow: str) -> Revision:
    """Get the current revision of a workflow.

    Raises:
        NotFound: There is no such workflow, or it is deleted.
    """
    rows = await database.fetch(_CURRENT, {"workflow": workflow})
    if not rows:
        raise NotFound(f"there is no workflow {workflow!r}")
    return Revision(**rows[0])


async def current_revision_for_deployment(database: Database, deployment_id: UUID) -> Revision:
    """Get the current revision of the workflow that a Prefect deployment stands for.

    Raises:
        NotFound: The deployment is of no workflow, or of a deleted one.
    """
    rows = await database.fetch(_CURRENT_FOR_DEPLOYMENT, {"deployment": deployment_id})
    if not rows:
        raise NotFound(f"deployment {str(deployment_id)!r} belongs to no workflow")
    return Revision(**rows[0])


async def get_workflow(database: Database, name: str) -> Workflow:
    """Get a workflow, a deleted one as well.

    Raises:
        NotFound: There is none of that name.
    """
    rows = await database.fetch(_WORKFLOW, {"name": name})
    if not rows:
        raise NotFound(f"there is no workflow {name!r}")
    return Workflow(**rows[0])


async def list_workflows(database: Database, *, deleted: bool = False) -> list[Workflow]:
    """List the workflows by name.

    Args:
        deleted: Whether deleted ones are listed too.
    """
    return [Workflow(**row) for row in await database.fetch(_WORKFLOWS, {"deleted": deleted})]


async def set_deployment(database: Database, workflow: str, deployment_id: UUID | None) -> None:
    """Note which Prefect deployment stands for a workflow; another workflow loses it.

    Raises:
        NotFound: There is no such workflow.
    """
    values = {"name": workflow, "deployment": deployment_id}

    async def work(connection: AsyncConnection) -> int:
        await connection.execute(_FREE_DEPLOYMENT, values)
        return len((await connection.execute(_SET_DEPLOYMENT, values)).all())

    if not await database.transact(work):
        raise NotFound(f"there is no workflow {workflow!r}")


async def delete_workflow(database: Database, name: str) -> None:
    """Mark a workflow as deleted; its revisions and runs stay, its deployment is let go.

    Raises:
        NotFound: There is no such workflow.
    """
    if not await database.fetch(_DELETE_WORKFLOW, {"name": name}):
        raise NotFound(f"there is no workflow {name!r}")


async def _one(connection: AsyncConnection, statement: TextClause, values: dict[str, Any]) -> Revision | None:
    row = (await connection.execute(statement, values)).mappings().one_or_none()
    return None if row is None else Revision(**row)


_REVISION = """
    SELECT r.id, r.workflow, r.number, r.digest, r.source, r.spec, r.agents, r.created_by, r.created_at
    FROM penstock.workflow_revision AS r
"""
_BY_ID = text(_REVISION + "WHERE r.id = :id")
_BY_DIGEST = text(_REVISION + "WHERE r.workflow = :workflow AND r.digest = :digest")
_BY_NUMBER = text(_REVISION + "WHERE r.workflow = :workflow AND r.number = :number")
_BY_WORKFLOW = text(_REVISION + "WHERE r.workflow = :workflow ORDER BY r.number DESC LIMIT :limit")
_CURRENT_ONE = _REVISION + "JOIN penstock.workflow AS w ON w.revision_id = r.id WHERE w.deleted_at IS NULL "
_CURRENT = text(_CURRENT_ONE + "AND w.name = :workflow")
_CURRENT_FOR_DEPLOYMENT = text(_CURRENT_ONE + "AND w.deployment_id = :deployment")

_CLAIM_WORKFLOW = text("""
    INSERT INTO penstock.workflow (name) VALUES (:workflow)
    ON CONFLICT (name) DO UPDATE SET updated_at = now()
""")
_INSERT_REVISION = text("""
    INSERT INTO penstock.workflow_revision AS r
        (id, workflow, number, digest, source, spec, agents, created_by)
    SELECT :id, :workflow, coalesce(max(known.number), 0) + 1, :digest, :source,
           CAST(:spec AS jsonb), CAST(:agents AS jsonb), :created_by
    FROM penstock.workflow_revision AS known WHERE known.workflow = :workflow
    RETURNING r.id, r.workflow, r.number, r.digest, r.source, r.spec, r.agents, r.created_by, r.created_at
""")
_MAKE_CURRENT = text("""
    UPDATE penstock.workflow SET revision_id = :revision, deleted_at = NULL, updated_at = now()
    WHERE name = :workflow
""")

_WORKFLOW_ROW = """
    SELECT w.name, w.deployment_id, w.revision_id, r.number, w.created_at, w.updated_at, w.deleted_at
    FROM penstock.workflow AS w LEFT JOIN penstock.workflow_revision AS r ON r.id = w.revision_id
"""
_WORKFLOW = text(_WORKFLOW_ROW + "WHERE w.name = :name")
_WORKFLOWS = text(_WORKFLOW_ROW + "WHERE w.deleted_at IS NULL OR :deleted ORDER BY w.name")
_FREE_DEPLOYMENT = text("""
    UPDATE penstock.workflow SET deployment_id = NULL, updated_at = now()
    WHERE deployment_id = :deployment AND name <> :name
""")
_SET_DEPLOYMENT = text("""
    UPDATE penstock.workflow SET deployment_id = :deployment, updated_at = now()
    WHERE name = :name RETURNING name
""")
_DELETE_WORKFLOW = text("""
    UPDATE penstock.workflow
    SET deleted_at = coalesce(deleted_at, now()), deployment_id = NULL, updated_at = now()
    WHERE name = :name RETURNING name
""")
