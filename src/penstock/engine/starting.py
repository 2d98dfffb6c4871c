"""Runs started and woken: what was accepted becomes a Prefect run, what waits goes on."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from penstock.engine.prefect_api import resume
from penstock.errors import NotFound
from penstock.store.database import Database
from penstock.store.requests import RunRequest, close_request, set_request_run
from penstock.store.suspension import has_news
from penstock.store.workflows import get_workflow

__all__ = ["WAKE_CHANNEL", "RunStarter"]

WAKE_CHANNEL = "penstock_wake"
"""Notified with a pool's name when a run was scheduled in it."""


@dataclass(frozen=True)
class RunStarter:
    """Makes Prefect runs of accepted requests, and wakes runs that wait."""

    database: Database
    client: PrefectClient
    pool: str

    async def launch(self, request: RunRequest, deployment_id: UUID | None = None) -> FlowRun:
        """Make the Prefect run of a request; doing it twice gives the same run.

        Args:
            deployment_id: Deployment of the request's workflow; looked up when it is not given.
        Raises:
            NotFound: The workflow or its deployment is gone.
        """
        if deployment_id is None:
            deployment_id = (await get_workflow(self.database, request.workflow)).deployment_id
        if deployment_id is None:
            await close_request(self.database, request.id)
            raise NotFound(f"workflow {request.workflow!r} has no deployment; apply it again")
        try:
            flow_run = await self.client.create_flow_run_from_deployment(
                deployment_id,
                parameters=dict(request.inputs),
                # Prefect makes one run per key, so a start that was cut off can be repeated.
                idempotency_key=str(request.id),
                work_queue_name=request.queue,
            )
        except ObjectNotFound as error:
            await close_request(self.database, request.id)
            raise NotFound(
                f"the deployment of workflow {request.workflow!r} is gone; apply it again"
            ) from error
        await set_request_run(self.database, request.id, flow_run.id)
        await self.call_workers()
        return flow_run

    async def call_workers(self) -> None:
        """Have the workers of the pool ask Prefect for runs."""
        await self.database.notify(WAKE_CHANNEL, self.pool)

    async def wake(self, run_id: UUID) -> bool:
        """Have a suspended or queued run go on; False when Prefect knows no such run that waits."""
        woken = await resume(self.client, run_id)
        if woken:
            await self.call_workers()
        return woken

    async def wake_for_news(self, run_id: UUID) -> bool:
        """Wake a run if something that it waits for has happened."""
        return await has_news(self.database, run_id) and await self.wake(run_id)
