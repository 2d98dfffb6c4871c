"""A run without Prefect and without a database: every seam of the engine is filled from memory.

A `Stage` is one run; worker after worker enters it, and any of them may be cut off at any call of
the store.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID, uuid4

from prefect.client.schemas.objects import State
from prefect.filesystems import LocalFileSystem
from prefect.states import Failed

from engine.world import World
from penstock.approvals.gate import Allowed, GateRequest, Grant, SaidBefore, Waiting
from penstock.engine.control import RunControl, Stop
from penstock.engine.endings import Ending, of_results
from penstock.engine.facts import Engine, RunFacts, Unit
from penstock.engine.journal import past_of
from penstock.engine.nodes import NodeRunner, RunKit
from penstock.engine.outputs import OutputStore
from penstock.engine.prefect_api import NodeTask
from penstock.engine.scheduler import NodeResult, Walked, walk
from penstock.engine.undo import Undone, undo_changes
from penstock.errors import ApprovalError, DatabaseUnavailable, LeaseLost, StoreError
from penstock.settings import Settings
from penstock.store.nodes import Node, NodeChange
from penstock.store.states import NodeState
from penstock.telemetry.redaction import Redactor
from penstock.workflow import CheckedWorkflow

T = TypeVar("T")
How = Literal["before", "after", "hiccup", "leave", "drain"]

_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Store:
    """What outlives a worker: the rows of the nodes, under the rules of the real table."""

    rows: dict[tuple[str, str], Node] = field(default_factory=dict[tuple[str, str], Node])
    token: int = 0
    """Whoever has another one may not write any more."""
    ends: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """What has ended, in order, undone units not counted again."""
    digests: dict[tuple[str, int], set[str]] = field(default_factory=dict[tuple[str, int], set[str]])
    """What was asked for at gates, by label and epoch."""
    answered: set[str] = field(default_factory=set[str])
    """Units whose approval or other run has come to its end."""
    spent: list[str] = field(default_factory=list[str])

    def write(self, change: NodeChange) -> bool:
        """Write a change; False when another end or a newer attempt stands."""
        row = self.rows.get(change.key)
        if row is not None and not _may_follow(row, change):
            return (row.state, row.attempt, row.output) == (change.state, change.attempt, change.output)
        kept = row is not None and row.state is NodeState.VERIFYING and change.output is None
        if change.state.terminal and change.state is not NodeState.UNDONE:
            self.ends.append(change.key)
        self.rows[change.key] = Node(
            run_id=UUID(int=0),
            node_id=change.node_id,
            item=change.item,
            state=change.state,
            attempt=change.attempt,
            output=row.output if row is not None and kept else json.loads(json.dumps(change.output)),
            output_ref=None,
            error=change.error,
            reason=change.reason,
            task_run_id=change.task_run_id or (row.task_run_id if row else None),
            started_at=None,
            ended_at=self._now() if change.state.terminal else None,
        )
        return True

    def reset(self, keys: Collection[tuple[str, str]]) -> None:
        """Set nodes back, so that they run again."""
        for key in keys:
            self.rows[key] = replace(
                self.rows[key], state=NodeState.PENDING, output=None, error=None, reason=None, ended_at=None
            )
        self.ends = [key for key in self.ends if key not in keys]

    def nodes(self) -> list[Node]:
        """List the rows as the real table does, by node and item."""
        return [row for _, row in sorted(self.rows.items())]

    def state(self, node_id: str, item: str = "") -> NodeState | None:
        """Give the state of a node or an item; None when nothing is known of it."""
        row = self.rows.get((node_id, item))
        return None if row is None else row.state

    def _now(self) -> datetime:
        last = max((row.ended_at for row in self.rows.values() if row.ended_at), default=_START)
        return last + timedelta(microseconds=1)


def _may_follow(row: Node, change: NodeChange) -> bool:
    """Say what the guard of the real table says."""
    same = change.attempt == row.attempt
    if change.state is NodeState.UNDONE:
        return same and row.state in {NodeState.SUCCEEDED, NodeState.FAILED}
    if change.state is NodeState.INTERRUPTED:
        return same and row.state in {NodeState.RUNNING, NodeState.VERIFYING}
    if row.state in {NodeState.SUCCEEDED, NodeState.UNDONE}:
        return False
    if row.state is NodeState.VERIFYING:
        return same and change.state.terminal
    if row.state is NodeState.RUNNING:
        ahead = change.state not in {NodeState.PENDING, NodeState.RUNNING}
        return change.attempt > row.attempt or (same and ahead)
    return change.attempt > row.attempt or (same and not row.state.terminal and change.state is not row.state)


@dataclass(frozen=True)
class Cut:
    """Where a worker's time with a run ends."""

    at: int
    """Number of the call of the store, from 1."""
    how: How
    """The worker dies before or after the call is done, the store is away for one call, the worker is
    told to stop, or to come to an end."""


@dataclass
class Session:
    """One worker's time with the store."""

    store: Store
    token: int
    control: RunControl
    world: World
    cut: Cut | None
    calls: int = 0

    async def call(self, work: Callable[[], T]) -> T:
        """Do something in the store, unless the worker is cut off.

        Raises:
            StoreError: It is.
        """
        self.calls += 1
        how = self.cut.how if self.cut is not None and self.calls == self.cut.at else None
        await self.world.pause()
        if how == "hiccup":
            raise DatabaseUnavailable("the store is away")
        if how == "leave":
            self.control.stop(Stop.LEAVE)
        if how == "drain":
            self.control.drain()
        if how == "before":
            self.store.token += 1
        if self.store.token != self.token:
            raise LeaseLost("another worker has the run")
        result = work()
        if how == "after":
            self.store.token += 1
            raise LeaseLost("another worker has the run")
        return result

    def soon(self, label: str) -> None:
        """Answer what a unit waits for, a moment later."""
        self.store.answered.add(label)
        asyncio.get_running_loop().call_soon(self.control.nudge)


@dataclass(frozen=True)
class MemoryJournal:
    """Writes into the rows of a `Store`."""

    session: Session

    async def started(self, unit: Unit, attempt: int, task_run_id: UUID) -> None:
        await self._write(unit, NodeState.RUNNING, attempt, task_run_id=task_run_id)

    async def waits(self, unit: Unit, state: NodeState, attempt: int, reason: str) -> None:
        await self._write(unit, state, attempt, reason=reason)

    async def verifying(self, unit: Unit, attempt: int, output: Any, task_run_id: UUID) -> None:
        await self._write(unit, NodeState.VERIFYING, attempt, output=output, task_run_id=task_run_id)

    async def ended(self, unit: Unit, result: NodeResult, task_run_id: UUID | None) -> None:
        await self._write(
            unit,
            result.state,
            result.attempts,
            output=result.output,
            error=result.error,
            reason=result.reason or None,
            task_run_id=task_run_id,
        )

    async def _write(self, unit: Unit, state: NodeState, attempt: int, **columns: Any) -> None:
        change = NodeChange(unit.node.id, state, attempt, unit.item, **columns)
        if not await self.session.call(lambda: self.session.store.write(change)):
            raise StoreError(f"{unit.label} cannot be recorded as {state.value} (attempt {attempt})")


@dataclass(frozen=True)
class MemoryGate:
    """Answers as the world's fates say."""

    session: Session
    epoch: int

    async def before(self, node_id: str, item: str, *, done: bool = False) -> SaidBefore:
        del node_id, item, done
        return SaidBefore()

    async def granted(self, node_id: str) -> Allowed:
        del node_id
        return Allowed()

    async def ask(self, request: GateRequest) -> Grant | Waiting:
        return await self.session.call(lambda: self._answer(request))

    def _answer(self, request: GateRequest) -> Grant | Waiting:
        label = f"{request.node_id}[{request.item}]" if request.item else request.node_id
        way, store = self.session.world.fate(label).gate, self.session.store
        store.digests.setdefault((label, self.epoch), set()).add(request.digest)
        if way == "rejected":
            raise ApprovalError("somebody said no")
        if way == "open" or (way == "late" and label not in store.answered):
            if way == "late":
                self.session.soon(label)
            return Waiting("1", "waits for approval 1")
        return Grant(request)


@dataclass(frozen=True)
class MemoryBudget:
    """Counts changes."""

    session: Session

    async def spend(self, unit: Unit, targets: Sequence[str]) -> None:
        del unit
        await self.session.call(lambda: self.session.store.spent.extend(targets))


class NoCache:
    """Keeps nothing."""

    async def find(self, key: str) -> NodeResult | None:
        del key
        return None

    async def keep(self, key: str, unit: Unit, result: NodeResult) -> None:
        raise AssertionError(f"{unit.label} was not to be kept: {key}, {result}")


@dataclass(frozen=True)
class MemoryChildren:
    """Runs of the other workflow; each is waited for at first."""

    session: Session

    async def run(self, unit: Unit, inputs: Mapping[str, Any]) -> NodeResult:
        del inputs
        return await self.session.call(lambda: self._look(unit))

    def _look(self, unit: Unit) -> NodeResult:
        fate, label = self.session.world.fate(unit.label), unit.label
        if label not in self.session.store.answered or fate.gate == "open":
            self.session.world.log.append(("began", label))
            if fate.gate != "open":
                self.session.soon(label)
            return NodeResult(NodeState.WAITING, reason="waits for run 1")
        if fate.does == "succeed":
            return NodeResult(NodeState.SUCCEEDED, output={}, attempts=1)
        told = {"code": "child_failed", "message": "it failed"}
        tolerated = unit.node.spec.on_error == "continue"
        return NodeResult(NodeState.FAILED, error=told, attempts=1, tolerated=tolerated)


class Tasks:
    """Runs units as Prefect does: with their tries, and whatever a body raises becomes a failed state."""

    def __init__(self) -> None:
        self.made: dict[UUID, NodeTask] = {}
        """By the task run's id."""

    async def run(self, spec: NodeTask) -> State[Any]:
        task_run_id = uuid4()
        self.made[task_run_id] = spec
        for _ in spec.retry_delays_s:
            state = await _attempt(spec.body, task_run_id)
            if not (state.is_failed() and spec.may_retry()):
                return state
            await asyncio.sleep(0)
        return await _attempt(spec.body, task_run_id)


async def _attempt(body: Callable[[UUID], Awaitable[State[Any]]], task_run_id: UUID) -> State[Any]:
    try:
        return await body(task_run_id)
    except Exception as error:  # noqa: BLE001  as Prefect does
        return Failed(message=str(error))


class Silent:
    """A logger that nobody reads."""

    def debug(self, event: str, **facts: Any) -> None: ...
    def info(self, event: str, **facts: Any) -> None: ...
    def warning(self, event: str, **facts: Any) -> None: ...
    def error(self, event: str, **facts: Any) -> None: ...


@asynccontextmanager
async def _no_folder(label: str) -> AsyncGenerator[Path]:
    yield Path("/nowhere") / label


def _no_sandbox() -> Any:
    raise AssertionError("no agent here runs tools")


_SETTINGS = Settings()
_OUTPUTS = OutputStore(LocalFileSystem(basepath="/nowhere"), inline_bytes=2**30)


def engine_of(world: World) -> Engine:
    """Give an engine whose agents live in a world."""
    return Engine(
        settings=_SETTINGS,
        registry=world.registry,
        redactor=Redactor(),
        outputs=_OUTPUTS,
        make_sandbox=_no_sandbox,
        workspace=_no_folder,
        make_logger=lambda _: Silent(),
    )


@dataclass(frozen=True)
class Visit:
    """How far one worker came with a run."""

    walked: Walked
    ending: Ending | None
    """None when the run waits, or was left to another worker."""
    results: Mapping[str, NodeResult]
    """With undone nodes marked."""
    undone: Sequence[Undone] = ()


@dataclass
class Stage:
    """One run, and all that outlives its workers."""

    workflow: CheckedWorkflow
    world: World = field(default_factory=World)
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    store: Store = field(default_factory=Store)
    tasks: Tasks = field(default_factory=Tasks)
    epoch: int = 1

    def kit(self, control: RunControl | None = None, cut: Cut | None = None) -> RunKit:
        """Take the run, as a new worker does."""
        self.store.token += 1
        session = Session(self.store, self.store.token, control or RunControl(), self.world, cut)
        facts = RunFacts(
            id=UUID(int=1),
            name="brave-otter",
            workflow=self.workflow,
            revision=1,
            inputs=self.inputs,
            requester="ada",
            started_at="2026-01-01T00:00:00+00:00",
            epoch=self.epoch,
        )
        return RunKit(
            engine=engine_of(self.world),
            run=facts,
            journal=MemoryJournal(session),
            control=session.control,
            gate=MemoryGate(session, self.epoch),
            budget=MemoryBudget(session),
            cache=NoCache(),
            children=MemoryChildren(session),
            run_task=self.tasks.run,
        )

    async def visit(self, control: RunControl | None = None, cut: Cut | None = None) -> Visit:
        """Run it as far as it goes now, as the executor of runs does.

        Raises:
            StoreError: The worker was cut off.
            asyncio.CancelledError: It was told to stop.
        """
        kit = self.kit(control, cut)
        past = await past_of(self.store.nodes(), self.workflow, kit.engine.outputs)
        runner = NodeRunner(kit, past)
        walked = await walk(kit.run.course, past.nodes, runner.run, runner.skip, kit.control)
        if walked.drained or walked.waiting:
            return Visit(walked, None, walked.results)
        ending = of_results(kit, walked.results)
        if not ending.undoes:
            return Visit(walked, ending, walked.results)
        results, undone = await undo_changes(kit, walked.results, runner.task_runs_of)
        return Visit(walked, ending.with_undone(undone), results, undone)

    def reopen(self, reset: Collection[tuple[str, str]]) -> None:
        """Set the run back, as when somebody has it tried again."""
        self.store.reset(reset)
        self.store.answered.clear()
        self.epoch += 1


def enter(stage: Stage, cut: Cut | None = None) -> Visit | None:
    """Be one worker; None when it was cut off."""
    return asyncio.run(_carry(stage, cut))


def play(stage: Stage) -> Visit:
    """Let worker after worker have the run until it ends, or waits for what never comes."""
    for _ in range(20):
        answered = len(stage.store.answered)
        visit = enter(stage)
        if visit is None:
            raise AssertionError("nothing was to cut this worker off")
        if visit.ending is not None or len(stage.store.answered) == answered:
            return visit
    raise AssertionError("the run goes on and on")


def cut_off(make: Callable[[], Stage], how: How, where: Callable[[Stage], bool]) -> Stage:
    """Give a run whose worker was cut off at a certain place."""
    for at in range(1, 80):
        stage = make()
        if enter(stage, Cut(at, how)) is None and where(stage):
            return stage
    raise AssertionError("it never comes to that")


async def _carry(stage: Stage, cut: Cut | None) -> Visit | None:
    control = RunControl()
    visits: list[Visit] = []

    async def carry() -> None:
        visits.append(await stage.visit(control, cut))

    task = asyncio.create_task(carry())
    control.attach(task)
    try:
        await task
    except StoreError:
        if cut is None:
            raise
    except asyncio.CancelledError:
        if control.reason is None:
            raise
    return visits[0] if visits else None
