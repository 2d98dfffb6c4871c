"""What the command line and the gateway offer, behind one door.

Every method takes and gives plain values; nothing here prints or knows HTTP.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from sqlalchemy import text as sql

from penstock import registry
from penstock.approvals.rules import RuleBook
from penstock.approvals.satisfiable import unsatisfiable
from penstock.engine import deployments
from penstock.engine.approving import Approvals
from penstock.engine.blocks import register_block_types
from penstock.engine.closing import Closing
from penstock.engine.judging import RuleJudge
from penstock.engine.library import shipped_workflows
from penstock.engine.links import Links
from penstock.engine.outputs import OutputStore
from penstock.engine.prefect_api import hand_over, result_store, shared_client
from penstock.engine.resets import to_reset
from penstock.engine.revisions import agent_versions, catalog_for, catalog_of, check_text, revision_digest
from penstock.engine.showing import label_of, node_data, run_data
from penstock.engine.standing import StandingGrants
from penstock.engine.starting import RunStarter
from penstock.errors import Conflict, ExpressionError, InputInvalid, NotFound, SpecError, StoreError
from penstock.registry import Registry
from penstock.settings import Settings
from penstock.store.database import Database
from penstock.store.nodes import nodes_of
from penstock.store.opening import open_database
from penstock.store.requests import RunRequest, accept, get_request
from penstock.store.runs import Event, events_of, get_run, reopen_run
from penstock.store.states import RunState
from penstock.store.states import Trust as StoredTrust
from penstock.store.tables import RUN_CHANNEL
from penstock.store.workflows import (
    Revision,
    current_revision,
    delete_workflow,
    get_revision,
    get_workflow,
    save_revision,
    set_deployment,
)
from penstock.store.workflows import Workflow as StoredWorkflow
from penstock.workflow import (
    Catalog,
    CheckedWorkflow,
    Trust,
    canonical_json,
    parse_workflow,
    sub_workflows,
    validate_inputs,
)

__all__ = ["Applied", "Services", "Started", "open_services"]

_LOOK_AGAIN_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Applied:
    """A workflow that is ready to be started."""

    name: str
    revision: int
    deployment_id: UUID
    url: str
    """Where it stands in the Prefect UI."""
    changed: bool
    """Whether this made a new revision."""


@dataclass(frozen=True)
class Started:
    """A run that was accepted."""

    run_id: UUID
    name: str
    url: str
    """Where it stands in the Prefect UI."""
    new: bool = True
    """False when an earlier run stands for it: the same key, or `on_conflict: attach`."""


@asynccontextmanager
async def open_services(settings: Settings, *, patience_s: float = 0.0) -> AsyncGenerator[Services]:
    """Open the database and the Prefect client behind the services.

    Args:
        patience_s: How long to wait for a Prefect server that does not answer yet, in seconds.
    """
    async with open_database(settings) as database, shared_client(patience_s=patience_s) as client:
        yield Services(settings, database, client, registry.build(settings.plugins))


class Services:
    """Workflows and runs, as users know them."""

    def __init__(
        self, settings: Settings, database: Database, client: PrefectClient, agents: Registry
    ) -> None:
        self.settings = settings
        self.database = database
        self.client = client
        self.registry = agents
        self._catalog = catalog_of(agents)
        self._starter = RunStarter(database, client, settings.prefect.pool)
        self._closing = Closing(database, client, self._starter)
        self.rules = RuleBook(settings.people, settings.policies)
        self.links = Links(settings)
        self.standing = StandingGrants(database, agents)
        self.approvals = Approvals(database, self._starter, RuleJudge(self.rules), self.links)
        self._parsed: dict[str, tuple[UUID, CheckedWorkflow]] = {}
        """The revision that was started last, by workflow."""

    async def check(self, text: str | bytes, *, file: str) -> CheckedWorkflow:
        """Check a workflow file, together with the applied workflows that it runs and the people who approve.

        Raises:
            SpecError: With every mistake and its place.
        """
        return (await self._check(text, file=file))[0]

    async def _check(self, text: str | bytes, *, file: str, by: str = "") -> tuple[CheckedWorkflow, Catalog]:
        checked, catalog = await self._check_file(text, file=file)
        problems = unsatisfiable(checked.workflow, catalog.agents, self.rules.current(), editor=by)
        if problems:
            raise SpecError.of(problems)
        return checked, catalog

    async def _check_revision(self, revision: Revision) -> CheckedWorkflow:
        return (await self._check_file(revision.source, file=f"{revision.workflow}@{revision.number}"))[0]

    async def _check_file(self, text: str | bytes, *, file: str) -> tuple[CheckedWorkflow, Catalog]:
        try:
            others = sub_workflows(parse_workflow(text, file=file))
        except SpecError:  # the check tells every mistake at once
            others = []
        catalog = await catalog_for(self.database, self._catalog, others) if others else self._catalog
        return check_text(text, file=file, catalog=catalog), catalog

    async def prepare(self, *, library: bool = False) -> None:
        """Make the work pool, its queues and our block types in Prefect.

        Args:
            library: Apply the shipped workflows as well.
        """
        await deployments.ensure_pool(self.client, self.settings.prefect.pool)
        await register_block_types()
        for path in shipped_workflows() if library else ():
            try:
                await self.apply(path.read_bytes(), file=path.name, by="penstock")
            except SpecError as error:  # the people or the agents that it needs are not here
                log.error("a shipped workflow is left out: %s", error.message)  # noqa: TRY400  no fault

    async def apply(self, text: str | bytes, *, file: str, by: str) -> Applied:
        """Save a workflow's revision and make it startable.

        Args:
            by: Who applies it, for the record.
        Raises:
            SpecError: The file has mistakes; nothing was saved.
        """
        checked, catalog = await self._check(text, file=file, by=by)
        before = await self._current(checked.workflow.name)
        revision = await save_revision(
            self.database,
            workflow=checked.workflow.name,
            digest=revision_digest(checked, catalog),
            source=text.decode() if isinstance(text, bytes) else text,
            spec=_as_data(checked),
            agents=agent_versions(checked, catalog),
            created_by=by,
        )
        deployment_id = await deployments.deploy(
            self.client, checked.workflow, pool=self.settings.prefect.pool, revision=revision.number
        )
        await set_deployment(self.database, revision.workflow, deployment_id)
        return Applied(
            name=revision.workflow,
            revision=revision.number,
            deployment_id=deployment_id,
            url=self.links.deployment(deployment_id),
            changed=before is None or before.id != revision.id,
        )

    async def delete(self, name: str) -> None:
        """Delete a workflow; its revisions and runs stay.

        Raises:
            NotFound: There is no such workflow.
        """
        workflow = await get_workflow(self.database, name)
        await delete_workflow(self.database, name)
        if workflow.deployment_id is not None:
            await deployments.delete_deployment(self.client, workflow.deployment_id)

    async def start(
        self,
        name: str,
        inputs: Mapping[str, Any],
        *,
        key: str | None = None,
        queue: str | None = None,
        requester: str = "unknown",
    ) -> Started:
        """Start a run of a workflow's current revision.

        Args:
            key: Idempotency key; a second start with it gives the run of the first.
            queue: `P0` (most urgent) to `P3`; None means the workflow's own.
            requester: Who asks, for the record.
        Raises:
            NotFound: There is no such workflow.
            InputInvalid: The inputs do not fit.
            Conflict: The workflow's `concurrency` says so.
        """
        workflow = await get_workflow(self.database, name)
        checked = await self._checked_once(workflow)
        validate_inputs(
            checked.workflow,
            inputs,
            allow=self.settings.allow,
            trust=Trust.AUTHENTICATED,  # whoever reaches this is an operator on this machine
        )
        _refuse_directives(inputs)
        if queue is not None and queue not in deployments.QUEUES:
            raise InputInvalid(f"there is no queue {queue!r}; give one of {', '.join(deployments.QUEUES)}")
        request = RunRequest(
            id=uuid4(),
            workflow=name,
            key=key,
            inputs=inputs,
            trust=StoredTrust.AUTHENTICATED,
            requester=requester,
            queue=queue,
            concurrency_key=_concurrency_key(checked, inputs, requester),
        )
        return await self._accept(request, checked, workflow.deployment_id)

    async def _accept(
        self, request: RunRequest, checked: CheckedWorkflow, deployment_id: UUID | None
    ) -> Started:
        limits = checked.workflow.concurrency
        early = limits is not None and limits.on_conflict in {"reject", "attach"}
        accepted = await accept(
            self.database, request, active_limit=limits.limit if limits and early else None
        )
        if accepted.active and limits and limits.on_conflict == "reject":
            others = ", ".join([str(run_id) for run_id in await self._runs_of(accepted.active)])
            raise Conflict(
                f"workflow {request.workflow!r} has a run with key {request.concurrency_key!r}"
                f" already: {others}"
            )
        run_id = accepted.request.run_id
        flow_run = (
            await self._starter.launch(accepted.request, deployment_id)
            if run_id is None
            else await self.client.read_flow_run(run_id)
        )
        return Started(flow_run.id, flow_run.name, self.run_url(flow_run.id), new=accepted.new)

    async def _runs_of(self, requests: Sequence[UUID]) -> list[UUID | None]:
        return [(await get_request(self.database, request_id)).run_id for request_id in requests]

    async def cancel(self, run_id: UUID, *, by: str) -> None:
        """Cancel a run: what it runs is stopped, what waits is withdrawn; one that has ended stays as it is.

        Raises:
            NotFound: There is no such run.
        """
        await self._closing.cancel(run_id, by=by)

    async def withdraw(self, run_id: UUID, reason: str) -> int:
        """Withdraw what a run asks for, because what it was started for is over.

        Its gates stay shut; what always runs still does, and the run ends as withdrawn.

        Returns:
            How many requests for approval were withdrawn.
        Raises:
            NotFound: There is no such run.
            Conflict: It asks for nothing.
        """
        run = await get_run(self.database, run_id)
        withdrawn = await self._closing.withdraw(run_id, reason)
        if not withdrawn:
            raise Conflict(f"run {run_id} is {run.state.value} and waits for no approval")
        return withdrawn

    async def retry(self, run_id: UUID, *, start: str | None = None) -> None:
        """Have a run that has ended go on from what did not succeed, or from a chosen node.

        Args:
            start: The node to begin with; it and what comes after it run again.
        Raises:
            NotFound: There is no such run.
            Conflict: It has not ended, or it succeeded and no node was chosen.
            InputInvalid: There is no such node.
        """
        run = await get_run(self.database, run_id)
        if not run.state.terminal:
            raise Conflict(f"run {run_id} is {run.state.value}; only a run that has ended is tried again")
        revision = await get_revision(self.database, run.revision_id)
        checked = await self._check_revision(revision)
        reset = to_reset(checked, await nodes_of(self.database, run_id), start=start)
        if not await reopen_run(self.database, run_id, reset=reset, even_completed=start is not None):
            raise Conflict(f"run {run_id} is {run.state.value}; name the node to begin with")
        await hand_over(self.client, run_id, "Somebody has it tried again.")
        await self._starter.call_workers()

    async def input_types(self, name: str) -> dict[str, str]:
        """Give the type of each input of a workflow's current revision."""
        checked = await self._checked_once(await get_workflow(self.database, name))
        return {key: spec.type for key, spec in checked.workflow.inputs.items()}

    async def _checked_once(self, workflow: StoredWorkflow) -> CheckedWorkflow:
        """Check a workflow's current revision, which never changes, the first time it is met."""
        if workflow.deleted_at is not None:
            raise NotFound(f"there is no workflow {workflow.name!r}; it was deleted")
        kept = self._parsed.get(workflow.name)
        if kept is None or kept[0] != workflow.revision_id:
            revision = await current_revision(self.database, workflow.name)
            checked = await self._check_revision(revision)
            kept = self._parsed[revision.workflow] = revision.id, checked
        return kept[1]

    async def health(self) -> dict[str, str]:
        """Ask the database and Prefect whether they answer: `ok`, or what is wrong."""
        try:
            await self.database.fetch(sql("SELECT 1"))
            database = "ok"
        except StoreError as error:
            database = error.code
        trouble = await self.client.api_healthcheck()
        return {"database": database, "prefect": "ok" if trouble is None else "unreachable"}

    def run_url(self, run_id: UUID) -> str:
        """Give a run's address in the Prefect UI."""
        return self.links.run(run_id)

    async def follow(self, run_id: UUID, *, wait: bool = True) -> AsyncGenerator[Event]:
        """Yield a run's events as they happen, until the run has ended.

        Args:
            wait: Go on while the run waits for people; otherwise stop there as well.
        """
        last = 0
        async with self.database.listen(RUN_CHANNEL) as notices:
            while True:
                over = await self._is_over(run_id, wait=wait)  # asked first: what comes last is read too
                while found := await events_of(self.database, run_id, after_id=last):
                    for event in found:
                        last = event.id
                        yield event
                if over:
                    return
                await _next_about(notices, str(run_id))

    async def show(self, run_id: UUID) -> dict[str, Any]:
        """Give a run with its nodes, in JSON types.

        Raises:
            NotFound: Neither we nor Prefect know it.
        """
        try:
            run = await get_run(self.database, run_id)
        except NotFound:
            return await self._show_unentered(run_id)
        nodes = await nodes_of(self.database, run_id)
        outputs = OutputStore(_storage(self.settings), self.settings.limits.inline_output_bytes)
        return {
            **run_data(run),
            "url": self.run_url(run_id),
            "nodes": {label_of(node): await node_data(node, outputs) for node in nodes},
        }

    async def _show_unentered(self, run_id: UUID) -> dict[str, Any]:
        """Describe a run that no worker has entered, as Prefect knows it."""
        try:
            flow_run = await self.client.read_flow_run(run_id)
        except ObjectNotFound:
            raise NotFound(f"there is no run {str(run_id)!r}") from None
        state = flow_run.state
        ended = state is not None and state.is_final()
        return {
            "run_id": str(run_id),
            "name": flow_run.name,
            "state": str(state.type.value).lower() if state and ended else RunState.PENDING.value,
            "message": state.message if state else None,
            "outputs": None,
            "url": self.run_url(run_id),
            "nodes": {},
        }

    async def _is_over(self, run_id: UUID, *, wait: bool) -> bool:
        try:
            state = (await get_run(self.database, run_id)).state
        except NotFound:
            shown = await self._show_unentered(run_id)
            return shown["state"] != RunState.PENDING.value
        return state.terminal or (state is RunState.SUSPENDED and not wait)

    async def _current(self, name: str) -> Revision | None:
        try:
            return await current_revision(self.database, name)
        except NotFound:
            return None


def _storage(settings: Settings) -> Any:
    storage = result_store(settings.home_dir / "results").result_storage
    if storage is None:
        raise StoreError("Prefect gave no result storage")
    return storage


def _concurrency_key(checked: CheckedWorkflow, inputs: Mapping[str, Any], requester: str) -> str | None:
    """Give the key that other runs are told by, as far as it is known before there is a run."""
    values = {name: spec.default for name, spec in checked.workflow.inputs.items()} | dict(inputs)
    run = {"workflow": checked.workflow.name, "requester": requester, "trigger": "manual"}
    try:
        return checked.render_concurrency_key({"inputs": values, "trigger": None, "run": run, "nodes": {}})
    except ExpressionError:  # it names what only the run has; the worker decides
        return None


def _refuse_directives(value: Any) -> None:
    """Refuse what Prefect's server would take as an order to fill in a variable or a template.

    Raises:
        InputInvalid: A mapping in the inputs has one of Prefect's own keys.
    """
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        if reserved := [key for key in entries if key.startswith("__prefect")]:
            raise InputInvalid(f"the key {reserved[0]!r} is Prefect's own and cannot be in an input")
        for item in entries.values():
            _refuse_directives(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            _refuse_directives(item)


async def _next_about(notices: Any, run_id: str) -> None:
    """Wait for news of a run; look again by ourselves after a while."""
    try:
        async with asyncio.timeout(_LOOK_AGAIN_S):
            async for notice in notices:
                if notice.missed or notice.payload == run_id:
                    return
    except TimeoutError:
        return


def _as_data(checked: CheckedWorkflow) -> dict[str, Any]:
    return json.loads(canonical_json(checked.workflow))
