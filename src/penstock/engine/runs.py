"""Run one claimed Prefect flow run: from its frozen revision to its end, or until it waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.results import ResultStore

from penstock.engine import endings
from penstock.engine.cache import StoreCache
from penstock.engine.children import StoreChildren
from penstock.engine.closing import Closing
from penstock.engine.control import RunControl, Stop
from penstock.engine.endings import Ending
from penstock.engine.facts import Engine, RunFacts
from penstock.engine.granting import StoreGate
from penstock.engine.journal import StoreBudget, StoreJournal, past_of, results_of
from penstock.engine.judging import RuleJudge
from penstock.engine.nodes import NodeRunner, Past, RunKit
from penstock.engine.places import PLACE_WAIT_S, take_place
from penstock.engine.prefect_api import flow_run_context, hand_over, postpone, set_running
from penstock.engine.resets import to_reset
from penstock.engine.revisions import Pinned, Revisions
from penstock.engine.scheduler import NodeResult, Walked, walk
from penstock.engine.starting import RunStarter
from penstock.engine.undo import undo_changes
from penstock.engine.waiting import Suspension
from penstock.errors import LeaseLost, NodeTimedOut, PenstockError, StoreError
from penstock.store.database import Database
from penstock.store.nodes import nodes_of
from penstock.store.runs import Entry, begin_run, get_run, reopen_run
from penstock.store.states import RunState, Trust
from penstock.store.suspension import leave_run, suspend_run
from penstock.workflow import Trust as InputTrust
from penstock.workflow import sub_workflows, validate_inputs

__all__ = ["FLOW_NAME", "RunExecutor", "run_workflow"]

FLOW_NAME = "run-workflow"
_MOST_CRASHES = 5
"""Workers that may die with a run, one after the other and without a node coming to its end."""


@flow(name=FLOW_NAME, persist_result=False, validate_parameters=False)
async def run_workflow() -> None:
    """Run the workflow that this deployment stands for.

    Every workflow is a deployment of this one flow. A Penstock worker runs it without calling
    this function; a worker of another type, which knows nothing of workflows, is told so here.
    """
    raise RuntimeError(
        "workflows run on a worker of type 'penstock': start one with `penstock worker`,"
        " or give the deployment a work pool of that type"
    )


@dataclass(frozen=True)
class RunExecutor:
    """Runs flow runs; one for all runs of a worker."""

    engine: Engine
    database: Database
    revisions: Revisions
    client: PrefectClient
    result_store: ResultStore
    starter: RunStarter
    closing: Closing
    judge: RuleJudge
    worker_name: str
    worker_id: UUID

    async def execute(self, flow_run: FlowRun, control: RunControl) -> None:
        """Run a claimed flow run as far as it goes now: to its end, or until it waits.

        Raises:
            PenstockError: How it ended could not be recorded.
            asyncio.CancelledError: It was stopped, and not because somebody cancelled it.
        """
        if not await set_running(self.client, flow_run):
            await self.closing.cancelled(flow_run.id)  # cancelled or deleted before it was taken
            return
        visit = _Visit(self, flow_run, control)
        try:
            ending = await visit.go()
        except LeaseLost:
            control.stop(Stop.LOST)
            return
        if ending is not None:
            await self.closing.end(flow_run.id, ending, token=visit.token, alone=visit.alone)


class _Visit:
    """One worker's time with one run."""

    def __init__(self, shared: RunExecutor, flow_run: FlowRun, control: RunControl) -> None:
        self._shared = shared
        self._flow_run = flow_run
        self._control = control
        self._closing = shared.closing
        self.token: int | None = None
        """What the run was entered with; None until it is."""
        self.alone = False
        """Whether nobody but Prefect has to hear of its end."""

    async def go(self) -> Ending | None:
        """Run it; None when it does not end now."""
        try:
            return await self._enter_and_run()
        except StoreError:  # nothing can be recorded; whoever can reach the store goes on
            raise
        except PenstockError as error:
            await self._close_nodes("the run failed")
            return endings.failed(error, self._shared.engine.redactor)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._control.reason is not Stop.CANCEL or task is None:
                raise
            task.uncancel()
            return await self._cancelled(self._control.by)

    async def _enter_and_run(self) -> Ending | None:
        entry = await self._enter()
        run = entry.run
        if run.state.terminal:
            ended = await self._reopen(entry)
            if ended is not None:
                return ended
            entry = await self._enter()
            run = entry.run
        self.token = run.token
        if run.cancel_requested_at is not None:
            return await self._cancelled(run.cancelled_by or "")
        if run.crashes >= _MOST_CRASHES:
            await self._close_nodes("the run was given up")
            return endings.crashed(run.crashes, entry.nodes)
        pinned = await self._shared.revisions.get(run.revision_id)
        facts = self._facts(entry, pinned)
        others = sub_workflows(pinned.workflow.workflow) or pinned.workflow.workflow.concurrency
        self.alone = run.parent is None and not others
        turn = await take_place(self._shared.database, self._closing, facts, self.token)
        if turn.taken:
            return await self._run(facts, entry)
        return turn.ending or await self._queue(turn.message)

    async def _enter(self) -> Entry:
        shared, flow_run = self._shared, self._flow_run
        revision = await shared.revisions.of_deployment(flow_run.deployment_id)
        return await begin_run(
            shared.database,
            flow_run.id,
            name=flow_run.name,
            trust=Trust.AUTHENTICATED,
            inputs=flow_run.parameters,
            trigger={},
            agents=revision.agents,
            claimed_by=shared.worker_name,
            worker_id=shared.worker_id,
            revision_id=revision.id,
            request_id=_request_id(flow_run),
        )

    async def _reopen(self, entry: Entry) -> Ending | None:
        """Set a run that has ended back, for somebody has it tried again; how it ended if it succeeded."""
        pinned = await self._shared.revisions.get(entry.run.revision_id)
        nodes = await nodes_of(self._shared.database, entry.run.id)
        reset = to_reset(pinned.workflow, nodes)
        if await reopen_run(self._shared.database, entry.run.id, reset=reset):
            return None
        return endings.as_recorded(entry.run)

    def _facts(self, entry: Entry, pinned: Pinned) -> RunFacts:
        run, shared = entry.run, self._shared
        shared.revisions.check_agents(run.agents)
        inputs = validate_inputs(
            pinned.workflow.workflow,
            run.inputs,
            allow=shared.engine.settings.allow,
            trust=InputTrust(run.trust.value),
            exposed=pinned.workflow.exposed,
        )
        return RunFacts(
            id=run.id,
            name=run.name,
            workflow=pinned.workflow,
            revision=pinned.number,
            inputs=inputs,
            requester=run.requester,
            started_at=run.started_at.isoformat() if run.started_at else "",
            trigger=run.trigger or None,
            trigger_type=run.trigger_type,
            epoch=run.epoch,
            editor=pinned.editor,
        )

    async def _queue(self, message: str) -> None:
        """Put the run back until a place comes free."""
        shared, run_id = self._shared, self._flow_run.id
        await leave_run(shared.database, run_id, self.token or 0, RunState.QUEUED, message=message)
        await postpone(shared.client, run_id, seconds=PLACE_WAIT_S, message=message)
        # A place may have come free before the run could be called.
        await self._closing.call_next(await get_run(shared.database, run_id))

    async def _run(self, facts: RunFacts, entry: Entry) -> Ending | None:
        shared = self._shared
        suspension = Suspension(
            shared.database,
            shared.client,
            shared.starter,
            self._closing,
            shared.judge,
            facts,
            self.token or 0,
        )
        note = await suspension.take_answer(entry.run.round, suspended=entry.suspended)
        kit = self._kit(facts, entry)
        past = await past_of(entry.nodes, facts.workflow, shared.engine.outputs)
        nodes = NodeRunner(kit, past)
        with flow_run_context(run_workflow, self._flow_run, shared.client, shared.result_store):
            walked = await self._walk(kit, nodes, past, entry.run.active_s)
            if isinstance(walked, Walked) and walked.drained and self._control.paused:
                await suspend_run(
                    shared.database,
                    facts.id,
                    self.token or 0,
                    "suspended by somebody in Prefect",
                    after_round=entry.run.round,
                )
                return None
            if isinstance(walked, Walked) and walked.drained:
                await leave_run(shared.database, facts.id, self.token or 0, RunState.RUNNING)
                await hand_over(shared.client, facts.id)
                return None
            if isinstance(walked, Walked) and walked.waiting:
                await suspension.suspend(walked.waiting, after_round=entry.run.round, note=note)
                return None
            return await self._conclude(kit, nodes, walked)

    def _kit(self, facts: RunFacts, entry: Entry) -> RunKit:
        shared, token = self._shared, self.token or 0
        database, outputs = shared.database, shared.engine.outputs
        return RunKit(
            engine=shared.engine,
            run=facts,
            journal=StoreJournal(database, facts.id, token, outputs),
            control=self._control,
            gate=StoreGate(database, shared.judge, facts.id, token, facts.epoch),
            budget=StoreBudget(database, facts.id, token, facts.epoch, facts.workflow),
            cache=StoreCache(database, facts.id, outputs),
            children=StoreChildren(database, shared.starter, shared.revisions, facts, entry.run.revision_id),
        )

    async def _walk(
        self, kit: RunKit, nodes: NodeRunner, past: Past, active_s: float
    ) -> Walked | NodeTimedOut:
        """Run the nodes, at most for what is left of the run's time."""
        whole = kit.run.workflow.workflow.timeout
        limit = asyncio.timeout(None if whole is None else max(0.0, whole - active_s))
        try:
            async with limit:
                return await walk(kit.run.course, past.nodes, nodes.run, nodes.skip, self._control)
        except TimeoutError:
            if limit.expired():
                return _RunTimedOut(f"the run took longer than its timeout of {whole:g} s")
            raise

    async def _conclude(self, kit: RunKit, nodes: NodeRunner, walked: Walked | NodeTimedOut) -> Ending:
        """Say how the run ends, and undo what it has changed when it fails."""
        if isinstance(walked, Walked):
            results: Mapping[str, NodeResult] = walked.results
            ending = endings.of_results(kit, results)
        else:
            await self._close_nodes("the run timed out")
            rows = await nodes_of(self._shared.database, kit.run.id)
            results = results_of(await past_of(rows, kit.run.workflow, kit.engine.outputs))
            ending = endings.failed(walked, kit.engine.redactor)
        if ending.undoes:
            results, undone = await undo_changes(kit, results, nodes.task_runs_of)
            ending = ending.with_undone(undone)
        await endings.leave_report(self._shared.client, kit.run, ending, results)
        return ending

    async def _cancelled(self, by: str) -> Ending:
        await self._close_nodes("the run was cancelled")
        return endings.cancelled(by)

    async def _close_nodes(self, reason: str) -> None:
        """Record that the nodes which the run's end cut off have ended too."""
        if self.token is not None:
            await self._closing.close_nodes(self._flow_run.id, reason, token=self.token)


class _RunTimedOut(NodeTimedOut):
    """A run ran longer than its timeout."""

    code = endings.RUN_TIMED_OUT
    retryable = False


def _request_id(flow_run: FlowRun) -> UUID | None:
    """Give the request that the run was made for; None for one that was started in Prefect."""
    with contextlib.suppress(ValueError):
        return UUID(flow_run.idempotency_key or "")
    return None
