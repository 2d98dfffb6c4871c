"""Gates while workers and the database are killed: nothing is lost, done twice or done unasked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text as sql

from engine.flows import node, workflow
from engine.ruling import age, all_of, audit, names, notices, shown
from engine.test_gates import decide, end_of, eventually, lines, mutate, requests, start, suspended
from engine.test_runs import states
from penstock.engine.auditing import verify
from penstock.errors import StoreError
from penstock.store.database import Database
from store.asking import all_wait
from support.stack import PLUGIN, StackUnderTest, running
from support.workers import OwnWorkers, own_workers

pytestmark = pytest.mark.integration

HOUR_S = 3600.0


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[StackUnderTest]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "path", [str(PLUGIN), *sys.path])
        with running(tmp_path_factory.mktemp("gates") / "home") as started:
            yield started


@pytest.fixture
def workers(own_stack: StackUnderTest, tmp_path: Path) -> Generator[OwnWorkers]:
    with own_workers(own_stack, tmp_path, PENSTOCK_WORKER__LEASE_SECONDS="3") as opened:
        yield opened


def branches(folder: Path) -> str:
    """Write a workflow of three branches, two of them gated, and what comes after all of them."""
    return workflow(
        [
            {**mutate(folder / "one"), "id": "one"},
            {**mutate(folder / "two"), "id": "two"},
            node("free", "trace", inputs={"file": str(folder / "free")}),
            node("last", "change", needs=["one", "two", "free"], inputs={"file": str(folder / "last")}),
        ]
    )


async def test_gates_are_answered_in_either_order_while_every_worker_is_killed_in_between(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    orders = {"forth": ("one", "two"), "back": ("two", "one")}
    async with own_stack.services() as services:
        worker, runs = workers.start(), dict[str, UUID]()
        for order in orders:
            (tmp_path / order).mkdir()
            runs[order] = await start(services, branches(tmp_path / order))
        asked = {order: await _by_node(services, run_id) for order, run_id in runs.items()}
        for step in range(2):
            for run_id in runs.values():
                await eventually(partial(_done, services, run_id, 1 + step))
                await suspended(services, run_id)
            workers.kill(worker)
            for order, nodes in orders.items():
                assert (await decide(services, asked[order][nodes[step]]))["state"] == "approved"
                assert not (tmp_path / order / "last").exists()
            worker = workers.start()
        ends = [await end_of(services, run_id) for run_id in runs.values()]

        assert [end["state"] for end in ends] == ["completed", "completed"]
        for order, run_id in runs.items():
            changed = {name: len(lines(tmp_path / order / name)) for name in ("one", "two", "free", "last")}
            assert changed == {"one": 1, "two": 1, "free": 1, "last": 1}
            assert len(await all_of(services, run_id)) == 2
            assert len(await audit(services, "grant.used", run_id=run_id)) == 2
            assert await audit(services, "gate.bypass", run_id=run_id) == []
        assert (await verify(services.database)).ok


async def _by_node(services: Any, run_id: UUID) -> dict[str, dict[str, Any]]:
    return {request["node"]: request for request in await requests(services, run_id, count=2)}


async def _done(services: Any, run_id: UUID, count: int) -> bool:
    return Counter(states(await services.show(run_id)).values())["succeeded"] == count


@pytest.mark.slow
async def test_worker_killed_between_items_asks_nobody_again(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    once = node(
        "each",
        "trace",
        inputs={"file": str(trace), "seconds": 1.5},
        foreach={"in": [1, 2, 3], "as": "item"},
        approval={"per": "node"},
    )
    async with own_stack.services() as services:
        first = workers.start()
        run_id = await start(services, workflow([once]))
        (request,) = await requests(services, run_id)
        await decide(services, request)
        await eventually(lambda: asyncio.to_thread(lambda: len(lines(trace)) == 2))

        workers.kill(first)
        workers.start()
        done = await end_of(services, run_id)

        assert done["state"] == "completed"
        ran = Counter(line.split()[1] for line in lines(trace))
        assert ran == {"each-0": 1, "each-1": 2, "each-2": 1}, "only what was cut off runs again"
        assert [one["id"] for one in await all_of(services, run_id)] == [request["id"]]
        assert len(await audit(services, "grant.used", request)) == 1


async def test_what_comes_due_while_no_worker_is_there_is_seen_to_by_the_next_one(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    late = {"timeout": "2h", "on_timeout": "fail"}
    slow = {
        "remind": ["30m", "1h"],
        "timeout": "2h",
        "on_timeout": "escalate",
        "escalate": {"to": ["user:bob"]},
    }
    async with own_stack.services() as services:
        first = workers.start()
        text = workflow([mutate(tmp_path / "a", approval=late)])
        runs = [await start(services, text)]
        runs.append(await start(services, workflow([mutate(tmp_path / "b", approval=slow)])))
        gone, kept = [(await requests(services, run_id))[0] for run_id in runs]
        for run_id in runs:
            await suspended(services, run_id)

        workers.kill(first)
        for request in (gone, kept):
            await age(services, request, 2 * HOUR_S)
        workers.start()
        ended = await end_of(services, runs[0])
        await eventually(lambda: _has(services, kept, "escalated"))

        assert (ended["state"], (await shown(services, gone))["state"]) == ("failed", "expired")
        assert Counter(await notices(services, kept)) == {"asked": 1, "reminder": 1, "escalated": 1}
        await decide(services, kept, person="bob")
        assert (await end_of(services, runs[1]))["state"] == "completed"


async def _has(services: Any, request: dict[str, Any], kind: str) -> bool:
    return kind in await notices(services, request)


async def test_approval_is_not_for_another_version_of_the_agent(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    async with own_stack.services() as services:
        first = workers.start()
        run_id = await start(services, workflow([node("it", "versioned", inputs={"file": str(file)})]))
        (request,) = await requests(services, run_id)
        assert request["card"]["agent"]["version"] == "1"
        await suspended(services, run_id)

        workers.kill(first)
        await decide(services, request)
        workers.environment["PENSTOCK_TEST_AGENT_VERSION"] = "2"
        workers.start()
        done = await end_of(services, run_id)

        assert done["state"] == "failed"
        assert "is pinned to agent 'versioned' version 1, this worker has 2" in done["message"]
        assert lines(file) == []
        assert await audit(services, "grant.used", request) == []


async def test_decision_that_the_database_dies_of_counts_once(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    async with own_stack.services() as services:
        await workers.ready(services, workers.start())
        run_id = await start(services, workflow([mutate(file)]))
        (request,) = await requests(services, run_id)
        await suspended(services, run_id)

        deciding = await _held_up(services, run_id, request, own_stack)
        outcome = await asyncio.gather(deciding, return_exceptions=True)
        again = await eventually(lambda: _decided(services, request))
        done = await end_of(services, run_id)

        assert again["state"] == "approved", outcome
        assert (done["state"], lines(file)) == ("completed", ["changed"])
        assert names(again["decisions"]) == ["ada"]
        assert len(await audit(services, "decision", request)) == 1
        assert len(await audit(services, "grant.used", request)) == 1
        assert (await verify(services.database)).ok


async def _held_up(
    services: Any, run_id: UUID, request: dict[str, Any], stack: StackUnderTest
) -> asyncio.Task[Any]:
    """Have a decision wait in the middle of its transaction, and kill the database."""
    database: Database = services.database
    pid_file = Path(stack.environment["PENSTOCK_HOME"]) / "postgres" / "data" / "postmaster.pid"
    postmaster = int((await asyncio.to_thread(pid_file.read_text)).splitlines()[0])
    deciding: asyncio.Task[Any] | None = None
    with contextlib.suppress(StoreError):
        async with database.transaction() as connection:
            await connection.execute(_HOLD, {"id": run_id})
            deciding = asyncio.create_task(decide(services, request))
            await all_wait(database, 1)
            os.kill(postmaster, signal.SIGKILL)
    assert deciding is not None
    return deciding


_HOLD = sql("SELECT FROM penstock.run WHERE id = :id FOR UPDATE")


async def _decided(services: Any, request: dict[str, Any]) -> Any:
    """Decide, again if need be; what has been decided is told again."""
    try:
        return await decide(services, request)
    except StoreError:
        return None
