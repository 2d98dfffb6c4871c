"""Agents as tasks of plain flows, on a real Prefect server."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, TaskRun, TaskRunResult
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field

from penstock.contracts import AgentContext, AgentType, Isolation, Risk, agent
from penstock.errors import AgentFailed, AgentRetry, ApprovalError, InputInvalid, OutputInvalid, RunError
from penstock.tasks import as_task

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("server"),
]

CHILD = "penstock.engine.child"
# Named, so that Prefect does not look up a default with a client that it never closes.
RESULTS = Path("results")


class Quote(BaseModel):
    """A line with its speaker."""

    text: str = Field(description="The line.")


class Collection(BaseModel):
    """Lines under names that are no Python names."""

    model_config = ConfigDict(extra="forbid")

    params: str = Field(default="", description="A field named like the task's own argument.")
    origin: str = Field(default="", alias="from", description="A field with a reserved name.")
    quotes: list[Quote] = Field(default_factory=list[Quote], description="The lines.")


@agent(name="collect", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def collect(ctx: AgentContext, params: Collection) -> Quote:
    """Join lines."""
    words = " ".join(quote.text for quote in params.quotes)
    return Quote(text=f"{ctx.node_id}: {words} {params.origin}{params.params}")


@agent(name="stumble", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def stumble(ctx: AgentContext, params: Quote) -> Quote:
    """Lose the connection."""
    raise ConnectionError(f"{ctx.node_id} lost {params.text}")


def plugin() -> Any:
    """Give the test agents, which are on the path once the stack runs."""
    return importlib.import_module("penstock_test_agents")


def tasks(*names: str) -> list[Any]:
    return [as_task(collect, task_run_name=name) for name in names]


async def in_flow(work: Callable[[], Awaitable[Any]]) -> tuple[Any, UUID]:
    """Run some work in a flow run of its own and return its result and the run's id."""

    @flow(name="test", persist_result=False, result_storage=RESULTS)
    async def body() -> tuple[Any, UUID]:
        return await work(), UUID(flow_run.get_id())

    return await body()


async def task_runs(flow_run_id: UUID) -> dict[str, TaskRun]:
    """Read a flow run's task runs, by name, once Prefect has recorded how they ended."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    async with get_client() as client:
        for _ in range(100):
            found = await client.read_task_runs(flow_run_filter=wanted)
            if found and all(item.state and item.state.is_final() for item in found):
                return {item.name: item for item in found}
            await asyncio.sleep(0.1)
    raise AssertionError("Prefect did not record the task runs")


async def failure(task: Any, **inputs: Any) -> tuple[Exception, State[Any]]:
    """Run a task that fails; return what it raised and its state."""
    state, _ = await in_flow(lambda: task(**inputs, return_state=True))
    error = await state.aresult(raise_on_failure=False)
    assert isinstance(error, Exception)
    return error, state


async def test_task_runs_under_the_agents_name_and_returns_its_model() -> None:
    echo = as_task(plugin().echo)

    output, run_id = await in_flow(lambda: echo(text="hello", number=3))
    (run,) = (await task_runs(run_id)).values()

    assert isinstance(output, plugin().EchoOutput)
    assert (output.text, output.number, output.attempt) == ("hello", 3, 1)
    assert run.name.startswith("echo-")
    assert set(run.tags) == {"penstock", "agent:echo"}


async def test_task_takes_the_input_model() -> None:
    echo = as_task(plugin().echo)

    output, _ = await in_flow(lambda: echo(plugin().EchoInput(text="whole")))

    assert (output.text, output.number) == ("whole", 0)


async def test_task_takes_models_of_others_and_reserved_names() -> None:
    task = as_task(collect)

    output, _ = await in_flow(
        lambda: task(quotes=[Quote(text="one"), Quote(text="two")], params="!", **{"from": "home"})
    )

    assert output == Quote(text="collect: one two home!")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"quotes": "none"}, "inputs of agent 'collect': quotes: Input should be a valid list"),
        ({"qoutes": []}, "inputs of agent 'collect': qoutes: Extra inputs are not permitted"),
    ],
)
async def test_task_refuses_wrong_inputs_at_once(inputs: dict[str, Any], words: str) -> None:
    error, state = await failure(as_task(collect), **inputs)

    assert isinstance(error, InputInvalid)
    assert str(error) == words
    assert words in str(state.message)


async def test_task_refuses_a_model_next_to_keywords() -> None:
    task = as_task(collect)

    with pytest.raises(InputInvalid, match="one Collection and nothing else"):
        await in_flow(lambda: task(Collection(), quotes=[]))
    with pytest.raises(InputInvalid, match="not Quote"):
        await in_flow(lambda: task(Quote(text="")))


async def test_task_is_tried_again_when_the_agent_says_so() -> None:
    flaky = as_task(plugin().flaky, retry_delay_seconds=0.01)

    output, run_id = await in_flow(lambda: flaky(failures=2))
    (run,) = (await task_runs(run_id)).values()

    assert (output.attempt, run.run_count) == (3, 3)


async def test_task_fails_for_good_when_the_agent_says_so() -> None:
    error, _ = await failure(as_task(plugin().fail, retry_delay_seconds=0.01), text="no use")

    assert isinstance(error, AgentFailed)
    assert (str(error), error.details) == ("no use", {"node": "fail"})


async def test_task_tries_a_lost_connection_again() -> None:
    task = as_task(stumble, retries=1, retry_delay_seconds=0.01)

    (error, _), run_id = await in_flow(lambda: _caught(task(text="the line")))

    assert isinstance(error, AgentRetry)
    assert str(error).startswith("ConnectionError: stumble lost the line (test_tasks.py:")
    assert [run.run_count for run in (await task_runs(run_id)).values()] == [2]


async def _caught(work: Awaitable[Any]) -> tuple[Exception | None, Any]:
    try:
        return None, await work
    except RunError as error:
        return error, None


async def test_task_that_hangs_is_ended_by_its_timeout_and_tried_again() -> None:
    task = as_task(plugin().hang, timeout_seconds=0.2, retries=1, retry_delay_seconds=0.01)

    state, run_id = await in_flow(lambda: task(return_state=True))

    assert (state.name, state.is_failed()) == ("TimedOut", True)
    assert [run.run_count for run in (await task_runs(run_id)).values()] == [2]


async def test_task_options_win_over_the_manifest() -> None:
    task = as_task(stumble, tags=["mine"]).with_options(name="trip", retries=0)

    error, _ = await failure(task, text="it")

    assert (task.name, task.tags, task.retries) == ("trip", {"mine"}, 0)
    assert "trip lost it" in str(error)


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("wrong_output", OutputInvalid, "output of agent 'misbehave': text: Field required"),
        ("mute", OutputInvalid, "misbehave"),
        ("large_output", OutputInvalid, "the limit is 10,485,760"),
        ("unpicklable", AgentFailed, "Unpicklable: its message cannot be read"),
    ],
)
async def test_agent_that_breaks_its_contract_fails_its_task(how: str, kind: type, words: str) -> None:
    error, state = await failure(as_task(plugin().misbehave), how=how)

    assert isinstance(error, kind)
    assert words in str(error)
    assert words in str(state.message)


async def test_secrets_do_not_reach_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "hunter2-hunter2")

    error, state = await failure(as_task(plugin().fail), text="refused hunter2-hunter2")

    assert str(error) == "refused [redacted]"
    assert isinstance(error, AgentFailed)
    assert "hunter2" not in f"{state.message} {error.details} {error.__cause__}"


async def test_gated_agent_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "changed"

    error, _ = await failure(as_task(plugin().mutate), file=str(file))

    assert isinstance(error, ApprovalError)
    assert "agent 'mutate' needs an approval" in str(error)
    assert not file.exists()


async def test_task_outside_of_a_task_run_is_refused() -> None:
    with pytest.raises(RunError, match="AgentHarness"):
        await as_task(plugin().echo).fn(text="hello")


async def test_gathered_tasks_run_side_by_side(tmp_path: Path) -> None:
    trace = as_task(plugin().trace, task_run_name="{file}")
    files = [str(tmp_path / name) for name in ("left", "right")]

    _, run_id = await in_flow(lambda: asyncio.gather(*(trace(file=file, seconds=0.5) for file in files)))
    left, right = [(await task_runs(run_id))[file] for file in files]

    assert left.start_time and left.end_time and right.start_time and right.end_time  # noqa: PT018  for the types
    assert max(left.start_time, right.start_time) < min(left.end_time, right.end_time)


async def test_tasks_show_what_they_depend_on() -> None:
    first, second, third = tasks("first", "second", "third")

    async def work() -> Any:
        said = await first(quotes=[{"text": "one"}])
        later = second.submit(quotes=[said])
        return await third(params="!", wait_for=[later])

    output, run_id = await in_flow(work)
    runs = await task_runs(run_id)

    edges = {name: _upstream(run) for name, run in runs.items()}
    assert output.text == "collect:  !"
    assert edges == {"first": set(), "second": {runs["first"].id}, "third": {runs["second"].id}}


def _upstream(run: TaskRun) -> set[UUID]:
    return {
        item.id for items in run.task_inputs.values() for item in items if isinstance(item, TaskRunResult)
    }


def test_task_is_submitted_and_mapped_by_a_sync_flow() -> None:
    echo: Any = as_task(plugin().echo)

    @flow(name="test", persist_result=False, result_storage=RESULTS)
    def body() -> list[str]:
        one = echo.submit(text="one")
        more = echo.map(text=["two", "three"], wait_for=[one])
        return [one.result().text, *(item.text for item in more.result())]

    assert body() == ["one", "two", "three"]


async def test_agent_in_a_process_gives_its_output() -> None:
    task = as_task(plugin().block_in_process)

    output, _ = await in_flow(lambda: task(seconds=0.01))

    assert int(output.text) > 0


async def test_agent_in_a_process_is_killed_with_its_children_at_the_timeout() -> None:
    task = as_task(plugin().block_in_process, timeout_seconds=3, retries=0)

    state, _ = await in_flow(lambda: task(seconds=600, return_state=True))

    assert state.name == "TimedOut"
    assert _children_left() == []


async def test_agent_of_no_plugin_is_named_when_it_wants_a_process() -> None:
    unknown = dataclasses.replace(collect, name="nobody-knows", isolation=Isolation.PROCESS)

    error, _ = await failure(as_task(unknown), quotes=[])

    assert "no agent is named 'nobody-knows'" in str(error)


def _children_left() -> list[int]:
    return [
        one.pid
        for one in psutil.process_iter(["cmdline", "status"])
        if "penstock.engine.child" in (one.info["cmdline"] or [])
        and one.info["status"] != psutil.STATUS_ZOMBIE
    ]
