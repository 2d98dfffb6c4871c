"""What the command line and the gateway offer, behind one door.

Every method takes and gives plain values; nothing here prints or knows HTTP.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from sqlalchemy import text as sql

from penstock import registry
from penstock.engine import deployments
from penstock.engine.blocks import register_block_types
from penstock.engine.environment import ui_url
from penstock.engine.library import shipped_workflows
from penstock.engine.outputs import OutputStore
from penstock.engine.prefect_api import result_store, shared_client
from penstock.engine.revisions import agent_versions, catalog_of, check_text, revision_digest
from penstock.engine.worker import WAKE_CHANNEL
from penstock.errors import InputInvalid, NotFound, StoreError
from penstock.registry import Registry
from penstock.settings import Settings
from penstock.store.database import Database
from penstock.store.nodes import Node, nodes_of
from penstock.store.opening import open_database
from penstock.store.runs import Event, Run, events_of, get_run
from penstock.store.states import RunState
from penstock.store.tables import RUN_CHANNEL
from penstock.store.workflows import (
    Revision,
    current_revision,
    delete_workflow,
    get_workflow,
    save_revision,
    set_deployment,
)
from penstock.workflow import (
    CheckedWorkflow,
    Trust,
    Workflow,
    canonical_json,
    parse_workflow,
    validate_inputs,
)

__all__ = ["Applied", "Services", "Started", "open_services"]

_LOOK_AGAIN_S = 2.0


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
        self._parsed: dict[str, tuple[UUID, Workflow]] = {}
        """The revision that was started last, by workflow."""

    def check(self, text: str | bytes, *, file: str) -> CheckedWorkflow:
        """Check a workflow file.

        Raises:
            SpecError: With every mistake and its place.
        """
        return check_text(text, file=file, catalog=self._catalog)

    async def prepare(self, *, library: bool = False) -> None:
        """Make the work pool, its queues and our block types in Prefect.

        Args:
            library: Apply the shipped workflows as well.
        """
        await deployments.ensure_pool(self.client, self.settings.prefect.pool)
        await register_block_types()
        for path in shipped_workflows() if library else ():
            await self.apply(path.read_bytes(), file=path.name, by="penstock")

    async def apply(self, text: str | bytes, *, file: str, by: str) -> Applied:
        """Save a workflow's revision and make it startable.

        Args:
            by: Who applies it, for the record.
        Raises:
            SpecError: The file has mistakes; nothing was saved.
        """
        checked = self.check(text, file=file)
        before = await self._current(checked.workflow.name)
        revision = await save_revision(
            self.database,
            workflow=checked.workflow.name,
            digest=revision_digest(checked),
            source=text.decode() if isinstance(text, bytes) else text,
            spec=_as_data(checked),
            agents=agent_versions(checked),
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
            url=f"{ui_url(self.settings)}/deployments/deployment/{deployment_id}",
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

    async def start(self, name: str, inputs: Mapping[str, Any], *, key: str | None = None) -> Started:
        """Start a run of a workflow's current revision.

        Args:
            key: Idempotency key; a second start with it gives the run of the first.
        Raises:
            NotFound: There is no such workflow.
            InputInvalid: The inputs do not fit.
        """
        revision = await current_revision(self.database, name)
        workflow = await get_workflow(self.database, name)
        if workflow.deployment_id is None:
            raise NotFound(f"workflow {name!r} has no deployment; apply it again")
        validate_inputs(
            self._parsed_once(revision),
            inputs,
            allow=self.settings.allow,
            trust=Trust.AUTHENTICATED,  # whoever reaches this is an operator on this machine
        )
        _refuse_directives(inputs)
        try:
            flow_run = await self.client.create_flow_run_from_deployment(
                workflow.deployment_id, parameters=dict(inputs), idempotency_key=key
            )
        except ObjectNotFound as error:
            raise NotFound(f"the deployment of workflow {name!r} is gone; apply it again") from error
        await self.database.notify(WAKE_CHANNEL, self.settings.prefect.pool)
        return Started(flow_run.id, flow_run.name, self.run_url(flow_run.id))

    async def input_types(self, name: str) -> dict[str, str]:
        """Give the type of each input of a workflow's current revision."""
        revision = await current_revision(self.database, name)
        return {key: spec.type for key, spec in self._parsed_once(revision).inputs.items()}

    def _parsed_once(self, revision: Revision) -> Workflow:
        """Parse a revision, which never changes, the first time it is met."""
        kept = self._parsed.get(revision.workflow)
        if kept is None or kept[0] != revision.id:
            file = f"{revision.workflow}@{revision.number}"
            kept = self._parsed[revision.workflow] = revision.id, parse_workflow(revision.source, file=file)
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
        return f"{ui_url(self.settings)}/runs/flow-run/{run_id}"

    async def follow(self, run_id: UUID) -> AsyncGenerator[Event]:
        """Yield a run's events as they happen, until the run has ended."""
        last = 0
        async with self.database.listen(RUN_CHANNEL) as notices:
            while True:
                for event in await events_of(self.database, run_id, after_id=last):
                    last = event.id
                    yield event
                if await self._has_ended(run_id):
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
        outputs = OutputStore(self._storage(), self.settings.limits.inline_output_bytes)
        return {
            **_run_data(run),
            "url": self.run_url(run_id),
            "nodes": {node.node_id: await _node_data(node, outputs) for node in nodes},
        }

    def _storage(self) -> Any:
        storage = result_store(self.settings.home_dir / "results").result_storage
        if storage is None:
            raise StoreError("Prefect gave no result storage")
        return storage

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

    async def _has_ended(self, run_id: UUID) -> bool:
        try:
            return (await get_run(self.database, run_id)).state.terminal
        except NotFound:
            shown = await self._show_unentered(run_id)
            return shown["state"] != RunState.PENDING.value

    async def _current(self, name: str) -> Revision | None:
        try:
            return await current_revision(self.database, name)
        except NotFound:
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


def _run_data(run: Run) -> dict[str, Any]:
    return {
        "run_id": str(run.id),
        "name": run.name,
        "workflow": run.workflow,
        "state": run.state.value,
        "message": run.message,
        "inputs": dict(run.inputs),
        "outputs": None if run.outputs is None else dict(run.outputs),
        "error": None if run.error is None else dict(run.error),
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
    }


async def _node_data(node: Node, outputs: OutputStore) -> dict[str, Any]:
    return {
        "state": node.state.value,
        "output": await outputs.get(node.output_ref) if node.output_ref else node.output,
        "error": None if node.error is None else dict(node.error),
        "reason": node.reason,
        "attempts": node.attempt,
        "started_at": node.started_at.isoformat() if node.started_at else None,
        "ended_at": node.ended_at.isoformat() if node.ended_at else None,
    }
