"""Runs cancelled, tried again, queued and attached, on the real thing."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.states import AwaitingRetry, Cancelling, Suspended

from engine.flows import node, workflow
from engine.test_gates import end_of, eventually, lines, mutate, requests, start, suspended
from engine.test_runs import prefect_state, states
from penstock.errors import Conflict, InputInvalid, NotFound

pytestmark = pytest.mark.integration

_SOON_S = 5.0
"""Within this time a cancelled run's tools must be gone."""


def processes(stack: Any, words: str) -> list[psutil.Process]:
    """List the stack's processes whose command line holds some words."""
    found: list[psutil.Process] = []
    for process in psutil.Process(stack.pid).children(recursive=True):
        try:
            if words in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def workspaces(label: str) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"penstock-{label}-*"))


async def cancel_in_prefect(services: Any, run_id: UUID) -> None:
    await services.client.set_flow_run_state(run_id, Cancelling())


async def cancel_here(services: Any, run_id: UUID) -> None:
    await services.cancel(run_id, by="tess")


@pytest.mark.parametrize("cancel", [cancel_here, cancel_in_prefect])
async def test_cancel_ends_tools_within_seconds_and_leaves_nothing(
    services: Any, stack: Any, cancel: Any
) -> None:
    seconds = 4000.0 + time.monotonic() % 1
    text = workflow(
        [
            node("tooled", "tool", inputs={"seconds": seconds}),
            node("blocked", "block-in-process", inputs={"seconds": seconds}),
            node("after", needs=["tooled"], run="always"),
        ]
    )
    run_id = await start(services, text)
    await eventually(lambda: asyncio.to_thread(processes, stack, f"sleep {seconds}"))
    await eventually(lambda: asyncio.to_thread(processes, stack, "penstock.engine.child"))

    began = time.monotonic()
    await cancel(services, run_id)
    shown = await end_of(services, run_id)

    assert time.monotonic() - began < _SOON_S
    assert shown["state"] == "cancelled"
    assert states(shown) == {"tooled": "cancelled", "blocked": "cancelled"}
    assert processes(stack, f"sleep {seconds}") == []
    assert processes(stack, "penstock.engine.child") == []
    assert workspaces("tooled") + workspaces("blocked") == []
    assert (await prefect_state(services, shown)).name == "Cancelled"


async def test_cancel_reaches_the_runs_of_sub_workflows(services: Any) -> None:
    child_name = (await services.apply(workflow([node("h", "hang")]), file="c.yaml", by="t")).name
    run_id = await start(services, workflow([{"id": "sub", "workflow": child_name}]))
    flow_run = await suspended(services, run_id)
    child = UUID(flow_run.state.message.split("run ")[1].split()[0])
    await eventually(lambda: running_node(services, child, "h"))

    await services.cancel(run_id, by="tess")
    shown, child_shown = await end_of(services, run_id), await end_of(services, child)

    assert (shown["state"], child_shown["state"]) == ("cancelled", "cancelled")
    assert states(child_shown) == {"h": "cancelled"}


async def running_node(services: Any, run_id: UUID, node_id: str) -> bool:
    try:
        shown = await services.show(run_id)
    except NotFound:
        return False
    return shown["nodes"].get(node_id, {}).get("state") == "running"


async def test_cancelled_child_fails_the_parents_node(services: Any) -> None:
    child_name = (await services.apply(workflow([node("h", "hang")]), file="c.yaml", by="t")).name
    run_id = await start(services, workflow([{"id": "sub", "workflow": child_name}]))
    flow_run = await suspended(services, run_id)
    child = UUID(flow_run.state.message.split("run ")[1].split()[0])
    await eventually(lambda: running_node(services, child, "h"))

    await services.cancel(child, by="tess")
    shown = await end_of(services, run_id)

    assert shown["state"] == "failed"
    assert "was cancelled: cancelled by tess" in shown["message"]


async def test_cancel_of_an_ended_run_changes_nothing(services: Any) -> None:
    run_id = await start(services, workflow([node("a")]))
    await end_of(services, run_id)

    await services.cancel(run_id, by="tess")

    assert (await services.show(run_id))["state"] == "completed"
    with pytest.raises(NotFound):
        await services.cancel(UUID(int=7), by="tess")


async def test_cancel_of_a_suspended_run_in_prefect_is_noticed(services: Any, tmp_path: Path) -> None:
    run_id = await start(services, workflow([mutate(tmp_path / "f")]))
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)

    await cancel_in_prefect(services, run_id)
    shown = await end_of(services, run_id)

    assert shown["state"] == "cancelled"
    assert (await services.approvals.show(UUID(request["id"])))["state"] == "withdrawn"


async def test_run_suspended_in_prefect_stops_after_its_node_and_goes_on_when_resumed(
    services: Any, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    slow = {"file": str(trace), "seconds": 1.5}
    text = workflow([node("a", "trace", inputs=slow), node("b", "trace", needs=["a"], inputs=slow)])
    run_id = await start(services, text)
    await eventually(lambda: asyncio.to_thread(lambda: len(lines(trace)) == 1))

    await services.client.set_flow_run_state(run_id, Suspended())
    await eventually(lambda: is_in_state(services, run_id, "suspended"))
    assert states(await services.show(run_id)) == {"a": "succeeded"}
    await services.client.resume_flow_run(run_id)
    shown = await end_of(services, run_id)

    assert shown["state"] == "completed"
    assert [line.split()[1] for line in lines(trace)] == ["a", "b"]


def healing(trace: Path, sign: Path) -> str:
    """Write a workflow whose middle fails until a file is there."""
    ok = trace.with_name("ok")
    ok.touch()
    return workflow(
        [
            node("first", "needs-file", inputs={"file": str(ok), "trace": str(trace)}),
            node("middle", "needs-file", needs=["first"], inputs={"file": str(sign), "trace": str(trace)}),
            node("last", "needs-file", needs=["middle"], inputs={"file": str(ok), "trace": str(trace)}),
            node(
                "report",
                "needs-file",
                needs=["last"],
                run="always",
                inputs={"file": str(ok), "trace": str(trace)},
            ),
        ]
    )


async def retry_here(services: Any, run_id: UUID) -> None:
    await services.retry(run_id)


async def retry_in_prefect(services: Any, run_id: UUID) -> None:
    await services.client.set_flow_run_state(run_id, AwaitingRetry(message="Retry from the UI"), force=True)


@pytest.mark.parametrize("retry", [retry_here, retry_in_prefect])
async def test_retry_goes_on_from_the_failed_node(services: Any, tmp_path: Path, retry: Any) -> None:
    trace, sign = tmp_path / "trace", tmp_path / "sign"
    run_id = await start(services, healing(trace, sign))
    first = await end_of(services, run_id)
    await prefect_state(services, first)
    sign.touch()

    await retry(services, run_id)
    await eventually(lambda: asyncio.to_thread(lambda: lines(trace).count("last")))
    shown = await end_of(services, run_id)

    assert states(first) == {
        "first": "succeeded",
        "middle": "failed",
        "last": "skipped",
        "report": "succeeded",
    }
    assert shown["state"] == "completed"
    assert lines(trace) == ["first", "middle", "report", "middle", "last", "report"]
    assert shown["nodes"]["middle"]["attempts"] == 2


async def test_retry_from_a_chosen_node_runs_it_and_what_follows(services: Any, tmp_path: Path) -> None:
    trace, sign = tmp_path / "trace", tmp_path / "sign"
    sign.touch()
    run_id = await start(services, healing(trace, sign))
    await end_of(services, run_id)
    with pytest.raises(Conflict, match="name the node to begin with"):
        await services.retry(run_id)
    with pytest.raises(InputInvalid, match="no node 'nope'"):
        await services.retry(run_id, start="nope")

    await services.retry(run_id, start="last")
    await eventually(lambda: asyncio.to_thread(lambda: lines(trace).count("report") == 2))
    shown = await end_of(services, run_id)

    assert shown["state"] == "completed"
    assert lines(trace) == ["first", "middle", "last", "report", "last", "report"]


def limited(on_conflict: str, agent: str = "hang", **rest: Any) -> str:
    return workflow(
        [node("a", agent, **rest)],
        inputs={"host": {"type": "string"}},
        concurrency={"key": "{{ inputs.host }}", "on_conflict": on_conflict},
    )


async def start_again(services: Any, text: str, **inputs: Any) -> Any:
    applied = await services.apply(text, file="test.yaml", by="test")
    return await services.start(applied.name, inputs)


async def test_runs_with_one_key_queue_in_order_and_others_do_not_wait(services: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    text = workflow(
        [node("a", "trace", inputs={"file": str(trace), "seconds": "{{ inputs.seconds }}"})],
        inputs={"host": {"type": "string"}, "seconds": {"type": "number"}},
        concurrency={"key": "{{ inputs.host }}"},
    )
    first = (await start_again(services, text, host="h", seconds=2)).run_id
    await eventually(lambda: asyncio.to_thread(lambda: len(lines(trace)) == 1))
    second = (await start_again(services, text, host="h", seconds=0)).run_id
    await eventually(lambda: is_in_state(services, second, "queued"))
    third = (await start_again(services, text, host="h", seconds=0)).run_id
    other = (await start_again(services, text, host="i", seconds=0)).run_id

    ends = [(await end_of(services, run_id))["state"] for run_id in (other, first, second, third)]

    assert ends == ["completed"] * 4
    order = [UUID(line.split()[0]) for line in lines(trace)]
    assert [run_id for run_id in order if run_id != other] == [first, second, third]
    assert order.index(other) < 3


async def is_in_state(services: Any, run_id: UUID, state: str) -> bool:
    return (await services.show(run_id))["state"] == state


async def test_run_too_many_is_refused_or_attached(services: Any) -> None:
    refusing, attaching = limited("reject"), limited("attach")
    first = await start_again(services, refusing, host="h")
    held = await start_again(services, attaching, host="h")

    with pytest.raises(Conflict, match=str(first.run_id)):
        await start_again(services, refusing, host="h")
    attached = await start_again(services, attaching, host="h")
    free = await start_again(services, attaching, host="other")

    assert (attached.run_id, attached.new) == (held.run_id, False)
    assert free.run_id != held.run_id
    for run_id in (first.run_id, held.run_id, free.run_id):
        await services.cancel(run_id, by="test")
        await end_of(services, run_id)
    after = await start_again(services, attaching, host="h")
    assert after.new
    await services.cancel(after.run_id, by="test")
    await end_of(services, after.run_id)


async def test_new_run_cancels_the_running_one(services: Any) -> None:
    text = limited("cancel_running")
    first = await start_again(services, text, host="h")
    await eventually(lambda: running_node(services, first.run_id, "a"))

    second = await start_again(services, text, host="h")
    shown = await end_of(services, first.run_id)
    await eventually(lambda: running_node(services, second.run_id, "a"))

    assert shown["state"] == "cancelled"
    await services.cancel(second.run_id, by="test")
    await end_of(services, second.run_id)


async def test_run_that_waits_for_people_keeps_its_place_unless_told_otherwise(
    services: Any, tmp_path: Path
) -> None:
    def gated(*, release: bool) -> str:
        return workflow(
            [mutate(tmp_path / "f")],
            concurrency={"key": "one", "release_while_waiting": release},
        )

    keeping, releasing = gated(release=False), gated(release=True)
    kept = [(await start_again(services, keeping)).run_id for _ in range(2)]
    released = [(await start_again(services, releasing)).run_id for _ in range(2)]

    await requests(services, released[0])
    await requests(services, released[1])
    await eventually(lambda: is_in_state(services, kept[1], "queued"))
    for run_id in (*kept, *released):
        await services.cancel(run_id, by="test")
        await end_of(services, run_id)


async def test_same_idempotency_key_gives_the_same_run(services: Any) -> None:
    applied = await services.apply(workflow([node("a")]), file="test.yaml", by="test")

    first = await services.start(applied.name, {}, key="k")
    second = await services.start(applied.name, {}, key="k")
    other = await services.start(applied.name, {}, key="l")

    assert (second.run_id, second.new) == (first.run_id, False)
    assert other.run_id != first.run_id
