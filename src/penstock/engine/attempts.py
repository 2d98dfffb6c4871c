"""The attempts of one unit: its agent called, its output checked and stored, its check made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed
from pydantic import BaseModel

from penstock.contracts import Agent
from penstock.engine import failures
from penstock.engine.calls import call_agent, checked_output, parse_inputs
from penstock.engine.control import RunControl, Stop
from penstock.engine.facts import Engine, RunFacts, Unit
from penstock.engine.scheduler import NodeResult
from penstock.errors import AgentFailed, StoreError
from penstock.store.states import NodeState

__all__ = ["Attempts", "Call", "Journal"]

_CANCELLED = "the run was cancelled"


class Journal(Protocol):
    """Where what happens to the nodes of one run is recorded; every write is durable when it returns.

    Every method raises a `StoreError` when the write must not be made: the node has succeeded, a
    newer attempt has begun, or another worker has the run.
    """

    async def started(self, unit: Unit, attempt: int, task_run_id: UUID) -> None:
        """Record that an attempt starts."""
        ...

    async def waits(self, unit: Unit, state: NodeState, attempt: int, reason: str) -> None:
        """Record that a unit waits for something outside."""
        ...

    async def verifying(self, unit: Unit, attempt: int, output: Any, task_run_id: UUID) -> None:
        """Record that the agent is done, with its output, and that its check comes next."""
        ...

    async def ended(self, unit: Unit, result: NodeResult, task_run_id: UUID | None) -> None:
        """Record how a unit ended."""
        ...


@dataclass(frozen=True)
class Call:
    """An agent that may run now."""

    agent: Agent
    params: BaseModel
    output: dict[str, Any] | None = None
    """What it gave to an earlier worker; only its check is left."""


class Attempts:
    """The attempts of one unit; `result` holds how the last one ended."""

    def __init__(
        self,
        engine: Engine,
        run: RunFacts,
        unit: Unit,
        call: Call,
        journal: Journal,
        *,
        control: RunControl,
        results: Mapping[str, NodeResult],
        begun: int,
    ) -> None:
        self._engine = engine
        self._run = run
        self._unit = unit
        self._call = call
        self._journal = journal
        self._control = control
        self._results = results
        self._count = begun
        self.result: NodeResult | None = None
        self.may_retry = False
        self.fault: StoreError | None = None
        """Why nothing could be recorded."""

    async def once(self, task_run_id: UUID) -> State[Any]:
        """Make one attempt and return its Prefect state; never raises an `Exception`."""
        self.result, self.may_retry = None, False
        output = self._call.output
        try:
            if output is None:
                self._count += 1
                await self._journal.started(self._unit, self._count, task_run_id)
                output = await self._run_agent()
            return await self._conclude(output, task_run_id)
        except StoreError as error:  # not the agent's failure: nothing can be recorded
            self.fault = error
            return Failed(message=error.message)
        except asyncio.CancelledError:
            if self._control.reason is not Stop.CANCEL:
                raise
            return self._cancelled()
        except Exception as error:  # noqa: BLE001  whatever an agent raises is the node's failure, told below
            return self._failed(error, output)

    async def _run_agent(self) -> dict[str, Any]:
        call, engine = self._call, self._engine
        timeout_s = self._unit.node.timeout_s or call.agent.timeout_s
        async with engine.workspace(self._unit.label) as workspace:
            ctx = self._run.context(engine, self._unit, workspace, attempt=self._count)
            try:
                async with failures.time_limit(timeout_s):
                    output = await call_agent(call.agent, ctx, call.params, engine.settings)
            except asyncio.CancelledError:
                ctx.cancellation.set()
                raise
        checked = checked_output(call.agent, output, engine.settings.limits.output_bytes)
        return engine.redactor.known(checked.model_dump(mode="json"))

    async def _conclude(self, output: dict[str, Any], task_run_id: UUID) -> State[Any]:
        """Make the check that the file asks for, then store the output.

        Stored before Prefect hears of it: whoever sees Completed can rely on the output.
        """
        if self._unit.node.spec.verify is not None:
            if self._call.output is None:
                await self._journal.verifying(self._unit, self._count, output, task_run_id)
            await self._verify(output)
        result = NodeResult(NodeState.SUCCEEDED, output=output, attempts=self._count)
        await self._journal.ended(self._unit, result, task_run_id)
        self.result = result
        return Completed(message=f"{self._call.agent.name} succeeded")

    async def _verify(self, output: dict[str, Any]) -> None:
        """Have another agent check what was done, again and again while `within` allows it.

        Raises:
            NotVerified: It did not succeed in time.
        """
        spec = self._unit.node.spec.verify
        if spec is None:
            return
        own = NodeResult(NodeState.SUCCEEDED, output=output)
        scope = self._run.scope({**self._results, self._unit.node.id: own}, self._unit)
        agent = self._engine.registry.get(spec.agent)
        params = parse_inputs(agent, self._unit.node.render_verify(scope))
        deadline = time.monotonic() + (spec.within or 0.0)
        tries = 0
        while True:
            tries += 1
            try:
                await self._check_once(agent, params)
            except Exception as error:  # told below; it may pass the next time
                pause = self._unit.node.retry.delay_s(tries, 0.5)
                if time.monotonic() + pause > deadline:
                    told = failures.describe(error, agent, self._engine.redactor)
                    raise NotVerified(f"{agent.name} did not confirm it: {told['message']}") from error
            else:
                return
            await asyncio.sleep(pause)

    async def _check_once(self, agent: Agent, params: BaseModel) -> None:
        async with self._engine.workspace(self._unit.label) as workspace, asyncio.timeout(agent.timeout_s):
            ctx = self._run.context(self._engine, self._unit, workspace, attempt=self._count)
            output = await call_agent(agent, ctx, params, self._engine.settings)
        checked_output(agent, output, self._engine.settings.limits.output_bytes)

    def _cancelled(self) -> State[Any]:
        """End calmly: the run's own task is told apart, so the cancellation stops here."""
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        self.result = NodeResult(NodeState.CANCELLED, reason=_CANCELLED, attempts=self._count)
        return Cancelled(message=_CANCELLED)

    def _failed(self, error: Exception, output: dict[str, Any] | None) -> State[Any]:
        told = failures.describe(error, self._call.agent, self._engine.redactor)
        # What changed something is not done again because its check failed.
        self.may_retry = bool(told["retryable"]) and output is None
        self.result = NodeResult(
            NodeState.FAILED,
            output=output,
            error=told,
            attempts=self._count,
            tolerated=self._unit.node.spec.on_error == "continue",
        )
        name = "TimedOut" if told["code"] == "node_timed_out" else "Failed"
        return Failed(name=name, message=told["message"])


class NotVerified(AgentFailed):
    """The check after a change did not succeed."""

    code = "not_verified"
