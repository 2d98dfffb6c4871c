"""The states of runs and nodes, as the tables hold them."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """State of a run."""

    PENDING = "pending"
    QUEUED = "queued"
    """Waits for a place under its workflow's concurrency limit."""
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    SIMULATED = "simulated"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"
    """A node that changes things was cut off; a person must look."""

    @property
    def terminal(self) -> bool:
        """Whether the run has ended."""
        return self not in _OPEN_RUNS


class NodeState(StrEnum):
    """State of a node, or of one item of a `foreach` node."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING_APPROVAL = "waiting_approval"
    WAITING = "waiting"
    """Waits for the run of a sub-workflow."""
    VERIFYING = "verifying"
    """The agent is done and its output is there; its check is not done."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    UNDONE = "undone"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Was cut off while it changed something."""

    @property
    def terminal(self) -> bool:
        """Whether this attempt has ended."""
        return self not in _OPEN_NODES


_OPEN_RUNS = frozenset({RunState.PENDING, RunState.QUEUED, RunState.RUNNING, RunState.SUSPENDED})
_OPEN_NODES = frozenset(
    {
        NodeState.PENDING,
        NodeState.RUNNING,
        NodeState.WAITING_APPROVAL,
        NodeState.WAITING,
        NodeState.VERIFYING,
    }
)


class ApprovalState(StrEnum):
    """State of a request for approval."""

    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"
    SENT_BACK = "sent_back"
    """Somebody wants another plan and says why."""
    EDITED = "edited"
    """Somebody approved with other inputs; a request with those follows."""
    WITHDRAWN = "withdrawn"
    """The run no longer wants to know."""
    EXPIRED = "expired"
    VOID = "void"
    """What would run has changed since it was asked."""


class Verdict(StrEnum):
    """What one person says to a request for approval."""

    APPROVE = "approve"
    REJECT = "reject"
    SEND_BACK = "send_back"
    """Plan again, with a note."""


class Trust(StrEnum):
    """Class of a run's inputs, by where they came from."""

    OPERATOR = "operator"
    AUTHENTICATED = "authenticated"
    UNTRUSTED = "untrusted"
