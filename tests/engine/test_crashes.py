"""Processes that end in the middle of a run; each test has a stack of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.states import AwaitingRetry

from engine.flows import node, workflow
from support.stack import PLUGIN, StackUnderTest, running

pytestmark = pytest.mark.integration


@pytest.fixture
def own_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[StackUnderTest]:
    monkeypatch.setattr(sys, "path", [str(PLUGIN), *sys.path])
    with running(tmp_path / "home") as started:
        yield started


def child(stack: StackUnderTest, word: str) -> psutil.Process:
    """Find a process of the stack by the last word of its command line."""
    for process in psutil.Process(stack.pid).children(recursive=True):
        if process.cmdline()[-1:] == [word]:
            return process
    raise AssertionError(f"the stack has no process {word!r}")


async def until(what: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)


def lines(file: Path) -> list[str]:
    return [line.split()[1] for line in file.read_text().splitlines()] if file.exists() else []


async def end_of(services: Any, run_id: UUID) -> dict[str, Any]:
    async with asyncio.timeout(60):
        async for _ in services.follow(run_id):
            pass
    return await services.show(run_id)


async def start_two_steps(services: Any, file: Path) -> Any:
    quick, slow = {"file": str(file)}, {"file": str(file), "seconds": 3}
    text = workflow(
        [node("quick", "trace", inputs=quick), node("slow", "trace", needs=["quick"], inputs=slow)]
    )
    applied = await services.apply(text, file="test.yaml", by="test")
    return await services.start(applied.name, {})


async def test_stopped_worker_hands_its_run_to_the_next_one(
    own_stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "trace"
    async with own_stack.services() as services:
        started = await start_two_steps(services, file)
        await until(lambda: lines(file) == ["quick", "slow"])

        child(own_stack, "worker").send_signal(signal.SIGTERM)
        shown = await end_of(services, started.run_id)

    assert shown["state"] == "completed"
    assert lines(file) == ["quick", "slow", "slow"], "what had completed must not run again"


async def test_killed_workers_run_goes_on_after_the_last_completed_node(
    own_stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "trace"
    async with own_stack.services() as services:
        started = await start_two_steps(services, file)
        await until(lambda: lines(file) == ["quick", "slow"])

        child(own_stack, "worker").kill()
        await services.client.set_flow_run_state(started.run_id, AwaitingRetry(), force=True)
        shown = await end_of(services, started.run_id)

    assert shown["state"] == "completed"
    assert lines(file) == ["quick", "slow", "slow"]
    assert shown["nodes"]["slow"]["attempts"] == 2


async def test_database_killed_in_the_middle_comes_back_and_nothing_is_half_recorded(
    own_stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "trace"
    home = Path(own_stack.environment["PENSTOCK_HOME"])
    postmaster = int((home / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
    async with own_stack.services() as services:
        started = await start_two_steps(services, file)
        await until(lambda: lines(file) == ["quick", "slow"])

        os.kill(postmaster, signal.SIGKILL)
        shown = await end_of(services, started.run_id)

    assert shown["state"] == "completed"
    assert {name: item["state"] for name, item in shown["nodes"].items()} == {
        "quick": "succeeded",
        "slow": "succeeded",
    }
    assert lines(file) == ["quick", "slow"]


def test_killed_stack_leaves_no_process_behind(tmp_path: Path) -> None:
    with running(tmp_path / "home") as stack:
        children = psutil.Process(stack.pid).children(recursive=True)
        assert len(children) >= 3

        os.kill(stack.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=20)

    assert alive == []


def test_stopped_stack_ends_every_process_and_finds_its_data_again(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(workflow([node("a")], name="kept"))
    with running(tmp_path / "home") as stack:
        applied = stack.cli("workflows", "apply", str(file))
        children = psutil.Process(stack.pid).children(recursive=True)
    assert applied.returncode == 0, applied.stderr
    assert [process for process in children if process.is_running()] == []

    with running(tmp_path / "home") as stack:
        ran = stack.cli("run", "kept", "--json")

    assert ran.returncode == 0, ran.stderr
