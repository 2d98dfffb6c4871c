"""Every error Penstock raises, in one tree.

```
PenstockError
├── SettingsError                 a setting is missing or wrong
├── SpecError                     a workflow file is wrong; carries every problem with its place
│   └── ExpressionError           one expression is wrong, too large or cannot be evaluated
│       └── MissingError          a name, key or index in it is not there
├── PluginError                   an agent plugin cannot be used
│   ├── PluginContractError       its shape is wrong
│   ├── PluginVersionError        it wants another version of the plugin API
│   ├── DuplicateAgentError       its name is taken
│   └── UnknownAgentError         no agent of that name is registered
├── RunError                      a run or one of its nodes cannot go on
│   ├── NotFound                  no such workflow, revision or run
│   ├── InputInvalid              inputs do not match the schema, or a value is not allowed
│   ├── OutputInvalid             an agent's output does not match its model or is too large
│   ├── AgentFailed               an agent says that it failed; trying again will not help
│   ├── AgentRetry                an agent says that trying again may help
│   ├── NodeTimedOut              a node ran longer than its timeout
│   ├── NodeInterrupted           a node that changes things was cut off in the middle
│   ├── BudgetExceeded            the workflow's budget of changes is used up
│   └── Conflict                  what is asked for does not go together with the run's state
├── ApprovalError                 something must not run without an approval
│   ├── ApprovalClosed            the request has been decided, withdrawn or has expired
│   ├── AlreadyDecided            the same person decided otherwise before
│   ├── ApprovalDenied            this person may not decide this request
│   ├── StaleDecision             the decision is about something else than what would run now
│   ├── ApprovalLapsed            nobody decided in time, and the workflow calls that a failure
│   ├── ApprovalWithdrawn         what was asked for is no longer wanted
│   └── LinkUsed                  a link of a notification leads nowhere any more
├── NotSignedIn                   nobody knows who asks
├── SandboxError                  a tool could not run, or was stopped, in its sandbox
│   ├── SandboxUnavailable        this machine has no usable backend
│   ├── ToolMissing               the tool is not installed
│   ├── ToolFailed                the tool ended with an unexpected exit code
│   └── ToolKilled                the tool went past its time, memory or process limit
├── StoreError                    the database refused or lost something
│   ├── DatabaseUnavailable       the database cannot be reached
│   ├── TransactionUndone         two transactions got in each other's way
│   └── LeaseLost                 another worker holds the run
├── ChildError                    a process of the stack does not start or stay up
└── ExternalError                 another system failed us
    ├── AuthFailed                it refused our credentials
    ├── RateLimited               it asks us to slow down
    └── Unreachable               it did not answer
```

Cancellation is not an error: `asyncio.CancelledError` is never caught to go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class PenstockError(Exception):
    """Base of every error raised on purpose.

    Args:
        message: One sentence for the person who must mend it; never holds a secret.
        details: Machine-readable facts, JSON types only.
        retry_after_s: Seconds to wait before a retry, when the cause said so.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle rebuilds an exception from `args` alone, which loses keyword arguments.
        return _rebuild, (type(self), self.message, self.__dict__)

    def __str__(self) -> str:
        return self.message


def _rebuild(kind: type[PenstockError], message: str, state: dict[str, Any]) -> PenstockError:
    error = kind.__new__(kind, message)
    error.args = (message,)
    error.__dict__.update(state)
    return error


class SettingsError(PenstockError):
    """A setting is missing or wrong."""

    code = "settings"


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a workflow file; `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class SpecError(PenstockError):
    """A workflow file is wrong; `problems` holds every mistake, in file order."""

    code = "spec"
    http_status = 422

    def __init__(
        self, message: str, *, problems: Sequence[Problem] = (), details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, details=details)
        self.problems: tuple[Problem, ...] = tuple(sorted(problems))

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> SpecError:
        """Build the error whose message lists every problem on a line of its own."""
        ordered = sorted(problems)
        return cls("\n".join(str(problem) for problem in ordered), problems=ordered)


class ExpressionError(SpecError):
    """One expression is wrong; `offset` is the character position inside its text."""

    code = "expression"

    def __init__(self, message: str, *, offset: int = 0, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message, problems=problems)
        self.offset = offset


class MissingError(ExpressionError):
    """A key, an index or a name is not there; `| default(…)` takes its place."""

    code = "expression_missing"


class PluginError(PenstockError):
    """An agent plugin cannot be used."""

    code = "plugin"


class PluginContractError(PluginError):
    """A plugin's shape is wrong."""

    code = "plugin_contract"


class PluginVersionError(PluginError):
    """A plugin wants a version of the plugin API that this Penstock does not offer."""

    code = "plugin_version"


class DuplicateAgentError(PluginError):
    """Two plugins claim one name."""

    code = "duplicate_agent"


class UnknownAgentError(PluginError):
    """No agent of that name is registered."""

    code = "unknown_agent"
    http_status = 404


class RunError(PenstockError):
    """A run or one of its nodes cannot go on."""

    code = "run"


class NotFound(RunError):
    """No such workflow, revision or run."""

    code = "not_found"
    http_status = 404


class InputInvalid(RunError):
    """Inputs do not match their schema, or a value is not on its allow-list."""

    code = "input_invalid"
    http_status = 422


class OutputInvalid(RunError):
    """An agent's output does not match its model or is larger than allowed."""

    code = "output_invalid"


class AgentFailed(RunError):
    """An agent says that it failed and that trying again will not help."""

    code = "agent_failed"


class AgentRetry(RunError):
    """An agent says that it failed and that trying again may help."""

    code = "agent_retry"
    retryable = True


class NodeTimedOut(RunError):
    """A node ran longer than its timeout."""

    code = "node_timed_out"
    retryable = True


class NodeInterrupted(RunError):
    """A node that changes things was cut off in the middle; a person decides how to go on."""

    code = "node_interrupted"


class BudgetExceeded(RunError):
    """The workflow's budget of changes is used up for now."""

    code = "budget_exceeded"


class Conflict(RunError):
    """What is asked for does not go together with the state of the run, or with another run."""

    code = "conflict"
    http_status = 409


class ApprovalError(PenstockError):
    """Something must not run without an approval."""

    code = "approval"
    http_status = 403


class ApprovalClosed(ApprovalError):
    """A request for approval has been decided, withdrawn or has expired."""

    code = "approval_closed"
    http_status = 409


class AlreadyDecided(ApprovalError):
    """The same person decided otherwise before."""

    code = "already_decided"
    http_status = 409


class ApprovalDenied(ApprovalError):
    """This person may not decide this request; the message says why."""

    code = "approval_denied"


class StaleDecision(ApprovalError):
    """The decision is about something else than what the request asks for."""

    code = "stale_decision"
    http_status = 409


class ApprovalLapsed(ApprovalError):
    """Nobody decided in time, and the workflow calls that a failure."""

    code = "approval_lapsed"


class ApprovalWithdrawn(ApprovalError):
    """What was asked for is no longer wanted."""

    code = "approval_withdrawn"


class LinkUsed(ApprovalError):
    """A link of a notification was used before, or is unknown."""

    code = "link_used"
    http_status = 410


class NotSignedIn(PenstockError):
    """Nobody knows who asks: sign in first."""

    code = "not_signed_in"
    http_status = 401


class SandboxError(PenstockError):
    """A tool could not run, or was stopped, in its sandbox."""

    code = "sandbox"


class SandboxUnavailable(SandboxError):
    """This machine has no usable sandbox backend; the message says how to mend it."""

    code = "sandbox_unavailable"


class ToolMissing(SandboxError):
    """The tool is not installed; the message says how to install it."""

    code = "tool_missing"


class ToolFailed(SandboxError):
    """The tool ended with an exit code that it should not end with."""

    code = "tool_failed"


class ToolKilled(SandboxError):
    """The tool went past its time, memory, output or process limit and was killed."""

    code = "tool_killed"


class StoreError(PenstockError):
    """The database refused or lost something."""

    code = "store"


class DatabaseUnavailable(StoreError):
    """The database cannot be reached."""

    code = "database_unavailable"
    http_status = 503
    retryable = True


class ChildError(PenstockError):
    """A process of the stack does not start or does not stay up."""

    code = "stack"


class TransactionUndone(StoreError):
    """Two transactions got in each other's way; trying again helps."""

    code = "transaction_undone"
    http_status = 503
    retryable = True


class LeaseLost(StoreError):
    """Another worker has taken the run over; what this one writes does not count."""

    code = "lease_lost"
    http_status = 409


class ExternalError(PenstockError):
    """Another system failed us."""

    code = "external"
    http_status = 502


class AuthFailed(ExternalError):
    """Another system refused our credentials."""

    code = "auth_failed"


class RateLimited(ExternalError):
    """Another system asks us to slow down; see `retry_after_s`."""

    code = "rate_limited"
    retryable = True


class Unreachable(ExternalError):
    """Another system did not answer in time."""

    code = "unreachable"
    retryable = True
