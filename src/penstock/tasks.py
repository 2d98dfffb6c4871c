"""Agents as ordinary Prefect tasks, to be composed in Python flows.

```python
from prefect import flow

from penstock.tasks import as_task
from penstock_agents.notifier import notify
from penstock_agents.security_scanner import scan

scan_task, notify_task = as_task(scan), as_task(notify)


@flow
async def nightly(repository: str) -> None:
    found = await scan_task(repository_path=repository)
    await notify_task(title=f"{found.summary.total} findings")
```
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, cast

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from pydantic import BaseModel

from penstock.approvals.digest import semantic_digest
from penstock.approvals.gate import ClosedGate, GateRequest
from penstock.contracts import Agent, AgentContext, Risk
from penstock.engine import failures
from penstock.engine.calls import call_agent, checked_output, parse_inputs
from penstock.engine.context import EngineServices, agent_workspace, run_logger
from penstock.errors import InputInvalid, RunError
from penstock.sandbox import select
from penstock.settings import Settings, load_settings
from penstock.telemetry.redaction import Redactor, secrets_of_environment
from penstock.workflow.spec import Retry

__all__ = ["AgentTask", "as_task"]

AgentTask = Task[..., Any]
"""An async Prefect task that runs an agent and returns the agent's output model."""

_Body = Callable[..., Coroutine[Any, Any, BaseModel]]
_RULES = Retry()
_MOST_DELAYS = 20
_NEUTRAL = 0.5
"""The chance at which a delay has no random part; Prefect adds its own."""


class _Left(Enum):
    """Stands for an argument that was left out; the agent's model knows its default."""

    OUT = "left out"


def as_task(agent: Agent, *, blocks: Mapping[str, str] | None = None, **task_options: Any) -> AgentTask:
    """Make a Prefect task that runs an agent.

    The task takes the fields of the agent's input model as keyword arguments, or the model
    itself as its only argument. An agent that needs an approval is refused when the task runs:
    in a Python flow nobody can give one.

    Args:
        blocks: Name the agent uses -> name of the block in Prefect.
        task_options: Options of Prefect's `task`, which win over those made from the agent's
            manifest: `name`, `retries`, `timeout_seconds`, `tags` and so on.
    """
    options: dict[str, Any] = {
        "name": agent.name,
        "description": agent.description,
        "version": agent.version,
        "tags": {"penstock", f"agent:{agent.name}"},
        "timeout_seconds": agent.timeout_s,
        "retries": _RULES.max - 1,
        "retry_delay_seconds": [_RULES.delay_s(tries, _NEUTRAL) for tries in range(1, _MOST_DELAYS)],
        "retry_jitter_factor": _RULES.jitter,
        "retry_condition_fn": _retry_rule(agent),
        # Running an agent again is never the same as having run it.
        "cache_policy": NO_CACHE,
    }
    return Task(_body(agent, dict(blocks or {})), **{**options, **task_options})


def _body(agent: Agent, blocks: Mapping[str, str]) -> _Body:
    async def body(*model: Any, **fields: Any) -> BaseModel:
        context = TaskRunContext.get()
        if context is None:
            raise RunError(
                f"agent {agent.name!r} was called outside of a Prefect task run: call the task itself,"
                " or penstock.testing.AgentHarness in a test"
            )
        settings, redactor = load_settings(), Redactor(secrets_of_environment())
        try:
            params = parse_inputs(agent, _values(agent, model, fields))
            return await _Attempt(agent, blocks, context, settings, redactor).run(params)
        except Exception as error:  # noqa: BLE001  raised again, without the secrets it may hold
            raise failures.as_error(error, agent, redactor) from None

    body.__name__ = body.__qualname__ = agent.name.replace("-", "_")
    body.__signature__ = _signature(agent.input_model)  # pyright: ignore[reportFunctionMemberAccess]  what `inspect` reads
    return body


class _Attempt:
    """One attempt of an agent in the current Prefect task run."""

    def __init__(
        self,
        agent: Agent,
        blocks: Mapping[str, str],
        context: TaskRunContext,
        settings: Settings,
        redactor: Redactor,
    ) -> None:
        self._agent = agent
        self._blocks = blocks
        self._name = context.task.name
        self._task_run = context.task_run
        self._settings = settings
        self._redactor = redactor

    async def run(self, params: BaseModel) -> BaseModel:
        await self._pass_gate(params)
        async with agent_workspace(self._agent.name) as workspace:
            output = await call_agent(self._agent, self._context(workspace), params, self._settings)
        return checked_output(self._agent, output, self._settings.limits.output_bytes)

    @property
    def _run_id(self) -> str:
        return str(self._task_run.flow_run_id or self._task_run.id)

    async def _pass_gate(self, params: BaseModel) -> None:
        if self._agent.risk is not Risk.APPROVAL_REQUIRED:
            return
        inputs = params.model_dump(mode="json")
        digest = semantic_digest(self._agent, inputs, None, workflow=self._run_id, revision=1)
        await ClosedGate().ask(GateRequest(node_id=self._name, agent=self._agent.name, digest=digest))

    def _context(self, workspace: Path) -> AgentContext:
        return AgentContext(
            run_id=self._run_id,
            node_id=self._name,
            attempt=self._task_run.run_count,
            dry_run=False,
            workspace=workspace,
            logger=run_logger(self._redactor),
            services=EngineServices(self._blocks, lambda: select(self._settings), self._redactor),
        )


def _signature(model: type[BaseModel]) -> inspect.Signature:
    """Give the model's fields as optional keywords: what is wrong with them, the model says."""
    fields = dict(inspect.signature(model).parameters)
    known = [
        field.replace(default=_Left.OUT)
        for field in fields.values()
        if field.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    first = inspect.Parameter(_free("params", fields), inspect.Parameter.POSITIONAL_ONLY, default=_Left.OUT)
    rest = inspect.Parameter(_free("more", fields), inspect.Parameter.VAR_KEYWORD)
    return inspect.Signature([first, *known, rest])


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _values(agent: Agent, model: Sequence[Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Give the inputs as plain data, as they are in a workflow.

    Raises:
        InputInvalid: Both a model and keywords were given, or something that is no such model.
    """
    given = {name: _plain(value) for name, value in fields.items() if value is not _Left.OUT}
    positional = [value for value in model if value is not _Left.OUT]
    if not positional:
        return given
    if given or not isinstance(positional[0], agent.input_model):
        raise InputInvalid(
            f"inputs of agent {agent.name!r}: give keyword arguments, or one {agent.input_model.__name__}"
            f" and nothing else, not {type(positional[0]).__name__}"
        )
    return positional[0].model_dump(by_alias=True, exclude_unset=True)


def _plain(value: Any) -> Any:
    """Turn models into data: the output of one agent may fit the input of another."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    return value


def _retry_rule(agent: Agent) -> Callable[[Any, Any, State[Any]], bool]:
    def may_retry(_task: Any, _task_run: Any, state: State[Any]) -> bool:
        error = state.data
        if isinstance(error, TimeoutError):  # Prefect's own; the agent's errors arrive as ours
            error = failures.timed_out(agent.timeout_s)
        return isinstance(error, Exception) and failures.is_retryable(error, agent)

    return may_retry
