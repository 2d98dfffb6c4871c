"""Start a workflow by its name and wait for its end: a flow that `prefect deploy` knows.

An applied workflow is a deployment of its own, whose form shows its inputs, and a Penstock
worker runs it (`penstock.engine.runs`). This flow is for those who have Prefect only: another
flow, an automation, a schedule kept in `prefect.yaml`. A process worker runs it.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger

from penstock.engine.services import open_services
from penstock.errors import RunError
from penstock.settings import load_settings
from penstock.store.states import RunState


@flow(name="run-workflow")
async def run_workflow(workflow: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Start a workflow and wait until it has ended.

    Args:
        workflow: Name of a workflow that has been applied.
        inputs: Value of each of its inputs by name.
    Returns:
        The outputs of the workflow.
    Raises:
        RunError: The run did not complete; the message says why.
    """
    logger = get_run_logger()
    async with open_services(load_settings()) as services:
        started = await services.start(workflow, inputs)
        logger.info("Started %s: %s", started.name, started.url)
        async for _ in services.follow(started.run_id):
            pass
        shown = await services.show(started.run_id)
    if shown["state"] != RunState.COMPLETED.value:
        raise RunError(f"run {started.name!r} of workflow {workflow!r} {shown['state']}: {shown['message']}")
    return shown["outputs"]
