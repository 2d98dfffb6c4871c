"""Standing grants, as users know them: approve in advance, for a while and some uses, and take it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from penstock.approvals.people import Person
from penstock.errors import ApprovalDenied, InputInvalid
from penstock.registry import Registry
from penstock.store import standing as store
from penstock.store.database import Database

__all__ = ["StandingGrants"]

_LONGEST_S = 90 * 86_400.0
_MOST_USES = 1000
_MOST_TARGETS = 100
_LONGEST_TARGET = 500


@dataclass(frozen=True)
class StandingGrants:
    """Approvals in advance; everything is in JSON types."""

    database: Database
    registry: Registry

    async def list(self, *, every: bool = False) -> list[dict[str, Any]]:
        """List standing grants, newest first.

        Args:
            every: Also those that have ended, are used up or were revoked.
        """
        return [_data(one) for one in await store.list_standing(self.database, every=every)]

    async def grant(
        self,
        agent: str,
        targets: Sequence[str],
        *,
        person: Person,
        seconds: float,
        max_uses: int,
        workflow: str | None = None,
        comment: str = "",
    ) -> dict[str, Any]:
        """Approve in advance whatever an agent does to some targets, and nothing else.

        It counts as one approval of this person for each request that it fits, and never breaks a
        freeze. Who may not approve a request cannot do so in advance either.

        Args:
            targets: Each a text in which `*` stands for anything; a plan must have no other targets.
            seconds: How long it is good.
            max_uses: How many requests it may approve.
            workflow: Only requests of this workflow.
        Raises:
            ApprovalDenied: The person is no approver.
            UnknownAgentError: There is no such agent.
            InputInvalid: Something about it is missing or wrong.
        """
        if not person.approver:
            raise ApprovalDenied(f"{person.name} is no approver")
        self.registry.get(agent)
        if wrong := _wrong(targets, seconds, max_uses):
            raise InputInvalid(wrong)
        made = await store.grant_standing(
            self.database,
            agent=agent,
            targets=targets,
            workflow=workflow,
            person=person.name,
            claims=person.claims,
            comment=comment,
            seconds=seconds,
            max_uses=max_uses,
        )
        return _data(made)

    async def revoke(self, standing_id: UUID, *, person: Person) -> dict[str, Any]:
        """Take a standing grant back; every approver may.

        Raises:
            ApprovalDenied: The person is no approver.
            NotFound: There is none.
            Conflict: It was revoked before.
        """
        if not person.approver:
            raise ApprovalDenied(f"{person.name} is no approver")
        return _data(await store.revoke_standing(self.database, standing_id, by=person.name))


def _wrong(targets: Sequence[str], seconds: float, max_uses: int) -> str:
    """Say what is wrong with a standing grant; empty when nothing is."""
    if not 1 <= len(targets) <= _MOST_TARGETS:
        return f"targets: give at least one and at most {_MOST_TARGETS}"
    if any(not target.strip("* ") or len(target) > _LONGEST_TARGET for target in targets):
        return "targets: name what may be changed; * alone would be everything"
    if not 1 <= seconds <= _LONGEST_S:
        return "a standing grant is good for at least a second and at most 90 days"
    if not 1 <= max_uses <= _MOST_USES:
        return f"max_uses: at least 1 and at most {_MOST_USES}"
    return ""


def _data(one: store.Standing) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "agent": one.agent,
        "targets": list(one.targets),
        "workflow": one.workflow,
        "person": one.person,
        "comment": one.comment,
        "created_at": one.created_at.isoformat(),
        "expires_at": one.expires_at.isoformat(),
        "max_uses": one.max_uses,
        "uses": one.uses,
        "revoked_at": one.revoked_at.isoformat() if one.revoked_at else None,
        "revoked_by": one.revoked_by,
        "usable": one.usable,
    }
