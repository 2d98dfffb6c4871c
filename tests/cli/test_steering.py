"""Runs started, followed, cancelled and tried again from the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from cli.commands import ME, begin, gated, penstock
from engine.flows import node, workflow
from engine.test_gates import end_of, eventually, start
from penstock.approvals.people import Person
from support.stack import StackUnderTest

pytestmark = pytest.mark.integration


async def test_run_that_needs_people_ends_with_three_when_it_does_not_wait(
    stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "ask.yaml"
    file.write_text(workflow([gated(tmp_path / "f")], name="asks"))
    arguments = ("run", str(file), "--no-wait", "--queue", "P0", "--key", "once")

    code, output, messages = await penstock(stack, *arguments)
    again, as_json, _ = await penstock(stack, *arguments, "--json")

    (ask,) = json.loads(as_json)["approvals"]
    assert (code, again) == (3, 3)
    assert json.loads(as_json)["run_id"] in messages
    assert f"penstock approvals approve {ask['id']}" in output
    assert "waits for approval: Change the file" in output
    assert ask["card"]["requester"] == ME
    assert "apply waits for approval: Change the file" in messages


async def test_run_goes_to_the_queue_that_was_named(services: Any, stack: StackUnderTest) -> None:
    applied = await services.apply(workflow([node("a")]), file="a.yaml", by="test")

    code, output, _ = await penstock(stack, "run", applied.name, "--queue", "P1", "--json")

    flow_run = await services.client.read_flow_run(UUID(json.loads(output)["run_id"]))
    assert (code, flow_run.work_queue_name) == (0, "P1")


async def test_run_tells_once_whom_it_waits_for_and_goes_on(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    inner = await services.apply(workflow([gated(tmp_path / "f")]), file="inner.yaml", by="test")
    steps = [{"id": "sub", "workflow": inner.name}, node("after", needs=["sub"])]
    outer = await services.apply(workflow(steps), file="outer.yaml", by="test")
    running = begin(stack, "run", outer.name)

    try:
        ask = await eventually(lambda: _request_of(services, inner.name), seconds=60)
        await services.approvals.decide(UUID(ask["id"]), "approve", person=Person("bob"), via="api")
        output, messages = await asyncio.to_thread(running.communicate, timeout=60)
    finally:
        running.kill()

    assert running.returncode == 0, messages
    assert output.startswith("completed")
    assert messages.count("sub > apply waits for approval: Change the file") == 1
    assert "sub > apply approved by bob" in messages
    assert "after succeeded" in messages


async def _request_of(services: Any, name: str) -> dict[str, Any] | None:
    listed = (await services.approvals.list(limit=200))["approvals"]
    return next((item for item in listed if item["card"]["workflow"] == name), None)


async def test_cancel_stops_a_run_and_says_when_it_had_ended_before(
    services: Any, stack: StackUnderTest
) -> None:
    run_id = await start(services, workflow([node("a", "hang")]))
    await eventually(lambda: _busy(services, run_id))

    first = await penstock(stack, "runs", "cancel", run_id.hex[:10])
    second = await penstock(stack, "runs", "cancel", str(run_id), "--json")

    assert first[:2] == (0, f"run {run_id} is cancelled\n")
    assert second[0] == 1
    assert f"run {run_id} had ended before: cancelled" in second[2]
    shown = json.loads(second[1])
    assert (shown["state"], shown["message"]) == ("cancelled", f"cancelled by {ME}")


async def test_cancel_says_when_a_run_takes_its_time(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "done"
    run_id = await start(services, workflow([node("a", "linger", {"file": str(file)})]))
    await eventually(lambda: _busy(services, run_id))

    code, _, messages = await penstock(stack, "runs", "cancel", str(run_id), "--timeout", "0.1")
    file.touch()

    assert code == 1
    assert "is being stopped but has not ended" in messages
    assert (await end_of(services, run_id))["state"] == "cancelled"


async def _busy(services: Any, run_id: UUID) -> bool:
    return any(item["state"] == "running" for item in (await services.show(run_id))["nodes"].values())


async def test_retry_goes_on_from_what_failed_or_from_a_node(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "needed"
    steps = [node("first"), node("needs", "needs-file", {"file": str(file)}, needs=["first"])]
    run_id = await start(services, workflow(steps))
    await end_of(services, run_id)

    failed = await penstock(stack, "runs", "retry", str(run_id))
    file.touch()
    well = await penstock(stack, "runs", "retry", run_id.hex[:8], "--json")
    conflict = await penstock(stack, "runs", "retry", str(run_id))
    unknown = await penstock(stack, "runs", "retry", str(run_id), "--from", "nope")
    anew = await penstock(stack, "runs", "retry", str(run_id), "--from", "first")

    assert failed[0] == 1
    assert "needs failed (attempt 2)" in failed[2]
    assert "first" not in failed[2]
    assert (well[0], json.loads(well[1])["nodes"]["first"]["attempts"]) == (0, 1)
    assert conflict[0] == 1
    assert "name the node to begin with" in conflict[2]
    assert unknown[0] == 2
    assert "its nodes are first, needs" in unknown[2]
    assert anew[0] == 0
    assert "first succeeded (attempt 2)" in anew[2]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("00000000-0000-0000-0000-000000000000", "there is no run"),
        ("ffffffffff", "none of the newest"),
        ("abc", "give all of it or at least its first 6 digits"),
        ("not-an-id", "is not the id of a run"),
    ],
)
async def test_unknown_runs_are_bad_usage(stack: StackUnderTest, given: str, words: str) -> None:
    code, _, messages = await penstock(stack, "runs", "cancel", given)

    assert code == 2
    assert words in messages
