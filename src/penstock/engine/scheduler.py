"""Walk a graph of nodes: what may start, what is skipped and why, and how the run ends.

Knows neither Prefect nor the database: it is given the graph and a function that runs one node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from penstock.store.states import NodeState

__all__ = ["NodeResult", "RunMode", "Step", "skip_reason", "walk"]


class RunMode(StrEnum):
    """When a node runs, given how the nodes it needs ended."""

    ON_SUCCESS = "on_success"
    ALWAYS = "always"
    ON_FAILURE = "on_failure"


@dataclass(frozen=True)
class Step:
    """A node as far as order is concerned."""

    id: str
    needs: Sequence[str] = ()
    mode: RunMode = RunMode.ON_SUCCESS


@dataclass(frozen=True)
class NodeResult:
    """How a node ended."""

    state: NodeState
    output: Any = None
    error: Mapping[str, Any] | None = None
    """`{"code", "message", "details"}` of a failed node."""
    reason: str = ""
    """Why a node was skipped."""
    attempts: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


RunNode = Callable[[Step, Mapping[str, NodeResult]], Awaitable[NodeResult]]
SkipNode = Callable[[Step, str], Awaitable[NodeResult]]


async def walk(
    steps: Sequence[Step], done: Mapping[str, NodeResult], run: RunNode, skip: SkipNode
) -> dict[str, NodeResult]:
    """Run every step as soon as all that it needs has ended; independent branches run together.

    Args:
        steps: In an order in which every step comes after what it needs.
        done: Results of an earlier worker; those steps are not run again.
        run: Runs a step; is given the results so far.
        skip: Records a step that does not run, with the reason.
    Returns:
        The result of every step, in the order of `steps`.
    """
    results = dict(done)
    ended = {step.id: asyncio.Event() for step in steps}
    for identity in done:
        ended[identity].set()

    async def take(step: Step) -> None:
        for need in step.needs:
            await ended[need].wait()
        reason = skip_reason(step, results)
        results[step.id] = await (skip(step, reason) if reason else run(step, results))
        ended[step.id].set()

    async with asyncio.TaskGroup() as group:
        for step in steps:
            if step.id not in done:
                group.create_task(take(step), name=step.id)
    return {step.id: results[step.id] for step in steps}


def skip_reason(step: Step, results: Mapping[str, NodeResult]) -> str:
    """Say why a step whose needs have all ended must not run; empty when it must."""
    failed = [need for need in step.needs if results[need].state in _FAILED]
    skipped = [need for need in step.needs if results[need].state is NodeState.SKIPPED]
    match step.mode:
        case RunMode.ALWAYS:
            return ""
        case RunMode.ON_FAILURE:
            return "" if failed else "nothing that it needs failed"
        case RunMode.ON_SUCCESS if failed:
            return f"{_names(failed)} failed"
        case RunMode.ON_SUCCESS if skipped:
            return f"{_names(skipped)} did not run"
        case _:
            return ""


_FAILED = frozenset({NodeState.FAILED, NodeState.REJECTED})


def _names(ids: Sequence[str]) -> str:
    return ", ".join(repr(identity) for identity in ids)
