"""The gate in front of a node: the engine asks for a grant on every entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from penstock.errors import ApprovalError

__all__ = ["ClosedGate", "Gate", "GateRequest", "Grant", "Waiting"]


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
    required: int = 1
    """Distinct people who must approve."""
    expires_in_s: float | None = None
    """How long the gate waits, in seconds; None means for ever."""


@dataclass(frozen=True)
class Grant:
    """The permission to run one node once as it was asked for."""

    request: GateRequest


@dataclass(frozen=True)
class Waiting:
    """Nobody has decided yet."""

    request_id: str
    message: str
    """What is waited for, for people."""


class Gate(Protocol):
    """Decides whether a gated node may run now."""

    async def ask(self, request: GateRequest) -> Grant | Waiting:
        """Give a valid grant, or the news that somebody has to decide.

        Raises:
            ApprovalError: There is none and there will be none.
        """
        ...


class ClosedGate:
    """Lets nothing through: what needs an approval does not run where nobody can give one."""

    async def ask(self, request: GateRequest) -> Grant | Waiting:
        """Refuse."""
        raise ApprovalError(
            f"node {request.node_id!r} was not run: agent {request.agent!r} needs an approval,"
            " and there is nobody here to give one"
        )
