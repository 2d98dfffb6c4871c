"""Workflows as Prefect deployments, and the work pool that runs them."""

from __future__ import annotations

import contextlib
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from penstock.engine.runs import run_workflow
from penstock.engine.worker import WORKER_TYPE, PenstockWorker
from penstock.workflow import Workflow, parameter_schema

__all__ = ["QUEUES", "delete_deployment", "deploy", "ensure_pool"]

QUEUES = ("P0", "P1", "P2", "P3")
"""Work queues of the pool, the most urgent first."""
DEFAULT_QUEUE = "P2"
ENTRYPOINT = "flows/run_workflow.py:run_workflow"


async def ensure_pool(client: PrefectClient, pool: str) -> None:
    """Make the work pool and its queues when they are missing."""
    wanted = WorkPoolCreate(
        name=pool,
        type=WORKER_TYPE,
        base_job_template=PenstockWorker.get_default_base_job_template(),
        description="Runs Penstock workflows.",
    )
    with contextlib.suppress(ObjectAlreadyExists):
        await client.create_work_pool(wanted)
    known = {queue.name for queue in await client.read_work_queues(work_pool_name=pool)}
    for priority, name in enumerate(QUEUES, start=1):
        if name not in known:
            await client.create_work_queue(name=name, work_pool_name=pool, priority=priority)


async def deploy(client: PrefectClient, workflow: Workflow, *, pool: str, revision: int) -> UUID:
    """Make or update the deployment of a workflow; its form shows the workflow's own inputs."""
    flow_id = await client.create_flow(run_workflow)
    schema: Any = parameter_schema(workflow)
    return await client.create_deployment(
        flow_id=flow_id,
        name=workflow.name.replace("/", "-"),
        version=str(revision),
        description=workflow.metadata.description or None,
        tags=["penstock", *([f"owner:{workflow.metadata.owner}"] if workflow.metadata.owner else [])],
        work_pool_name=pool,
        work_queue_name=DEFAULT_QUEUE,
        parameter_openapi_schema=schema,
        enforce_parameter_schema=True,
        entrypoint=ENTRYPOINT,
        path=None,
        parameters={},
    )


async def delete_deployment(client: PrefectClient, deployment_id: UUID) -> None:
    """Delete a deployment; one that is gone already is fine."""
    with contextlib.suppress(ObjectNotFound):
        await client.delete_deployment(deployment_id)
