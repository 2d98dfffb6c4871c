"""Run one node: condition, inputs, gate, agent, output; every step recorded."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import BaseModel

from penstock.approvals.gate import Gate, GateRequest
from penstock.contracts import Agent, AgentContext, Risk, Sandbox
from penstock.engine import failures
from penstock.engine.calls import call_agent, checked_output, parse_inputs
from penstock.engine.context import EngineServices, agent_workspace, run_logger
from penstock.engine.outputs import OutputStore
from penstock.engine.prefect_api import NodeTask, run_node_task
from penstock.engine.scheduler import NodeResult
from penstock.errors import ApprovalError, RunError, StoreError
from penstock.registry import Registry
from penstock.settings import Settings
from penstock.store.states import NodeState
from penstock.telemetry.redaction import Redactor
from penstock.workflow import CheckedNode, CheckedWorkflow

__all__ = ["Engine", "NodeJournal", "NodeRunner", "RunFacts"]


class NodeJournal(Protocol):
    """Where what happens to the nodes of one run is recorded."""

    async def started(self, node_id: str, attempt: int, task_run_id: UUID) -> None:
        """Record that an attempt starts.

        Raises:
            RunError: The attempt must not run: the node has succeeded, or a newer attempt has begun.
        """
        ...

    async def ended(self, node_id: str, result: NodeResult, task_run_id: UUID | None) -> None:
        """Record how a node ended; returns when that is durable.

        Raises:
            RunError: Something else is recorded already.
        """
        ...


@dataclass(frozen=True)
class Engine:
    """What every run of a worker shares."""

    settings: Settings
    registry: Registry
    gate: Gate
    redactor: Redactor
    outputs: OutputStore
    make_sandbox: Callable[[], Sandbox]
    workspace: Callable[[str], AbstractAsyncContextManager[Path]] = agent_workspace


@dataclass(frozen=True)
class RunFacts:
    """What the nodes of a run know of it; also the names that expressions see."""

    id: UUID
    name: str
    workflow: CheckedWorkflow
    revision: int
    inputs: Mapping[str, Any]
    requester: str
    started_at: str
    """ISO 8601."""
    trigger: Mapping[str, Any] | None = None
    """Payload of the event that started the run; None when nobody but a person did."""
    trigger_type: str = "manual"

    def scope(self, results: Mapping[str, NodeResult]) -> dict[str, Any]:
        """Give the data that expressions may refer to, as far as the run has come."""
        run = {
            "id": str(self.id),
            "name": self.name,
            "workflow": self.workflow.workflow.name,
            "revision": str(self.revision),
            "requester": self.requester,
            "trigger": self.trigger_type,
            "started_at": self.started_at,
        }
        nodes = {node_id: _seen(result) for node_id, result in results.items()}
        return {"inputs": dict(self.inputs), "trigger": self.trigger, "run": run, "nodes": nodes}


def _seen(result: NodeResult) -> dict[str, Any]:
    """Give what expressions see of a node that has ended."""
    status = {"status": result.outcome.value}
    return {**status, "output": result.output} if result.state is NodeState.SUCCEEDED else status


class NodeRunner:
    """Runs the nodes of one run, each as a Prefect task run.

    Args:
        task_runs: Task run of each node that an earlier worker ran: the edges in Prefect's graph.
        attempts: Attempts that earlier workers began, per node.
    """

    def __init__(
        self,
        engine: Engine,
        run: RunFacts,
        journal: NodeJournal,
        *,
        task_runs: Mapping[str, UUID],
        attempts: Mapping[str, int],
    ) -> None:
        self._engine = engine
        self._run = run
        self._journal = journal
        self._task_runs = dict(task_runs)
        self._attempts = attempts

    async def run(self, node_id: str, results: Mapping[str, NodeResult]) -> NodeResult:
        """Run a node to its end, with its retries."""
        node = self._run.workflow.nodes[node_id]
        attempts = _Attempts(
            self._engine, self._run, node, self._journal, results, begun=self._attempts.get(node_id, 0)
        )
        await run_node_task(
            NodeTask(
                name=node_id,
                body=self._remembering(node_id, attempts.once),
                retry_delays_s=_retry_delays(node),
                may_retry=lambda: attempts.may_retry,
                upstream=self._edges(node_id),
            )
        )
        if attempts.fault is not None:
            raise attempts.fault
        result = attempts.result
        if result is None:
            raise RunError(f"node {node_id!r} was stopped by Prefect before it came to an end")
        if result.state is not NodeState.SUCCEEDED:  # a success is recorded inside the attempt
            await self._journal.ended(node_id, result, self._task_runs.get(node_id))
        return result

    async def skip(self, node_id: str, reason: str) -> NodeResult:
        """Record a node that does not run, and show it in Prefect with the reason."""
        result = NodeResult(NodeState.SKIPPED, reason=reason)

        async def body(_task_run: UUID) -> State[Any]:
            return Completed(name="Skipped", message=f"Skipped: {reason}")

        await run_node_task(
            NodeTask(name=node_id, body=self._remembering(node_id, body), upstream=self._edges(node_id))
        )
        await self._journal.ended(node_id, result, self._task_runs.get(node_id))
        return result

    def _edges(self, node_id: str) -> list[UUID]:
        waits_for = self._run.workflow.nodes[node_id].link.all
        return [self._task_runs[need] for need in waits_for if need in self._task_runs]

    def _remembering(
        self, node_id: str, body: Callable[[UUID], Awaitable[State[Any]]]
    ) -> Callable[[UUID], Awaitable[State[Any]]]:
        async def remember(task_run_id: UUID) -> State[Any]:
            self._task_runs[node_id] = task_run_id
            return await body(task_run_id)

        return remember


def _retry_delays(node: CheckedNode) -> list[float]:
    """Give the pause before each further attempt, in seconds, with its random part."""
    return [node.retry.delay_s(tries, random.random()) for tries in range(1, node.retry.max)]  # noqa: S311


class _Attempts:
    """The attempts of one node; `result` holds how the last one ended."""

    def __init__(
        self,
        engine: Engine,
        run: RunFacts,
        node: CheckedNode,
        journal: NodeJournal,
        results: Mapping[str, NodeResult],
        *,
        begun: int,
    ) -> None:
        self._engine = engine
        self._run = run
        self._node = node
        self._journal = journal
        self._results = results
        self._count = begun
        self.result: NodeResult | None = None
        self.may_retry = False
        self.fault: StoreError | None = None
        """Why nothing could be recorded."""

    async def once(self, task_run_id: UUID) -> State[Any]:
        """Make one attempt and return its Prefect state; never raises an `Exception`."""
        self._count += 1
        self.result, self.may_retry = None, False
        agent: Agent | None = None
        try:
            scope = self._run.scope(self._results)
            if not self._node.condition(scope):
                return self._skipped()
            agent = self._engine.registry.get(self._node.spec.agent or "")
            await self._journal.started(self._node.id, self._count, task_run_id)
            output = await self._call(agent, self._node.render_inputs(scope))
            return await self._succeeded(output, task_run_id)
        except StoreError as error:  # not the agent's failure: nothing can be recorded
            self.fault = error
            return Failed(message=error.message)
        except ApprovalError as error:
            return self._failed(error, agent, NodeState.REJECTED)
        except Exception as error:  # noqa: BLE001  whatever an agent raises is the node's failure, told below
            return self._failed(error, agent, NodeState.FAILED)

    async def _call(self, agent: Agent, inputs: Mapping[str, Any]) -> dict[str, Any]:
        params = parse_inputs(agent, inputs)
        await self._pass_gate(agent, params)
        timeout_s = self._node.timeout_s or agent.timeout_s
        async with self._engine.workspace(self._node.id) as workspace:
            ctx = self._context(workspace)
            limit = asyncio.timeout(timeout_s)
            try:
                async with limit:
                    output = await call_agent(agent, ctx, params, self._engine.settings)
            except TimeoutError:
                if limit.expired():
                    raise failures.timed_out(timeout_s) from None
                raise
        checked = checked_output(agent, output, self._engine.settings.limits.output_bytes)
        return self._engine.redactor.known(checked.model_dump(mode="json"))

    async def _pass_gate(self, agent: Agent, params: BaseModel) -> None:
        if agent.risk is not Risk.APPROVAL_REQUIRED and self._node.spec.approval is None:
            return
        plan = None
        if agent.planner is not None:
            async with self._engine.workspace(self._node.id) as workspace:
                plan = await agent.planner(self._context(workspace), params)
        await self._engine.gate.ask(
            GateRequest(
                run_id=str(self._run.id),
                node_id=self._node.id,
                agent=agent.name,
                agent_version=agent.version,
                inputs_digest=digest(params),
                plan=plan,
            )
        )

    def _context(self, workspace: Path) -> AgentContext:
        return AgentContext(
            run_id=str(self._run.id),
            node_id=self._node.id,
            attempt=self._count,
            dry_run=False,
            workspace=workspace,
            logger=run_logger(self._engine.redactor),
            services=EngineServices(self._node.spec.blocks, self._engine.make_sandbox, self._engine.redactor),
        )

    async def _succeeded(self, output: dict[str, Any], task_run_id: UUID) -> State[Any]:
        # Stored before Prefect hears of it: whoever sees Completed can rely on the output.
        result = NodeResult(NodeState.SUCCEEDED, output=output, attempts=self._count)
        await self._journal.ended(self._node.id, result, task_run_id)
        self.result = result
        return Completed(message=f"{self._node.spec.agent} succeeded")

    def _skipped(self) -> State[Any]:
        reason = "its condition is false"
        self.result = NodeResult(NodeState.SKIPPED, reason=reason)
        return Completed(name="Skipped", message=f"Skipped: {reason}")

    def _failed(self, error: Exception, agent: Agent | None, state: NodeState) -> State[Any]:
        told = failures.describe(error, agent, self._engine.redactor)
        self.may_retry = bool(told["retryable"])
        self.result = NodeResult(
            state,
            error=told,
            attempts=self._count,
            tolerated=state is NodeState.FAILED and self._node.spec.on_error == "continue",
        )
        name = "TimedOut" if told["code"] == "node_timed_out" else state.value.capitalize()
        return Failed(name=name, message=told["message"])


def digest(params: BaseModel) -> str:
    """Give the SHA-256 of inputs in canonical JSON."""
    canonical = json.dumps(params.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
