"""What a plugin imports: the agent decorator and the values that pass through it.

This module imports nothing of Prefect and nothing of the engine, so a plugin can be
imported, typed and tested without either.

```python
class Greeting(BaseModel):
    name: str = Field(description="Whom to greet.")


class Greeted(BaseModel):
    text: str = Field(description="The greeting.")


@agent(name="greeter", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def greet(ctx: AgentContext, params: Greeting) -> Greeted:
    \"\"\"Greet somebody.\"\"\"
    return Greeted(text=f"Hello, {params.name}")
```
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, cast, get_type_hints, runtime_checkable

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from penstock.errors import (
    AgentFailed,
    AgentRetry,
    PluginContractError,
)

__all__ = [
    "API_VERSION",
    "Agent",
    "AgentContext",
    "AgentFailed",
    "AgentRetry",
    "AgentType",
    "Change",
    "ContextServices",
    "Isolation",
    "Limits",
    "Logger",
    "Plan",
    "Risk",
    "Sandbox",
    "Slot",
    "ToolCall",
    "ToolResult",
    "agent",
    "sensitive",
]

API_VERSION = 1
"""Version of this plugin contract; a plugin built for another one is refused."""

SLOT_KEY = "x-penstock-slot"
"""Key in a JSON Schema that marks a sensitive field; its value is a `Slot`."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class AgentType(StrEnum):
    """What kind of work an agent does."""

    ANALYSIS = "ANALYSIS"
    MODIFICATION = "MODIFICATION"
    EXECUTION = "EXECUTION"


class Risk(StrEnum):
    """Whether an agent may run by itself."""

    AUTO = "auto"
    APPROVAL_REQUIRED = "approval_required"


class Isolation(StrEnum):
    """Where an agent's own Python code runs.

    `LOOP` is the worker's event loop: for code that awaits. `PROCESS` is a process of its
    own: for code that blocks, burns CPU or is not trusted to end.
    """

    LOOP = "loop"
    PROCESS = "process"


class Slot(StrEnum):
    """A kind of value that an outsider must not choose freely."""

    COMMAND = "command"
    IMAGE = "image"
    PATH = "path"
    URL = "url"
    CREDENTIAL = "credential"


def sensitive(slot: Slot, *, description: str, **constraints: Any) -> Any:
    """Declare a model field as a sensitive slot.

    On an input field it says that untrusted values (alerts, webhooks, repository content)
    need an `enum` or an operator's allow-list to get here. On an output field it says that
    the agent vouches for the value, so it may fill the same slot of a later node.

    Args:
        description: What the field holds, ending in a period.
        constraints: Further keyword arguments of `pydantic.Field`.
    """
    return Field(description=description, json_schema_extra={SLOT_KEY: slot.value}, **constraints)


@dataclass(frozen=True)
class Change:
    """One thing that a plan would change."""

    target: str
    """What is changed: a file, an image, an object, a command."""
    action: str
    """A verb: create, modify, delete, run, deploy."""
    detail: str = ""


@dataclass(frozen=True)
class Plan:
    """What an agent would do, made without side effects; the approver sees it and the digest binds it."""

    summary: str
    targets: Sequence[str] = ()
    changes: Sequence[Change] = ()
    diff: str = ""
    """A unified diff or the rendered object, as text."""
    undo: str = ""
    """How it would be undone; empty when it cannot be."""
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Anything else that must not change between approval and execution, JSON types only."""


@dataclass(frozen=True)
class Limits:
    """What a tool may use before it is killed."""

    timeout_s: float = 300.0
    memory_mb: int = 2048
    processes: int = 128
    output_mb: int = 64
    """Cap on what is kept of standard output and, apart from it, of standard error."""
    file_mb: int = 1024
    """Cap on one file that it writes, and on its private `/tmp`."""
    cpu_s: float = 0.0
    """Cap on the processor time of one process; 0 means the timeout on every processor."""


@dataclass(frozen=True)
class ToolCall:
    """One tool to run in a sandbox; it sees no host file but those named here and no network."""

    argv: Sequence[str]
    """Program and arguments; never a shell line."""
    readonly: Mapping[Path, str] = field(default_factory=dict[Path, str])
    """Host path -> path inside, mounted read-only."""
    writable: Mapping[Path, str] = field(default_factory=dict[Path, str])
    """Host path -> path inside, mounted writable."""
    cwd: str = "/"
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    stdin: bytes = b""
    network: bool = False
    limits: Limits = field(default_factory=Limits)
    ok_codes: Sequence[int] = (0,)
    """Exit codes that mean the tool did its work."""


@dataclass(frozen=True)
class ToolResult:
    """How a tool ended."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    duration_s: float


@runtime_checkable
class Sandbox(Protocol):
    """Where agents run tools."""

    name: str
    """Backend: `bubblewrap`, `docker`, `kubernetes` or `none`."""

    async def run(self, call: ToolCall) -> ToolResult:
        """Run one tool to its end.

        Raises:
            ToolMissing: The program is not installed.
            ToolFailed: It ended with a code that is not in `ok_codes`.
            ToolKilled: It went past a limit.
        """
        ...


class Logger(Protocol):
    """A structured logger: an event name and facts as keywords."""

    def debug(self, event: str, **facts: Any) -> Any:
        """Log what helps a developer."""
        ...

    def info(self, event: str, **facts: Any) -> Any:
        """Log what happened."""
        ...

    def warning(self, event: str, **facts: Any) -> Any:
        """Log what may need a look."""
        ...

    def error(self, event: str, **facts: Any) -> Any:
        """Log what went wrong."""
        ...


class ContextServices(Protocol):
    """What stands behind an `AgentContext`: the engine's services, or a test's."""

    async def load_block(self, name: str) -> Any:
        """Load the credentials block that the workflow file gives this node under `name`."""
        ...

    def sandbox(self) -> Sandbox:
        """Give the sandbox for tools."""
        ...

    async def save_artifact(self, name: str, data: str, media_type: str, description: str) -> None:
        """Keep a document with the run, where people find it in the Prefect UI."""
        ...


@dataclass(frozen=True)
class AgentContext:
    """What an agent knows of the run it is part of, and what it may use.

    `workspace` is an empty folder of this attempt alone, removed when the attempt ends.
    """

    run_id: str
    node_id: str
    attempt: int
    """Counts from 1."""
    dry_run: bool
    workspace: Path
    logger: Logger
    services: ContextServices
    cancellation: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the run is being cancelled; the task is cancelled as well."""

    @property
    def cancelled(self) -> bool:
        """Whether the run is being cancelled."""
        return self.cancellation.is_set()

    async def block(self, name: str) -> Any:
        """Load the block that the workflow file names for this node under `blocks:`."""
        return await self.services.load_block(name)

    def sandbox(self) -> Sandbox:
        """Give the sandbox for tools.

        Raises:
            SandboxUnavailable: This machine has no usable backend.
        """
        return self.services.sandbox()

    async def artifact(
        self, name: str, data: str, *, media_type: str = "text/markdown", description: str = ""
    ) -> None:
        """Keep a document with the run.

        Args:
            name: Lower-case letters, digits and dashes.
            data: The document as text.
            media_type: `text/markdown`, `text/plain`, `application/json` or `application/sarif+json`.
        """
        await self.services.save_artifact(name, data, media_type, description)


Run = Callable[[AgentContext, Any], Awaitable[BaseModel]]
MakePlan = Callable[[AgentContext, Any], Awaitable[Plan]]
Undo = Callable[[AgentContext, Any, Any], Awaitable[None]]


@dataclass
class _Hooks:
    plan: MakePlan | None = None
    undo: Undo | None = None


@dataclass(frozen=True)
class Agent:
    """A registered agent: one async function with its models and its manifest."""

    name: str
    type: AgentType
    risk: Risk
    description: str
    """The function's docstring; the first line is the summary."""
    version: str
    capabilities: tuple[str, ...]
    timeout_s: float
    idempotent: bool
    """Whether running it twice with the same inputs does no more than running it once."""
    isolation: Isolation
    egress: tuple[str, ...]
    """Hosts it may reach; empty means none."""
    secrets: tuple[str, ...]
    """Names of blocks it expects under `blocks:`."""
    api: int
    input_model: type[BaseModel]
    output_model: type[BaseModel]
    run: Run
    module: str
    hooks: _Hooks = field(default_factory=_Hooks, repr=False, compare=False)

    async def __call__(self, ctx: AgentContext, params: BaseModel) -> BaseModel:
        """Run the agent's function; nothing is validated here."""
        return await self.run(ctx, params)

    @property
    def summary(self) -> str:
        """First line of the description."""
        return self.description.splitlines()[0]

    @property
    def planner(self) -> MakePlan | None:
        """The function that plans without side effects, if there is one."""
        return self.hooks.plan

    @property
    def undoer(self) -> Undo | None:
        """The function that undoes a completed run, if there is one."""
        return self.hooks.undo

    def plan(self, function: MakePlan) -> MakePlan:
        """Decorate the function that tells, without side effects, what a run would do."""
        _check_hook(self, "plan", function, (self.input_model,))
        self.hooks.plan = function
        return function

    def undo(self, function: Undo) -> Undo:
        """Decorate the function that undoes a run, given its parameters and its output."""
        _check_hook(self, "undo", function, (self.input_model, self.output_model))
        self.hooks.undo = function
        return function


def agent(
    *,
    name: str,
    type: AgentType,  # noqa: A002  the manifest's own word
    risk: Risk,
    version: str = "1",
    capabilities: Sequence[str] = (),
    timeout_s: float = 300.0,
    idempotent: bool = False,
    isolation: Isolation = Isolation.LOOP,
    egress: Sequence[str] = (),
    secrets: Sequence[str] = (),
    api: int = 1,
) -> Callable[[Callable[..., Awaitable[Any]]], Agent]:
    """Make an agent of an async function `(ctx: AgentContext, params: Input) -> Output`.

    Args:
        name: What users write in `agent:`; lower-case words joined by dashes.
        version: Changes whenever the behaviour changes; runs pin it.
        timeout_s: Default limit for one attempt, in seconds, above 0.
        api: The `API_VERSION` that the plugin was written for.
    Raises:
        PluginContractError: The name, the signature or a model has the wrong shape.
    """
    _check_head(name, timeout_s)

    def wrap(function: Callable[..., Awaitable[Any]]) -> Agent:
        input_model, output_model = _models(name, function)
        return Agent(
            name=name,
            type=AgentType(type),
            risk=Risk(risk),
            description=_description(name, function),
            version=version,
            capabilities=tuple(capabilities),
            timeout_s=float(timeout_s),
            idempotent=idempotent,
            isolation=Isolation(isolation),
            egress=tuple(egress),
            secrets=tuple(secrets),
            api=api,
            input_model=input_model,
            output_model=output_model,
            run=cast("Run", function),
            module=function.__module__,
        )

    return wrap


def _check_head(name: str, timeout_s: float) -> None:
    if not _NAME.fullmatch(name):
        raise PluginContractError(
            f"agent {name!r}: a name is lower-case words joined by dashes, like 'code-reviewer'"
        )
    if timeout_s <= 0:
        raise PluginContractError(f"agent {name!r}: timeout_s must be above 0, not {timeout_s}")


def _description(name: str, function: Callable[..., Any]) -> str:
    doc = inspect.getdoc(function)
    if not doc:
        raise PluginContractError(f"agent {name!r}: the function needs a docstring that says what it does")
    return doc


def _models(name: str, function: Callable[..., Any]) -> tuple[type[BaseModel], type[BaseModel]]:
    hints = _signature(name, function, 2)
    params, result = hints[1], hints[-1]
    if hints[0] is not AgentContext:
        raise PluginContractError(f"agent {name!r}: the first argument must be annotated AgentContext")
    for what, model in (("second argument", params), ("result", result)):
        if not (inspect.isclass(model) and issubclass(model, BaseModel)):
            raise PluginContractError(f"agent {name!r}: the {what} must be annotated with a pydantic model")
        _check_fields(name, model)
    return params, result


def _signature(name: str, function: Callable[..., Any], count: int) -> list[Any]:
    """Return the annotations of `count` positional arguments and then of the result."""
    if not inspect.iscoroutinefunction(function):
        raise PluginContractError(f"agent {name!r}: {function.__qualname__} must be an async function")
    parameters = list(inspect.signature(function).parameters.values())
    plain = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY}
    if len(parameters) != count or any(parameter.kind not in plain for parameter in parameters):
        raise PluginContractError(f"agent {name!r}: {function.__qualname__} must take {count} arguments")
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError) as error:
        raise PluginContractError(
            f"agent {name!r}: the annotations of {function.__qualname__} cannot be read: {error}"
        ) from error
    missing = [parameter.name for parameter in parameters if parameter.name not in hints]
    if missing or "return" not in hints:
        what = ", ".join([*missing, *([] if "return" in hints else ["the result"])])
        raise PluginContractError(f"agent {name!r}: {function.__qualname__} lacks annotations for {what}")
    return [*(hints[parameter.name] for parameter in parameters), hints["return"]]


def _check_fields(name: str, model: type[BaseModel]) -> None:
    fields: Mapping[str, FieldInfo] = model.model_fields
    silent = [field_name for field_name, info in fields.items() if not info.description]
    if silent:
        raise PluginContractError(
            f"agent {name!r}: fields of {model.__name__} need a description: {', '.join(silent)}"
        )


def _check_hook(
    owner: Agent, what: str, function: Callable[..., Any], models: Sequence[type[BaseModel]]
) -> None:
    if getattr(owner.hooks, what) is not None:
        raise PluginContractError(f"agent {owner.name!r}: {what} is defined twice")
    hints = _signature(owner.name, function, 1 + len(models))
    for expected, found in zip((AgentContext, *models), hints[:-1], strict=True):
        if found is not expected:
            raise PluginContractError(
                f"agent {owner.name!r}: {what} must take {expected.__name__}, not {found!r}"
            )
