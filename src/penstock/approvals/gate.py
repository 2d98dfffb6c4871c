"""The gate in front of a node: the engine asks for a grant on every entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from penstock.contracts import Plan
from penstock.errors import ApprovalError

__all__ = ["ClosedGate", "Gate", "GateRequest", "Grant"]


@dataclass(frozen=True)
class GateRequest:
    """What somebody is asked to allow."""

    run_id: str
    node_id: str
    agent: str
    agent_version: str
    inputs_digest: str
    """SHA-256 of the rendered inputs in canonical JSON."""
    plan: Plan | None


@dataclass(frozen=True)
class Grant:
    """The permission to run one node once with these very inputs."""

    request: GateRequest


class Gate(Protocol):
    """Decides whether a gated node may run now."""

    async def ask(self, request: GateRequest) -> Grant:
        """Return a valid grant.

        Raises:
            ApprovalError: There is none and there will be none.
        """
        ...


class ClosedGate:
    """Lets nothing through: what needs an approval does not run where nobody can give one."""

    async def ask(self, request: GateRequest) -> Grant:
        """Refuse."""
        raise ApprovalError(
            f"node {request.node_id!r} was not run: agent {request.agent!r} needs an approval,"
            " and there is nobody here to give one"
        )
