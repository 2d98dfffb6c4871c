"""Routes: runs listed, shown, cancelled and retried."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from penstock.engine.services import Services
from penstock.errors import Conflict
from penstock.gateway.opened import Cursor, Limit, Opened
from penstock.gateway.signed import Signed
from penstock.store.runs import RunSummary, list_runs
from penstock.store.states import RunState

__all__ = ["router"]

router = APIRouter(prefix="/api/runs", tags=["runs"])


class RetryRequest(BaseModel):
    """Where a run goes on."""

    model_config = ConfigDict(extra="forbid")

    from_: str | None = Field(
        default=None,
        alias="from",
        description="Node to begin with, even if it succeeded; null means whatever did not succeed.",
    )


class WithdrawRequest(BaseModel):
    """Why nobody needs to decide any more."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=1000, description="Approvers see it.")


class Accepted(BaseModel):
    """A wish about a run that was accepted; look at the run for what comes of it."""

    run_id: UUID = Field(description="Id of the run.")
    url: str = Field(description="Address of the run in the Prefect UI.")


@router.get("")
async def runs(
    services: Opened,
    workflow: Annotated[str | None, Query(description="Only runs of this workflow.")] = None,
    state: Annotated[list[RunState] | None, Query(description="Only runs in this state; may repeat.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """List the runs that workers have entered, newest first; pass `cursor` on for the next page."""
    page = await list_runs(
        services.database, workflow=workflow, states=state or (), limit=limit, cursor=cursor
    )
    return {"runs": [_summary(services, run) for run in page.runs], "cursor": page.cursor}


@router.get("/{run_id}")
async def show(services: Opened, run_id: UUID) -> dict[str, Any]:
    """Show a run with its nodes."""
    return await services.show(run_id)


@router.post("/{run_id}/cancel", status_code=202)
async def cancel(services: Opened, signed: Signed, run_id: UUID) -> Accepted:
    """Cancel a run: what it runs is stopped, what waits is withdrawn. 409 when it has ended."""
    state = RunState((await services.show(run_id))["state"])
    if state.terminal:
        raise Conflict(f"run {run_id} has ended: {state.value}", details={"state": state.value})
    await services.cancel(run_id, by=signed.name)
    return _accepted(services, run_id)


@router.post("/{run_id}/withdraw", status_code=202)
async def withdraw(services: Opened, run_id: UUID, body: WithdrawRequest) -> Accepted:
    """Withdraw what a run asks for, because what it was started for is over. 409 when it asks for nothing."""
    await services.withdraw(run_id, body.reason)
    return _accepted(services, run_id)


@router.post("/{run_id}/retry", status_code=202)
async def retry(services: Opened, run_id: UUID, body: RetryRequest) -> Accepted:
    """Have a run go on from what did not succeed, or from a node. 409 when it has not ended."""
    await services.retry(run_id, start=body.from_)
    return _accepted(services, run_id)


def _accepted(services: Services, run_id: UUID) -> Accepted:
    return Accepted(run_id=run_id, url=services.run_url(run_id))


def _summary(services: Services, run: RunSummary) -> dict[str, Any]:
    return {
        "run_id": run.id,
        "name": run.name,
        "workflow": run.workflow,
        "state": run.state,
        "message": run.message,
        "requester": run.requester,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "url": services.run_url(run.id),
    }
