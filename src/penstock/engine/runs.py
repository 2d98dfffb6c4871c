"""Run one claimed Prefect flow run from its frozen revision to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort
from prefect.results import ResultStore
from prefect.states import Completed, Failed

from penstock.engine import failures
from penstock.engine.journal import StoreJournal, restored
from penstock.engine.nodes import Engine, NodeRunner, RunFacts
from penstock.engine.prefect_api import flow_run_context, propose_state, set_running
from penstock.engine.report import headline, run_report
from penstock.engine.revisions import Revisions
from penstock.engine.scheduler import NodeResult, walk
from penstock.errors import NodeTimedOut, NotFound, PenstockError
from penstock.store.database import Database
from penstock.store.nodes import finish_node, nodes_of
from penstock.store.runs import Entry, begin_run, finish_run, reopen_run
from penstock.store.states import NodeState, RunState, Trust
from penstock.workflow import CheckedWorkflow, validate_inputs
from penstock.workflow import Trust as InputTrust

__all__ = ["FLOW_NAME", "RunExecutor", "run_workflow"]

FLOW_NAME = "run-workflow"


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
class _Ending:
    """How a run ends, before anybody has been told."""

    state: RunState
    message: str
    outputs: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None

    def prefect_state(self) -> State[Any]:
        if self.state is RunState.COMPLETED:
            return Completed(message=self.message)
        if self.state is RunState.REJECTED:
            return Failed(name="Rejected", message=self.message)
        timed_out = (self.error or {}).get("code") == _RunTimedOut.code
        return Failed(name="TimedOut" if timed_out else "Failed", message=self.message)


@dataclass(frozen=True)
class RunExecutor:
    """Runs flow runs; one for all runs of a worker."""

    engine: Engine
    database: Database
    revisions: Revisions
    client: PrefectClient
    result_store: ResultStore
    worker_name: str

    async def execute(self, flow_run: FlowRun) -> None:
        """Run a claimed flow run to its end and tell Prefect how it ended.

        What goes wrong in the run ends the run, with its reason; only what keeps us from
        recording anything at all is raised.
        """
        if not await set_running(self.client, flow_run):
            return
        try:
            ending = await self._run(flow_run)
        except PenstockError as error:
            ending = self._failed(error)
            with contextlib.suppress(NotFound):  # it was never entered; Prefect alone says why
                await self._record(flow_run.id, ending)
        await self._tell_prefect(flow_run.id, ending)

    async def _run(self, flow_run: FlowRun) -> _Ending:
        entry = await self._enter(flow_run)
        if entry.run.state.terminal and not await reopen_run(self.database, flow_run.id):
            return _Ending(entry.run.state, entry.run.message or "", entry.run.outputs, entry.run.error)
        facts = await self._facts(entry)
        with flow_run_context(run_workflow, flow_run, self.client, self.result_store):
            try:
                results = await self._walk(facts, entry)
            except _RunTimedOut:
                await self._close_nodes(flow_run.id)
                raise
            ending = self._ending(facts, results)
            await self._leave_report(flow_run.id, facts.workflow, ending, results)
        await self._record(flow_run.id, ending)
        return ending

    async def _enter(self, flow_run: FlowRun) -> Entry:
        revision = await self.revisions.of_deployment(flow_run.deployment_id)
        return await begin_run(
            self.database,
            flow_run.id,
            name=flow_run.name,
            trust=Trust.AUTHENTICATED,
            inputs=flow_run.parameters,
            trigger={},
            agents=revision.agents,
            claimed_by=self.worker_name,
            revision_id=revision.id,
        )

    async def _facts(self, entry: Entry) -> RunFacts:
        run = entry.run
        pinned = await self.revisions.get(run.revision_id)
        self.revisions.check_agents(run.agents)
        inputs = validate_inputs(
            pinned.workflow.workflow,
            run.inputs,
            allow=self.engine.settings.allow,
            trust=InputTrust(run.trust.value),
            exposed=pinned.workflow.exposed,
        )
        return RunFacts(
            id=run.id,
            name=run.name,
            workflow=pinned.workflow,
            revision=pinned.number,
            inputs=inputs,
            requester="unknown",
            started_at=run.started_at.isoformat() if run.started_at else "",
        )

    async def _walk(self, facts: RunFacts, entry: Entry) -> dict[str, NodeResult]:
        runner = NodeRunner(
            self.engine,
            facts,
            StoreJournal(self.database, facts.id, self.engine.outputs),
            task_runs={node.node_id: node.task_run_id for node in entry.nodes if node.task_run_id},
            attempts={node.node_id: node.attempt for node in entry.nodes},
        )
        done = await restored(entry.nodes, self.engine.outputs)
        limit = asyncio.timeout(facts.workflow.workflow.timeout)
        try:
            async with limit:
                return await walk(facts.workflow.graph, done, runner.run, runner.skip)
        except TimeoutError:
            if limit.expired():
                raise _RunTimedOut(
                    f"the run took longer than its timeout of {facts.workflow.workflow.timeout:g} s"
                ) from None
            raise

    async def _close_nodes(self, run_id: UUID) -> None:
        """Record that the nodes which the run's end cut off have ended too."""
        for node in await nodes_of(self.database, run_id):
            if node.state is NodeState.RUNNING:
                await finish_node(
                    self.database,
                    run_id,
                    node.node_id,
                    NodeState.CANCELLED,
                    attempt=node.attempt,
                    reason="the run timed out",
                )

    def _ending(self, facts: RunFacts, results: Mapping[str, NodeResult]) -> _Ending:
        message = headline(results)
        bad = [item for item in results.values() if item.state in _BAD and not item.tolerated]
        if bad:
            rejected = any(item.state is NodeState.REJECTED for item in bad)
            state = RunState.REJECTED if rejected else RunState.FAILED
            return _Ending(state, message, error=bad[0].error)
        try:
            outputs = facts.workflow.render_outputs(facts.scope(results))
        except PenstockError as error:
            return self._failed(error)
        return _Ending(RunState.COMPLETED, message, outputs=outputs)

    def _failed(self, error: PenstockError) -> _Ending:
        told = failures.describe(error, None, self.engine.redactor)
        return _Ending(RunState.FAILED, told["message"], error=told)

    async def _record(self, run_id: UUID, ending: _Ending) -> None:
        await finish_run(
            self.database,
            run_id,
            ending.state,
            outputs=ending.outputs,
            error=ending.error,
            message=ending.message,
        )

    async def _leave_report(
        self, run_id: UUID, workflow: CheckedWorkflow, ending: _Ending, results: Mapping[str, NodeResult]
    ) -> None:
        await self.client.create_artifact(
            ArtifactCreate(
                key=f"run-{workflow.workflow.name.replace('/', '-')}",
                type="markdown",
                description="How the nodes of the run ended.",
                data=run_report(workflow, ending.state, ending.message, results),
                flow_run_id=run_id,
            )
        )

    async def _tell_prefect(self, run_id: UUID, ending: _Ending) -> None:
        try:
            await propose_state(self.client, ending.prefect_state(), run_id)
        except Abort:  # somebody ended the run in Prefect meanwhile; our row says how it went
            return


_BAD = frozenset({NodeState.FAILED, NodeState.REJECTED})


class _RunTimedOut(NodeTimedOut):
    """A run ran longer than its timeout."""

    code = "run_timed_out"
    retryable = False
