"""Everything that touches Prefect's less public parts, in one place.

The stock engine (`run_flow_async`) starts a thread, an event loop, a client and a websocket
for every deployment run. A worker here runs many flow runs in one event loop with one
client, so it makes the few calls a person needs to see and leaves the rest out. What is
used beyond Prefect's documented interface is imported here only, and
`tests/engine/test_prefect_api.py` fails when a new Prefect changes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import Flow, Task
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, TaskRunResult
from prefect.client.schemas.responses import SetStateStatus
from prefect.context import AsyncClientContext, FlowRunContext
from prefect.exceptions import Abort
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)
from prefect.states import AwaitingRetry, Pending, Running
from prefect.task_engine import run_task_async
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.engine import propose_state

__all__ = [
    "NodeTask",
    "claim",
    "flow_run_context",
    "hand_over",
    "propose_state",
    "result_store",
    "run_node_task",
    "scheduled_runs",
    "set_running",
    "shared_client",
]

_LOOK_AGAIN_S = 0.1


@asynccontextmanager
async def shared_client(*, patience_s: float = 0.0) -> AsyncGenerator[PrefectClient, None]:
    """Open the one client that everything started inside this context uses.

    Args:
        patience_s: How long to wait for a Prefect server that does not answer yet, in seconds.
    """
    await _await_server(patience_s)
    with temporary_settings({PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False}):
        # Compressing on loopback costs both ends more than the bytes it saves.
        async with AsyncClientContext(httpx_settings={"headers": {"accept-encoding": "identity"}}) as opened:
            yield opened.client


async def _await_server(patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{PREFECT_API_URL.value()}/health")).is_success:
                    return
            await asyncio.sleep(_LOOK_AGAIN_S)


def result_store(folder: Path) -> ResultStore:
    """Give a result store on a local folder, so that Prefect need not look up a default one."""
    return ResultStore(result_storage=LocalFileSystem(basepath=str(folder)))


async def scheduled_runs(
    client: PrefectClient, pool: str, queues: Sequence[str], *, limit: int, prefetch_s: float = 0.0
) -> list[FlowRun]:
    """Ask the pool for at most `limit` runs that are due, highest priority first."""
    body: dict[str, Any] = {
        "limit": limit,
        "scheduled_before": (datetime.now(UTC) + timedelta(seconds=prefetch_s)).isoformat(),
    }
    if queues:
        body["work_queue_names"] = list(queues)
    response = await client.request(
        "POST", "/work_pools/{name}/get_scheduled_flow_runs", path_params={"name": pool}, json=body
    )
    return [FlowRun.model_validate(entry["flow_run"]) for entry in response.json()]


async def claim(client: PrefectClient, flow_run_id: UUID) -> bool:
    """Move a run from Scheduled to Pending; Prefect accepts that from one caller only."""
    answer = await client.set_flow_run_state(flow_run_id, Pending())
    return answer.status == SetStateStatus.ACCEPT


async def hand_over(client: PrefectClient, flow_run_id: UUID) -> None:
    """Schedule a run that its worker leaves unfinished, so that another one goes on with it."""
    state = AwaitingRetry(
        message="Its worker was stopped; another one goes on after the last completed node."
    )
    await client.set_flow_run_state(flow_run_id, state, force=True)


async def set_running(client: PrefectClient, flow_run: FlowRun) -> bool:
    """Move a claimed run to Running; False when somebody cancelled or deleted it meanwhile."""
    try:
        state = await propose_state(client, Running(), flow_run.id)
    except Abort:
        return False
    flow_run.state, flow_run.state_name, flow_run.state_type = state, state.name, state.type
    return state.is_running()


@contextmanager
def flow_run_context(
    flow: Flow[..., Any], flow_run: FlowRun, client: PrefectClient, store: ResultStore
) -> Generator[FlowRunContext, None, None]:
    """Enter a flow run, so that tasks started inside are recorded as its task runs."""
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner()
    with FlowRunContext(
        flow=flow,
        flow_run=flow_run,
        parameters=flow_run.parameters,
        client=client,
        task_runner=runner,
        result_store=store,
        persist_result=False,
    ) as context:
        yield context


@dataclass(frozen=True)
class NodeTask:
    """How one node runs as a Prefect task."""

    name: str
    body: Callable[[UUID], Awaitable[State[Any]]]
    """Does one attempt and returns its state; is given the task run's id."""
    retry_delays_s: Sequence[float] = ()
    """Pause before each further attempt; its length is the number of retries."""
    may_retry: Callable[[], bool] = lambda: False
    upstream: Sequence[UUID] = ()
    """Task runs that this one depends on: the edges in Prefect's graph."""
    tags: Sequence[str] = ()


async def run_node_task(spec: NodeTask) -> State[Any]:
    """Run a node as one task run of the current flow run and return its final state.

    The task run carries the node's id as its name and its edges as ids, so edges also lead
    to task runs of an earlier worker.
    """

    async def attempt() -> State[Any]:
        return await spec.body(task_run.id)

    def retry(_task: Any, _run: Any, _state: Any) -> bool:
        return spec.may_retry()

    task: Task[[], Any] = Task(
        attempt,
        name=spec.name,
        task_run_name=spec.name,
        tags=list(spec.tags),
        retries=len(spec.retry_delays_s),
        retry_delay_seconds=list(spec.retry_delays_s) or None,
        retry_condition_fn=retry,
        persist_result=False,
    )
    task_run = await task.create_local_run(parameters={}, flow_run_context=FlowRunContext.get())
    task_run.name = spec.name
    task_run.task_inputs["wait_for"] = [TaskRunResult(id=identity) for identity in spec.upstream]
    state = await run_task_async(task, task_run=task_run, parameters={}, return_type="state")
    return cast("State[Any]", state)
