"""Walk through work that has an order: start what may start, record what is skipped, until all has ended.

Knows neither Prefect nor the database: it is given the course of the work and what to do with
one step of it. The nodes of a run are such work, and so are the items of a `foreach`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.engine.control import RunControl
from penstock.store.states import NodeState
from penstock.workflow import Outcome, Ready

__all__ = ["Course", "NodeResult", "Walked", "walk"]

_OUTCOMES = {
    NodeState.SUCCEEDED: Outcome.SUCCEEDED,
    NodeState.FAILED: Outcome.FAILED,
    NodeState.INTERRUPTED: Outcome.FAILED,
    NodeState.UNDONE: Outcome.SUCCEEDED,
    NodeState.REJECTED: Outcome.REJECTED,
    NodeState.SKIPPED: Outcome.SKIPPED,
    NodeState.CANCELLED: Outcome.CANCELLED,
    NodeState.WITHDRAWN: Outcome.CANCELLED,
}


@dataclass(frozen=True)
class NodeResult:
    """How a node ended, or how far it has come."""

    state: NodeState
    output: Any = None
    error: Mapping[str, Any] | None = None
    """`{"code", "message", "details", "retryable"}` of a failed node."""
    reason: str = ""
    """Why a node was skipped, or what it waits for."""
    attempts: int = 0
    tolerated: bool = False
    """It failed, and `on_error: continue` lets its dependents run."""
    items: tuple[NodeResult, ...] = ()
    """How the items of a `foreach` ended, in order."""

    @property
    def ended(self) -> bool:
        """Whether it is over; otherwise it waits or was left."""
        return self.state.terminal

    @property
    def outcome(self) -> Outcome:
        """How it ended as far as the order of nodes is concerned."""
        if self.tolerated:
            return Outcome.CONTINUED
        if self.state is NodeState.UNDONE and self.error is not None:  # it had failed when it was undone
            return Outcome.FAILED
        return _OUTCOMES[self.state]


class Course(Protocol):
    """Says what may start."""

    def ready(
        self, ended: Mapping[str, NodeResult], *, running: Collection[str], waiting: Collection[str]
    ) -> Ready:
        """Give the steps that may start now and those to be skipped.

        Args:
            ended: What is over, in the order in which it ended.
            running: Steps that were started and run.
            waiting: Steps that were started and wait for something outside.
        """
        ...


_PATIENCE_S = 4.0
"""How long a cancelled step may take to clean up, in seconds."""

RunStep = Callable[[str, Mapping[str, NodeResult]], Awaitable[NodeResult]]
SkipStep = Callable[[str, str], Awaitable[NodeResult]]


@dataclass(frozen=True)
class Walked:
    """How far a walk came."""

    results: dict[str, NodeResult]
    """What has ended, in the order in which it ended."""
    waiting: dict[str, NodeResult]
    """What waits for something outside; the walk is over only when this is empty."""
    drained: bool = False
    """It was told to start nothing more, and something is left."""


async def walk(
    course: Course, done: Mapping[str, NodeResult], run: RunStep, skip: SkipStep, control: RunControl
) -> Walked:
    """Run every step as soon as it may start; independent steps run together.

    Ends when all steps have ended, or when those left wait for something outside. A step that
    waits is run again after a nudge.

    Args:
        done: Results of an earlier worker, in the order in which they ended; not run again.
        run: Runs a step, given its name and the results so far.
        skip: Records a step that does not run, given its name and the reason.
    """
    return await _Walk(course, done, run, skip, control).go()


class _Walk:
    def __init__(
        self,
        course: Course,
        done: Mapping[str, NodeResult],
        run: RunStep,
        skip: SkipStep,
        control: RunControl,
    ) -> None:
        self._course = course
        self._results = dict(done)
        self._run = run
        self._skip = skip
        self._control = control
        self._seen = control.generation
        self._waiting: dict[str, NodeResult] = {}
        self._running: dict[asyncio.Task[NodeResult], tuple[str, int]] = {}
        """With the generation in which each was started."""
        self._over: list[asyncio.Task[NodeResult]] = []
        """Tasks that are done, in the order in which they came to their ends."""

    async def go(self) -> Walked:
        try:
            while await self._step():
                pass
            return Walked(self._results, self._waiting, drained=self._control.draining and self._is_left())
        finally:
            await self._abandon()

    async def _step(self) -> bool:
        """Start, skip or collect something; False when there is nothing more to do."""
        if self._control.generation != self._seen:
            self._seen = self._control.generation
            if not self._control.draining:
                self._waiting.clear()
        if not self._control.draining:
            ready = self._ready()
            for name in ready.start:
                self._start(name)
            for name, reason in ready.skip.items():
                self._results[name] = await self._skip(name, reason)
                self._waiting.pop(name, None)
            if ready.skip:
                return True
        if self._running:
            await self._collect()
            return True
        return self._control.generation != self._seen

    def _start(self, name: str) -> None:
        task = asyncio.create_task(self._carry(name), name=name)
        task.add_done_callback(self._over.append)
        self._running[task] = name, self._control.generation

    async def _carry(self, name: str) -> NodeResult:
        return await self._run(name, self._results)

    def _ready(self) -> Ready:
        running = {name for name, _ in self._running.values()}
        return self._course.ready(self._results, running=running, waiting=set(self._waiting))

    def _is_left(self) -> bool:
        ready = self._ready()
        return bool(ready.start or ready.skip) or any(
            result.state is NodeState.PENDING for result in self._waiting.values()
        )

    async def _collect(self) -> None:
        """Wait until a step has ended or a nudge has come, and take what has ended."""
        nudged = asyncio.create_task(self._control.nudged(self._seen))
        try:
            await asyncio.wait({*self._running, nudged}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            nudged.cancel()
        over = [*self._over]
        self._over.clear()
        for task in over:
            (name, generation), result = self._running.pop(task), task.result()
            if result.ended:
                self._results[name] = result
            elif generation == self._control.generation or self._control.draining:
                self._waiting[name] = result  # otherwise it may have looked before the nudge came

    async def _abandon(self) -> None:
        """Cancel what still runs and wait for it, so that nothing goes on behind our back."""
        for task in self._running:
            task.cancel()
        if self._running:  # one that does not let itself be cancelled must not hold the run for ever
            await asyncio.wait(self._running, timeout=_PATIENCE_S)
