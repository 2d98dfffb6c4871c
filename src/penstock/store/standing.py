"""Standing grants: approvals in advance, for an agent and its targets, a while and a number of uses."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from penstock.errors import Conflict, NotFound
from penstock.store.database import Database
from penstock.store.documents import plain_text

__all__ = ["Standing", "grant_standing", "list_standing", "revoke_standing", "usable_standing"]


@dataclass(frozen=True)
class Standing:
    """An approval in advance."""

    id: UUID
    agent: str
    targets: tuple[str, ...]
    """Targets, each a text in which `*` stands for anything; a plan must have no other."""
    workflow: str | None
    """Only for runs of this workflow; None means any."""
    person: str
    """Whose approval it is."""
    claims: frozenset[str]
    comment: str
    created_at: datetime
    expires_at: datetime
    max_uses: int
    uses: int
    revoked_at: datetime | None
    revoked_by: str | None
    usable: bool
    """Whether it can be used now, by the clock of the database."""
    read_at: datetime
    """When this was read, by that clock."""


async def grant_standing(
    database: Database,
    *,
    agent: str,
    targets: Sequence[str],
    workflow: str | None,
    person: str,
    claims: Collection[str],
    comment: str,
    seconds: float,
    max_uses: int,
) -> Standing:
    """Approve in advance, for so many seconds from now."""
    values = {
        "id": uuid4(),
        "agent": agent,
        "targets": [plain_text(target) for target in targets],
        "workflow": workflow,
        "person": person,
        "claims": sorted(claims),
        "comment": plain_text(comment),
        "seconds": seconds,
        "max_uses": max_uses,
    }
    row = dict((await database.fetch(_GRANT, values))[0])
    del row["seq"]
    return _standing(row)


async def list_standing(database: Database, *, every: bool = False, limit: int = 200) -> list[Standing]:
    """List standing grants, newest first.

    Args:
        every: Also those that have ended, are used up or were revoked.
    """
    return [_standing(row) for row in await database.fetch(_LIST, {"every": every, "limit": limit})]


async def usable_standing(database: Database, agent: str, workflow: str) -> list[Standing]:
    """List the standing grants that runs of a workflow may use for an agent now, the first to end first."""
    rows = await database.fetch(_USABLE, {"agent": agent, "workflow": workflow})
    return [_standing(row) for row in rows]


async def revoke_standing(database: Database, standing_id: UUID, *, by: str) -> Standing:
    """Take a standing grant back; what runs already goes on.

    Raises:
        NotFound: There is none.
        Conflict: It was revoked before.
    """
    rows = await database.fetch(_REVOKE, {"id": standing_id, "by": by})
    if not rows:
        raise NotFound(f"there is no standing grant {str(standing_id)!r}")
    found = _standing((await database.fetch(_ONE, {"id": standing_id}))[0])
    if not rows[0]["revoked"]:
        raise Conflict(f"standing grant {standing_id} was revoked before, by {found.revoked_by}")
    return found


def _standing(row: Mapping[Any, Any]) -> Standing:
    columns: dict[str, Any] = dict(row)
    columns["targets"], columns["claims"] = tuple(row["targets"]), frozenset(row["claims"])
    return Standing(**columns)


_COLUMNS = """
    id, agent, targets, workflow, person, claims, comment, created_at, expires_at, max_uses, uses, revoked_at,
    revoked_by, revoked_at IS NULL AND uses < max_uses AND expires_at > now() AS usable,
    now() AS read_at
"""
_GRANT = text(f"""
    WITH made AS (
        INSERT INTO penstock.standing_grant
            (id, agent, targets, workflow, person, claims, comment, expires_at, max_uses)
        VALUES (:id, :agent, CAST(:targets AS text[]), :workflow, :person, CAST(:claims AS text[]), :comment,
                now() + make_interval(secs => CAST(:seconds AS float)), :max_uses)
        RETURNING *
    )
    SELECT {_COLUMNS}, penstock.audit('standing.created', NULL, NULL, person, jsonb_build_object(
        'id', id, 'agent', agent, 'targets', targets, 'workflow', workflow, 'comment', comment,
        'expires_at', expires_at, 'max_uses', max_uses)) AS seq
    FROM made
""")  # noqa: S608  all of it is our own
_ONE = text(f"SELECT {_COLUMNS} FROM penstock.standing_grant WHERE id = :id")  # noqa: S608  all of it is our own
_LIST = text(f"""
    SELECT {_COLUMNS} FROM penstock.standing_grant
    WHERE CAST(:every AS boolean) OR revoked_at IS NULL AND uses < max_uses AND expires_at > now()
    ORDER BY created_at DESC, id LIMIT :limit
""")  # noqa: S608  all of it is our own
_USABLE = text(f"""
    SELECT {_COLUMNS} FROM penstock.standing_grant
    WHERE agent = :agent AND (workflow IS NULL OR workflow = :workflow)
        AND revoked_at IS NULL AND uses < max_uses AND expires_at > now()
    ORDER BY expires_at, id LIMIT 100
""")  # noqa: S608  all of it is our own
_REVOKE = text("""
    WITH revoked AS (
        UPDATE penstock.standing_grant SET revoked_at = now(), revoked_by = :by
        WHERE id = :id AND revoked_at IS NULL
        RETURNING id
    )
    SELECT revoked.id IS NOT NULL AS revoked,
           CASE WHEN revoked.id IS NOT NULL THEN penstock.audit('standing.revoked', NULL, NULL,
               CAST(:by AS text), jsonb_build_object('id', known.id)) END AS seq
    FROM penstock.standing_grant AS known LEFT JOIN revoked ON revoked.id = known.id WHERE known.id = :id
""")
