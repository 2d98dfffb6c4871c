"""One-time codes for Prefect's own form and one-time links in notifications; only hashes are kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from penstock.store.approval_rows import ApprovalRequest, get_approval
from penstock.store.approvals import closed_error
from penstock.store.database import Database

__all__ = ["Taken", "make_code", "make_link", "take_code", "take_link"]


@dataclass(frozen=True)
class Taken:
    """A code that was used up, and whom it stands for."""

    request: ApprovalRequest
    person: str
    claims: frozenset[str]


async def make_code(
    database: Database, request_id: UUID, *, person: str, claims: Collection[str], code_hash: str
) -> None:
    """Keep the hash of a code with which one person may decide once; an earlier one of that person is void.

    Raises:
        NotFound: There is no such request.
        ApprovalClosed: It is not open any more.
    """
    values = {"id": request_id, "person": person, "claims": sorted(claims), "hash": code_hash}
    if not await database.fetch(_MAKE_CODE, values):
        raise closed_error(await get_approval(database, request_id))


async def take_code(database: Database, run_id: UUID, code_hash: str) -> Taken | None:
    """Use up a code and give the open request and the person that it stands for.

    Returns:
        None when no open request of the run has this code. As a code is taken once, a call
        whose answer is lost with the connection is followed by None.
    """
    rows = await database.fetch(_TAKE_CODE, {"run_id": run_id, "hash": code_hash})
    if not rows:
        return None
    request = await get_approval(database, rows[0]["request_id"])
    return Taken(request, rows[0]["person"], frozenset(rows[0]["claims"]))


async def make_link(database: Database, request_id: UUID, *, link_hash: str) -> None:
    """Keep the hash of a link that leads to a request once."""
    await database.fetch(_MAKE_LINK, {"id": request_id, "hash": link_hash})


async def take_link(database: Database, link_hash: str, *, person: str) -> UUID | None:
    """Use up a link and give its request; None when it is unknown or was used before.

    A link that is followed a second time leaves a line in the audit chain as well.

    Args:
        person: Who has signed in and follows it.
    """
    rows = await database.fetch(_TAKE_LINK, {"hash": link_hash, "person": person})
    return rows[0]["request_id"] if rows else None


_MAKE_CODE = text("""
    WITH asked AS (
        SELECT id, run_id FROM penstock.approval_request
        WHERE id = :id AND state = 'open' AND (expires_at IS NULL OR expires_at > now())
    ), dropped AS (
        DELETE FROM penstock.approval_pass USING asked
        WHERE request_id = asked.id AND kind = 'code' AND person = :person AND used_at IS NULL
    ), made AS (
        INSERT INTO penstock.approval_pass (hash, request_id, kind, person, claims)
        SELECT :hash, id, 'code', CAST(:person AS text), CAST(:claims AS text[]) FROM asked
        RETURNING request_id
    )
    SELECT penstock.audit('code.made', asked.run_id, asked.id, CAST(:person AS text), '{}')
    FROM asked JOIN made ON made.request_id = asked.id
""")
# Of several that come with one code, all but the first find it used when they get the lock.
_TAKE_CODE = text("""
    UPDATE penstock.approval_pass AS pass SET used_at = now()
    FROM penstock.approval_request AS request
    WHERE pass.hash = :hash AND pass.kind = 'code' AND pass.used_at IS NULL
        AND request.id = pass.request_id AND request.run_id = :run_id AND request.state = 'open'
        AND (request.expires_at IS NULL OR request.expires_at > now())
    RETURNING pass.request_id, pass.person, pass.claims
""")
_MAKE_LINK = text("""
    INSERT INTO penstock.approval_pass (hash, request_id, kind) VALUES (:hash, :id, 'link')
    ON CONFLICT (hash) DO NOTHING
""")
_TAKE_LINK = text("""
    WITH known AS (
        SELECT hash, request_id, used_at FROM penstock.approval_pass
        WHERE hash = :hash AND kind = 'link' FOR UPDATE
    ), taken AS (
        UPDATE penstock.approval_pass AS pass SET used_at = now(), person = :person
        FROM known WHERE pass.hash = known.hash AND known.used_at IS NULL
        RETURNING pass.request_id
    ), noted AS (
        SELECT penstock.audit(
            CASE WHEN taken.request_id IS NULL THEN 'link.refused' ELSE 'link.used' END,
            request.run_id, request.id, CAST(:person AS text),
            CASE WHEN taken.request_id IS NULL THEN jsonb_build_object('because', 'used before')
                 ELSE '{}'::jsonb END) AS seq
        FROM known JOIN penstock.approval_request AS request ON request.id = known.request_id
        LEFT JOIN taken ON true
    )
    SELECT taken.request_id, noted.seq FROM noted LEFT JOIN taken ON true WHERE taken.request_id IS NOT NULL
""")
