"""The states of runs and nodes, as the tables hold them."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """State of a run."""

    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    SIMULATED = "simulated"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"
    CRASHED = "crashed"

    @property
    def terminal(self) -> bool:
        """Whether the run has ended."""
        return self not in {RunState.PENDING, RunState.RUNNING, RunState.SUSPENDED}


class NodeState(StrEnum):
    """State of a node, or of one item of a `foreach` node."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING_APPROVAL = "waiting_approval"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    UNDONE = "undone"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether this attempt has ended."""
        return self not in {NodeState.PENDING, NodeState.RUNNING, NodeState.WAITING_APPROVAL}


class Trust(StrEnum):
    """Class of a run's inputs, by where they came from."""

    OPERATOR = "operator"
    AUTHENTICATED = "authenticated"
    UNTRUSTED = "untrusted"
