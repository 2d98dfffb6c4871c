"""Undo what a failed run has changed: the agents' own undo, the latest change first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from penstock.contracts import Agent, AgentContext
from penstock.engine import failures
from penstock.engine.facts import Unit
from penstock.engine.gates import params_of, said_before
from penstock.engine.nodes import RunKit
from penstock.engine.prefect_api import NodeTask
from penstock.engine.scheduler import NodeResult
from penstock.errors import AgentRetry, StoreError
from penstock.store.states import NodeState

__all__ = ["Undone", "undo_changes"]


@dataclass(frozen=True)
class Undone:
    """How an undo went."""

    label: str
    error: str = ""
    """Why it failed; empty when it did not."""


async def undo_changes(
    kit: RunKit, results: Mapping[str, NodeResult], task_runs: Callable[[str], list[UUID]]
) -> tuple[dict[str, NodeResult], list[Undone]]:
    """Run the undo of every completed change whose node says `undo: automatic`, in reverse order.

    An undo that fails does not stop the others. One that was cut off is run again: an agent's
    undo leads back to a state, so it may be repeated. Raises a `StoreError` when one cannot be
    recorded.

    Args:
        results: In the order in which the nodes ended.
        task_runs: Gives the task runs of a node, for the edges in Prefect's graph.
    Returns:
        The results with undone nodes marked, and what was undone.
    """
    after = dict(results)
    told: list[Undone] = []
    for unit, result in _changes(kit, results):
        undone = await _Undoing(kit, unit, result, results).run(task_runs(unit.node.id))
        told.append(undone)
        if not undone.error and not unit.item:
            after[unit.node.id] = replace(result, state=NodeState.UNDONE)
    return after, told


def _changes(kit: RunKit, results: Mapping[str, NodeResult]) -> Iterator[tuple[Unit, NodeResult]]:
    """Give the completed changes, the latest first."""
    for node_id, result in reversed([*results.items()]):
        node = kit.run.workflow.nodes[node_id]
        if node.spec.undo != "automatic":
            continue
        if node.spec.foreach is None:
            if _is_change(result):
                yield Unit(node), result
            continue
        values = node.render_items(kit.run.scope(results, Unit(node))) if result.items else []
        for number, item in reversed([*enumerate(result.items)]):
            if _is_change(item):
                yield Unit(node, str(number), values[number]), item


def _is_change(result: NodeResult) -> bool:
    """Say whether the agent did its work, also when its check said no afterwards."""
    return result.state in {NodeState.SUCCEEDED, NodeState.FAILED} and result.output is not None


class _Undoing:
    def __init__(
        self, kit: RunKit, unit: Unit, result: NodeResult, results: Mapping[str, NodeResult]
    ) -> None:
        self._kit = kit
        self._unit = unit
        self._result = result
        self._results = results
        self._error = ""
        self._again = False
        self._fault: StoreError | None = None

    async def run(self, edges: list[UUID]) -> Undone:
        await self._kit.run_task(
            NodeTask(
                f"undo {self._unit.label}",
                self._once,
                retry_delays_s=[self._unit.node.retry.delay_s(tries, 0.5) for tries in (1, 2)],
                may_retry=lambda: self._again,
                upstream=edges,
            )
        )
        if self._fault is not None:
            raise self._fault
        return Undone(self._unit.label, self._error)

    async def _once(self, task_run_id: UUID) -> State[Any]:
        kit, unit = self._kit, self._unit
        self._error, self._again = "", False
        try:
            agent = kit.engine.registry.get(unit.node.spec.agent or "")
            await self._undo(agent)
            await kit.journal.ended(unit, replace(self._result, state=NodeState.UNDONE), task_run_id)
        except StoreError as error:  # not the undo's failure: nothing can be recorded
            self._fault = error
            return Failed(message=error.message)
        except Exception as error:  # noqa: BLE001  told in the state of the run
            self._error = failures.describe(error, None, kit.engine.redactor)["message"]
            self._again = isinstance(error, AgentRetry)
            return Failed(message=self._error)
        return Completed(name="Undone", message=f"{agent.name} undid what it had done")

    async def _undo(self, agent: Agent) -> None:
        kit, unit = self._kit, self._unit
        if agent.undoer is None:
            return
        before = {name: result for name, result in self._results.items() if name != unit.node.id}
        said = await said_before(kit.engine, kit.run, kit.gate, unit, agent, done=True)
        params = params_of(kit.run, unit, agent, before, said)
        output = agent.output_model.model_validate(self._result.output)
        async with kit.engine.workspace(unit.label) as workspace:
            ctx: AgentContext = kit.run.context(
                kit.engine, unit, workspace, attempt=max(1, self._result.attempts)
            )
            async with failures.time_limit(unit.node.timeout_s or agent.timeout_s):
                await agent.undoer(ctx, params, output)
