"""Walk a graph of nodes: start what may start, record what is skipped, until all have ended.

Knows neither Prefect nor the database: it is given the graph and what to do with one node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.store.states import NodeState
from penstock.workflow import Graph, Outcome

__all__ = ["NodeResult", "walk"]

_OUTCOMES = {
    NodeState.SUCCEEDED: Outcome.SUCCEEDED,
    NodeState.FAILED: Outcome.FAILED,
    NodeState.REJECTED: Outcome.REJECTED,
    NodeState.SKIPPED: Outcome.SKIPPED,
}


@dataclass(frozen=True)
class NodeResult:
    """How a node ended."""

    state: NodeState
    output: Any = None
    error: Mapping[str, Any] | None = None
    """`{"code", "message", "details", "retryable"}` of a failed node."""
    reason: str = ""
    """Why a node was skipped."""
    attempts: int = 0
    tolerated: bool = False
    """It failed, and `on_error: continue` lets its dependents run."""

    @property
    def outcome(self) -> Outcome:
        """How it ended as far as the order of nodes is concerned."""
        return Outcome.CONTINUED if self.tolerated else _OUTCOMES[self.state]


RunNode = Callable[[str, Mapping[str, NodeResult]], Awaitable[NodeResult]]
SkipNode = Callable[[str, str], Awaitable[NodeResult]]


async def walk(
    graph: Graph, done: Mapping[str, NodeResult], run: RunNode, skip: SkipNode
) -> dict[str, NodeResult]:
    """Run every node as soon as all that it waits for has ended; independent branches run together.

    Args:
        done: Results of an earlier worker; those nodes are not run again.
        run: Runs a node, given its id and the results so far.
        skip: Records a node that does not run, given its id and the reason.
    Returns:
        The result of every node, in the graph's order.
    """
    results = dict(done)
    running: dict[asyncio.Task[NodeResult], str] = {}
    try:
        while len(results) < len(graph.order):
            outcomes = {name: result.outcome for name, result in results.items()}
            ready = graph.ready(outcomes, running=set(running.values()))
            for name, reason in ready.skip.items():
                results[name] = await skip(name, reason)
            for name in ready.start:
                running[asyncio.create_task(_as_task(run(name, results)), name=name)] = name
            if not ready.skip:
                await _collect(running, results)
    finally:
        await _abandon(running)
    return {name: results[name] for name in graph.order}


async def _as_task(result: Awaitable[NodeResult]) -> NodeResult:
    return await result


async def _collect(running: dict[asyncio.Task[NodeResult], str], results: dict[str, NodeResult]) -> None:
    """Wait until at least one node has ended and take what has."""
    ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in ended:
        results[running.pop(task)] = task.result()


async def _abandon(running: Mapping[asyncio.Task[NodeResult], str]) -> None:
    """Cancel what still runs and wait for it, so that nothing goes on behind our back."""
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
