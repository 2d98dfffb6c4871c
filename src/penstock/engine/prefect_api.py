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
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from httpx import HTTPStatusError
from prefect import Flow, Task
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRunResult
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import AsyncClientContext, FlowRunContext
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.exceptions import Abort, ObjectNotFound
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)
from prefect.states import AwaitingRetry, Cancelling, Pending, Running, Scheduled, Suspended
from prefect.task_engine import run_task_async
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.engine import propose_state

__all__ = [
    "Form",
    "NodeTask",
    "Watched",
    "cancel",
    "claim",
    "flow_run_context",
    "hand_over",
    "postpone",
    "propose_state",
    "result_store",
    "resume",
    "run_node_task",
    "scheduled_runs",
    "set_running",
    "shared_client",
    "states_of",
    "suspend",
    "take_form",
    "unfinished_runs",
    "watch_runs",
]

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.1
_SUBSCRIBE_AGAIN_S = 1.0
NOT_FOUND = 404
_EVENT = "prefect.flow-run."


@asynccontextmanager
async def shared_client(*, patience_s: float = 0.0) -> AsyncGenerator[PrefectClient, None]:
    """Open the one client that everything started inside this context uses.

    Args:
        patience_s: How long to wait for a Prefect server that does not answer yet, in seconds.
    """
    await _await_server(patience_s)
    with temporary_settings({PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False}):
        # Without settings of its own: only such a client is found by every task, and a client made
        # anew for each costs 20 ms of processor time.
        async with AsyncClientContext() as opened:
            # Compressing on loopback costs both ends more than the bytes it saves.
            http: httpx.AsyncClient = opened.client._client  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            http.headers["accept-encoding"] = "identity"
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


async def hand_over(
    client: PrefectClient,
    flow_run_id: UUID,
    message: str = "Its worker was stopped; another one goes on after the last completed node.",
) -> None:
    """Schedule a run that its worker leaves unfinished, so that another one goes on with it."""
    await client.set_flow_run_state(flow_run_id, AwaitingRetry(message=message), force=True)


async def postpone(client: PrefectClient, flow_run_id: UUID, *, seconds: float, message: str) -> None:
    """Put a run back in its queue until it is called, or until some time has gone by."""
    when = datetime.now(UTC) + timedelta(seconds=seconds)
    state: State[Any] = Scheduled(name="AwaitingConcurrencySlot", scheduled_time=when, message=message)
    await client.set_flow_run_state(flow_run_id, state, force=True)


@dataclass(frozen=True)
class Form:
    """What a person who presses Resume in the Prefect UI has to fill in."""

    schema: Mapping[str, Any]
    """JSON Schema of the answer."""
    description: str
    """Markdown above the form."""


async def suspend(
    client: PrefectClient, flow_run_id: UUID, *, key: str, message: str, form: Form | None
) -> bool:
    """Suspend a running run; whoever runs it must let go of it then.

    Args:
        key: Never used before for this run: Prefect refuses it a second time.
        form: Written before the state, so that nobody finds the state without it.
    Returns:
        Whether it is suspended; False when somebody cancelled or deleted it meanwhile.
    """
    state: State[Any] = Suspended(pause_key=key, message=message)
    if form is not None:
        names = {part: f"{key}-{part}" for part in ("schema", "response", "description")}
        await _write_input(client, flow_run_id, names["schema"], form.schema)
        await _write_input(client, flow_run_id, names["description"], form.description)
        state.state_details.run_input_keyset = names
    try:
        answer = await client.set_flow_run_state(flow_run_id, state)
    except ObjectNotFound:
        return False
    return answer.status == SetStateStatus.ACCEPT


async def _write_input(client: PrefectClient, flow_run_id: UUID, key: str, value: Any) -> None:
    if await _read_input(client, flow_run_id, key) is not None:  # an earlier try left it
        await client.delete_flow_run_input(flow_run_id, key)
    await client.create_flow_run_input(flow_run_id, key, json.dumps(value))


async def _read_input(client: PrefectClient, flow_run_id: UUID, key: str) -> str | None:
    try:
        return await client.read_flow_run_input(flow_run_id, key)
    except HTTPStatusError as error:
        if error.response.status_code == NOT_FOUND:
            return None
        raise


async def take_form(client: PrefectClient, flow_run_id: UUID, key: str) -> dict[str, Any] | None:
    """Give what a person filled in when the run was resumed, and delete it: Prefect shows it to all."""
    raw = await _read_input(client, flow_run_id, f"{key}-response")
    if raw is None:
        return None
    await client.delete_flow_run_input(flow_run_id, f"{key}-response")
    answer = json.loads(raw)
    return cast("dict[str, Any]", answer) if isinstance(answer, dict) else None


async def resume(client: PrefectClient, flow_run_id: UUID) -> bool:
    """Wake a suspended or postponed run; False when it is neither.

    It gives no permission: the engine looks at the store for that.
    """
    try:
        flow_run = await client.read_flow_run(flow_run_id)
        state = flow_run.state
        if state is None or not (state.is_paused() or state.is_scheduled()):
            return False
        now: State[Any] = Scheduled(name="Resuming", scheduled_time=datetime.now(UTC))
        answer = await client.set_flow_run_state(flow_run_id, now, force=state.is_scheduled())
    except ObjectNotFound:
        return False
    return answer.status == SetStateStatus.ACCEPT


async def cancel(client: PrefectClient, flow_run_id: UUID) -> State[Any] | None:
    """Cancel a run: it is `Cancelling` while a worker has it, else `Cancelled` at once.

    Returns:
        The state it is in now; None when Prefect does not know it.
    """
    try:
        answer = await client.set_flow_run_state(flow_run_id, Cancelling())
        if answer.state is not None:
            return answer.state
        return (await client.read_flow_run(flow_run_id)).state
    except ObjectNotFound:
        return None


async def states_of(client: PrefectClient, flow_run_ids: Sequence[UUID]) -> dict[UUID, State[Any]]:
    """Give the states of at most 200 runs; those that Prefect does not know are left out."""
    found = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=list(flow_run_ids))), limit=200
    )
    return {flow_run.id: flow_run.state for flow_run in found if flow_run.state is not None}


async def unfinished_runs(client: PrefectClient, pool: str) -> list[FlowRun]:
    """List at most 200 runs of a pool that Prefect believes to be in a worker's hands."""
    types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    return await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        sort=FlowRunSort.START_TIME_ASC,
        limit=200,
    )


@dataclass(frozen=True)
class Watched:
    """A change of a run's state that somebody made in Prefect."""

    state: str
    """Name of the state, for example `Cancelling`."""
    flow_run_id: UUID


async def watch_runs(*states: str) -> AsyncGenerator[Watched | None]:
    """Yield changes of runs into some states as they happen; None whenever some may have been missed.

    Comes back by itself after the server was away.
    """
    names = [f"{_EVENT}{state}" for state in states]
    while True:
        try:
            async with get_events_subscriber(EventFilter(event=EventNameFilter(name=names))) as events:
                yield None
                async for event in events:
                    yield Watched(
                        event.event.removeprefix(_EVENT), UUID(event.resource.id.rpartition(".")[2])
                    )
        except Exception as error:  # noqa: BLE001  the subscriber raises bare ones too, as for a refused login
            log.warning("the events of Prefect are away: %s", error)
        await asyncio.sleep(_SUBSCRIBE_AGAIN_S)


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
