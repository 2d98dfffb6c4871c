"""Run one node: condition, items, inputs, gate, budget, agent; every step recorded."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import BaseModel

from penstock.approvals.gate import Allowed, Gate, SaidBefore, Waiting
from penstock.contracts import Agent, AgentType
from penstock.engine import failures
from penstock.engine.attempts import Attempts, Call, Journal
from penstock.engine.cache import OutputCache, cache_key
from penstock.engine.control import RunControl
from penstock.engine.courses import ItemCourse
from penstock.engine.facts import Engine, RunFacts, Unit
from penstock.engine.gates import Proposal, joined, params_of, propose, said_before
from penstock.engine.prefect_api import NodeTask, run_node_task
from penstock.engine.scheduler import NodeResult, walk
from penstock.errors import (
    ApprovalError,
    ApprovalLapsed,
    ApprovalWithdrawn,
    NodeInterrupted,
    RunError,
    StoreError,
)
from penstock.store.states import NodeState
from penstock.workflow import CheckedNode

__all__ = ["Budget", "Children", "NodeRunner", "Past", "RunKit"]


class Children(Protocol):
    """Runs of other workflows."""

    async def run(self, unit: Unit, inputs: Mapping[str, Any]) -> NodeResult:
        """Start the run that a unit stands for, or say how far it has come."""
        ...


class Budget(Protocol):
    """How many changes are allowed."""

    async def spend(self, unit: Unit, targets: Sequence[str]) -> None:
        """Count a change of some targets.

        Raises:
            BudgetExceeded: One of them has been changed too often; nothing was counted.
        """
        ...


@dataclass(frozen=True)
class RunKit:
    """What the nodes of one run work with."""

    engine: Engine
    run: RunFacts
    journal: Journal
    control: RunControl
    gate: Gate
    budget: Budget
    cache: OutputCache
    children: Children
    run_task: Callable[[NodeTask], Awaitable[Any]] = run_node_task
    """Runs a unit as a task run of the current Prefect flow run."""


@dataclass(frozen=True)
class Past:
    """What earlier workers left of a run; keys are node and item."""

    nodes: Mapping[str, NodeResult] = field(default_factory=dict[str, NodeResult])
    """What had ended, in the order in which it ended."""
    items: Mapping[str, Mapping[str, NodeResult]] = field(default_factory=dict[str, Mapping[str, NodeResult]])
    """Items that had ended, by node."""
    attempts: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """Attempts that were begun."""
    task_runs: Mapping[tuple[str, str], UUID] = field(default_factory=dict[tuple[str, str], UUID])
    """Task runs: the edges in Prefect's graph."""
    cut_off: frozenset[tuple[str, str]] = frozenset()
    """Units that ran when their worker went away."""
    unverified: Mapping[tuple[str, str], dict[str, Any]] = field(
        default_factory=dict[tuple[str, str], dict[str, Any]]
    )
    """Outputs of units whose check was still to be made."""
    waiting: frozenset[tuple[str, str]] = frozenset()
    """Units that wait for the run of another workflow."""


class NodeRunner:
    """Runs the nodes of one run, each unit as a Prefect task run."""

    def __init__(self, kit: RunKit, past: Past) -> None:
        self._kit = kit
        self._past = past
        self._items = {node_id: dict(items) for node_id, items in past.items.items()}
        self._items_begun: dict[str, set[str]] = {}
        for node_id, item in (*past.cut_off, *past.unverified, *past.waiting):
            self._items_begun.setdefault(node_id, set()).add(item)
        self._task_runs = dict(past.task_runs)
        self._allowed: dict[str, Allowed] = {}
        """What one grant for all items of a node allows, by node."""

    async def run(self, node_id: str, results: Mapping[str, NodeResult]) -> NodeResult:
        """Run a node as far as it goes now: to its end, or until it waits."""
        node = self._kit.run.workflow.nodes[node_id]
        whole = Unit(node)
        try:
            scope = self._kit.run.scope(results, whole)
            wanted = node.condition(scope)
            items = node.render_items(scope) if wanted else []
        except Exception as error:  # noqa: BLE001  the node's failure, told in its result
            return await self._fail(whole, error, NodeState.FAILED)
        if not wanted:
            return await self.skip(node_id, "its condition is false")
        if node.spec.foreach is None:
            return await self._run_unit(whole, results)
        units = {str(number): Unit(node, str(number), item) for number, item in enumerate(items)}
        return await self._run_items(whole, units, results)

    async def skip(self, node_id: str, reason: str) -> NodeResult:
        """Record a node that does not run, and show it in Prefect with the reason."""
        return await self._skip(Unit(self._kit.run.workflow.nodes[node_id]), reason)

    def task_runs_of(self, node_id: str) -> list[UUID]:
        """Give the task runs of a node, one or one per item."""
        return [task_run for (name, _), task_run in self._task_runs.items() if name == node_id]

    async def _skip(self, unit: Unit, reason: str) -> NodeResult:
        result = NodeResult(NodeState.SKIPPED, reason=reason, attempts=self._begun(unit))
        return await self._settle(unit, result)

    async def _run_items(
        self, whole: Unit, units: Mapping[str, Unit], results: Mapping[str, NodeResult]
    ) -> NodeResult:
        foreach = whole.node.spec.foreach
        if foreach is None:
            raise RunError(f"node {whole.label!r} has no items")
        done = self._items.setdefault(whole.node.id, {})
        approval = whole.node.spec.approval
        if approval is not None and approval.per == "node":
            left = {key: unit for key, unit in units.items() if key not in done}
            waits = await self._once_for_all(whole, left, results)
            if waits is not None:
                return waits
        begun = self._items_begun.setdefault(whole.node.id, set())

        async def run(key: str, _: Mapping[str, NodeResult]) -> NodeResult:
            result = await self._run_unit(units[key], results)
            if result.state is NodeState.WAITING:  # another run does its work
                begun.add(key)
            return result

        walked = await walk(
            ItemCourse([*units], foreach.concurrency, foreach.stop_after_failures, begun),
            done,
            run,
            lambda key, reason: self._skip(units[key], reason),
            self._kit.control,
        )
        done.update(walked.results)
        if walked.drained:
            return NodeResult(NodeState.PENDING)
        if walked.waiting:
            first = next(iter(walked.waiting.values()))
            return NodeResult(first.state, reason=first.reason)
        result = _joined(whole.node, [done[key] for key in units])
        if not units:
            return await self._settle(whole, result)
        await self._kit.journal.ended(whole, result, None)
        return result

    async def _run_unit(self, unit: Unit, results: Mapping[str, NodeResult]) -> NodeResult:
        try:
            step = await self._prepare(unit, results)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  the node's failure, told in its result
            return await self._fail(unit, error, _state_after(error))
        if isinstance(step, Call):
            return await self._attempt(unit, step, results)
        if not step.ended:
            await self._kit.journal.waits(unit, step.state, self._begun(unit), step.reason)
            return step
        return await self._settle(unit, step)

    async def _prepare(self, unit: Unit, results: Mapping[str, NodeResult]) -> Call | NodeResult:
        """Do all that comes before the agent; what waits or needs no agent is a result already."""
        kit, node = self._kit, unit.node
        if node.spec.workflow is not None:
            return await kit.children.run(unit, node.render_inputs(kit.run.scope(results, unit)))
        agent = kit.engine.registry.get(node.spec.agent or "")
        before = await said_before(kit.engine, kit.run, kit.gate, unit, agent)
        params = params_of(kit.run, unit, agent, results, before)
        if unit.key in self._past.unverified:
            return Call(agent, params, output=self._past.unverified[unit.key])
        if unit.key in self._past.cut_off and not failures.is_harmless(agent):
            raise NodeInterrupted(
                f"node {unit.label!r} was cut off while {agent.name} was changing things, so nobody knows how"
                f" far it came; look, then run it again with: penstock runs retry {kit.run.id}"
            )
        if node.spec.cache is not None:
            hit = await kit.cache.find(cache_key(agent, params))
            if hit is not None:
                return hit
        proposal = None
        if before is not None or agent.type is not AgentType.ANALYSIS:
            proposal = await self._propose(unit, agent, params, results, before)
        if proposal is not None and proposal.gated and not self._is_allowed(unit, proposal):
            answer = await kit.gate.ask(proposal.request)
            if isinstance(answer, Waiting):
                return NodeResult(NodeState.WAITING_APPROVAL, reason=answer.message)
        if agent.type is not AgentType.ANALYSIS:
            await kit.budget.spend(unit, _targets(proposal, agent.name))
        return Call(agent, params)

    async def _propose(
        self,
        unit: Unit,
        agent: Agent,
        params: BaseModel,
        results: Mapping[str, NodeResult],
        before: SaidBefore | None,
    ) -> Proposal:
        kit, said = self._kit, before or SaidBefore()
        return await propose(kit.engine, kit.run, unit, agent, params, results=results, before=said)

    def _is_allowed(self, unit: Unit, proposal: Proposal) -> bool:
        """Say whether one grant for all items of the node allows this one, just as it would run now."""
        return self._allowed.get(unit.node.id, Allowed()).covers(proposal.request)

    async def _once_for_all(
        self, whole: Unit, units: Mapping[str, Unit], results: Mapping[str, NodeResult]
    ) -> NodeResult | None:
        """Pass the gate of a whole node; gives its result when it waits or does not pass."""
        try:
            waits = await self._ask_for_all(whole, units, results)
        except ApprovalError as error:
            return await self._fail(whole, error, _state_after(error))
        # What the node as a whole has waited for is no news any more, whatever its items wait for now.
        told = waits or NodeResult(NodeState.PENDING)
        await self._kit.journal.waits(whole, told.state, self._begun(whole), told.reason)
        return waits

    async def _ask_for_all(
        self, whole: Unit, units: Mapping[str, Unit], results: Mapping[str, NodeResult]
    ) -> NodeResult | None:
        """Ask once for all items of a node; None when they may begin, each as it was asked for."""
        gate, node_id = self._kit.gate, whole.node.id
        allowed = await gate.granted(node_id)
        if not allowed.digests:
            proposals = await self._proposals(units, results)
            if not proposals:
                return None
            request = joined(proposals, whole)
            answer = await gate.ask(request)
            if isinstance(answer, Waiting):
                return NodeResult(NodeState.WAITING_APPROVAL, reason=answer.message)
            digests = {key: one.request.digest for key, one in proposals.items()}
            allowed = Allowed(digests, frozenset(request.terms.clauses))
        self._allowed[node_id] = allowed
        return None

    async def _proposals(
        self, units: Mapping[str, Unit], results: Mapping[str, NodeResult]
    ) -> dict[str, Proposal]:
        """Plan every item that needs a grant; what is wrong with one is told when its turn comes."""
        found = {key: await self._proposal_of(unit, results) for key, unit in units.items()}
        return {key: proposal for key, proposal in found.items() if proposal and proposal.gated}

    async def _proposal_of(self, unit: Unit, results: Mapping[str, NodeResult]) -> Proposal | None:
        kit = self._kit
        try:
            agent = kit.engine.registry.get(unit.node.spec.agent or "")
            before = await said_before(kit.engine, kit.run, kit.gate, unit, agent)
            params = params_of(kit.run, unit, agent, results, before)
            return await self._propose(unit, agent, params, results, before)
        except StoreError:
            raise
        except Exception:  # noqa: BLE001  it fails in the same way when its turn comes
            return None

    async def _attempt(self, unit: Unit, call: Call, results: Mapping[str, NodeResult]) -> NodeResult:
        kit = self._kit
        attempts = Attempts(
            kit.engine,
            kit.run,
            unit,
            call,
            kit.journal,
            control=kit.control,
            results=results,
            begun=self._begun(unit),
        )
        await self._task(
            unit,
            attempts.once,
            retry_delays_s=_retry_delays(unit.node),
            may_retry=lambda: attempts.may_retry,
        )
        if attempts.fault is not None:
            raise attempts.fault
        result = attempts.result
        if result is None:
            raise RunError(f"node {unit.label!r} was stopped by Prefect before it came to an end")
        if result.state is not NodeState.SUCCEEDED:  # a success is recorded inside the attempt
            await kit.journal.ended(unit, result, self._task_runs.get(unit.key))
        elif unit.node.spec.cache is not None:
            await kit.cache.keep(cache_key(call.agent, call.params), unit, result)
        return result

    async def _fail(self, unit: Unit, error: Exception, state: NodeState) -> NodeResult:
        """Record a unit that failed before its agent was called."""
        told = failures.describe(error, None, self._kit.engine.redactor)
        tolerated = state is NodeState.FAILED and unit.node.spec.on_error == "continue"
        result = NodeResult(state, error=told, attempts=self._begun(unit), tolerated=tolerated)
        return await self._settle(unit, result)

    async def _settle(self, unit: Unit, result: NodeResult) -> NodeResult:
        """Record the end of a unit whose agent is not called, and show it in Prefect."""

        async def body(_task_run: UUID) -> State[Any]:
            return _shown(result)  # made here: Prefect puts states in the order in which they were made

        await self._task(unit, body)
        await self._kit.journal.ended(unit, result, self._task_runs.get(unit.key))
        return result

    async def _task(
        self,
        unit: Unit,
        body: Callable[[UUID], Awaitable[State[Any]]],
        *,
        retry_delays_s: Sequence[float] = (),
        may_retry: Callable[[], bool] = lambda: False,
    ) -> None:
        async def remember(task_run_id: UUID) -> State[Any]:
            self._task_runs[unit.key] = task_run_id
            return await body(task_run_id)

        await self._kit.run_task(
            NodeTask(unit.label, remember, retry_delays_s, may_retry, upstream=self._edges(unit.node))
        )

    def _edges(self, node: CheckedNode) -> list[UUID]:
        waits_for = set(node.link.all)
        return [task_run for (need, _), task_run in self._task_runs.items() if need in waits_for]

    def _begun(self, unit: Unit) -> int:
        return self._past.attempts.get(unit.key, 0)


def _targets(proposal: Proposal | None, name: str) -> Sequence[str]:
    plan = proposal.plan if proposal else None
    return (plan.targets if plan else ()) or (name,)


_STATES = (
    (NodeInterrupted, NodeState.INTERRUPTED),
    (ApprovalLapsed, NodeState.FAILED),
    (ApprovalWithdrawn, NodeState.WITHDRAWN),
    (ApprovalError, NodeState.REJECTED),
)


def _state_after(error: Exception) -> NodeState:
    """Give the state of a node that ends with an error before its agent was called."""
    return next((state for kind, state in _STATES if isinstance(error, kind)), NodeState.FAILED)


_WORST_FIRST = (
    NodeState.INTERRUPTED,
    NodeState.CANCELLED,
    NodeState.REJECTED,
    NodeState.FAILED,
    NodeState.WITHDRAWN,
)


def _joined(node: CheckedNode, items: Sequence[NodeResult]) -> NodeResult:
    """Sum up how the items of a node ended: their outputs in order, None where there is none."""
    output = [item.output if item.state is NodeState.SUCCEEDED else None for item in items]
    for state in _WORST_FIRST:
        worst = [item for item in items if item.state is state]
        if worst:
            error = dict(worst[0].error or {})
            error["message"] = f"{len(worst)} of {len(items)} items: {error.get('message', state.value)}"
            tolerated = state is NodeState.FAILED and node.spec.on_error == "continue"
            return NodeResult(state, output=output, error=error, tolerated=tolerated, items=tuple(items))
    return NodeResult(NodeState.SUCCEEDED, output=output, items=tuple(items))


def _shown(result: NodeResult) -> State[Any]:
    """Give the Prefect state of a unit whose agent was not called."""
    if result.state is NodeState.SKIPPED:
        return Completed(name="Skipped", message=f"Skipped: {result.reason}")
    if result.state is NodeState.SUCCEEDED:
        return Completed(name="Cached" if result.reason.startswith("cached") else None, message=result.reason)
    message = str((result.error or {}).get("message", result.reason))
    return Failed(name=result.state.value.capitalize(), message=message)


def _retry_delays(node: CheckedNode) -> list[float]:
    """Give the pause before each further attempt, in seconds, with its random part."""
    return [node.retry.delay_s(tries, random.random()) for tries in range(1, node.retry.max)]  # noqa: S311
