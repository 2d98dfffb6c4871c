"""The gate in front of a node: the engine asks for a grant on every entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from penstock.approvals.terms import Clause, Terms
from penstock.errors import ApprovalError

__all__ = ["Allowed", "ClosedGate", "Gate", "GateRequest", "Grant", "SaidBefore", "Waiting"]


@dataclass(frozen=True)
class GateRequest:
    """What somebody is asked to allow."""

    node_id: str
    agent: str
    digest: str
    """SHA-256 of all that the decision binds, see `penstock.approvals.digest`."""
    item: str = ""
    """Key of the `foreach` item; empty for a whole node."""
    title: str = ""
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the approver sees, JSON types only."""
    targets: tuple[str, ...] = ()
    terms: Terms = field(default_factory=lambda: Terms(()))
    """Who has to agree, until when, and what may be changed."""
    edits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Inputs that approvers have changed."""


@dataclass(frozen=True)
class Grant:
    """The permission to run one node once as it was asked for."""

    request: GateRequest


@dataclass(frozen=True)
class Allowed:
    """What one grant for all items of a node allows."""

    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of each item, by its key."""
    clauses: frozenset[Clause] = frozenset()
    """What was asked of those who gave it."""

    def covers(self, request: GateRequest) -> bool:
        """Say whether an item may run just as it is asked for now."""
        return self.digests.get(request.item) == request.digest and self.clauses.issuperset(
            request.terms.clauses
        )


@dataclass(frozen=True)
class Waiting:
    """Nobody has decided yet."""

    request_id: str
    message: str
    """What is waited for, for people."""


@dataclass(frozen=True)
class SaidBefore:
    """What people have said at this gate so far, which the next request has to heed."""

    round: int = 1
    """Counts from 1; grows whenever somebody sends it back."""
    note: str | None = None
    """Why it was sent back."""
    note_by: str = ""
    edits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Inputs that approvers have changed."""
    edited_by: str = ""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    """The time, by a clock that all workers share."""

    @property
    def nothing(self) -> bool:
        """Whether nobody has said anything that changes what is asked for."""
        return self.round == 1 and self.note is None and not self.edits

    @property
    def scope(self) -> dict[str, Any]:
        """What the node's expressions see as `approval`."""
        known: dict[str, Any] = {"round": self.round}
        return known if self.note is None else {**known, "note": self.note}


class Gate(Protocol):
    """Decides whether a gated node may run now."""

    async def before(self, node_id: str, item: str, *, done: bool = False) -> SaidBefore:
        """Give what people have said at a gate so far.

        Args:
            done: Up to when the node ran, and not what was said when the run was tried again.
        """
        ...

    async def ask(self, request: GateRequest) -> Grant | Waiting:
        """Give a valid grant, or the news that somebody has to decide.

        Raises:
            ApprovalError: There is none and there will be none.
        """
        ...

    async def granted(self, node_id: str) -> Allowed:
        """Give what a grant for all items of a node allows; nothing without one."""
        ...


class ClosedGate:
    """Lets nothing through: what needs an approval does not run where nobody can give one."""

    async def before(self, node_id: str, item: str, *, done: bool = False) -> SaidBefore:
        """Nobody has said anything."""
        del node_id, item, done
        return SaidBefore()

    async def granted(self, node_id: str) -> Allowed:
        """Nothing was granted."""
        del node_id
        return Allowed()

    async def ask(self, request: GateRequest) -> Grant | Waiting:
        """Refuse."""
        raise ApprovalError(
            f"node {request.node_id!r} was not run: agent {request.agent!r} needs an approval,"
            " and there is nobody here to give one"
        )
