"""Workers killed, stopped and woken in the middle of runs: nothing is lost and nothing done twice."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from engine.flows import node, workflow
from engine.test_gates import decide, end_of, eventually, lines, mutate, requests, start, suspended
from engine.test_runs import prefect_state, states
from penstock.store.runs import events_of, get_run
from support.stack import PLUGIN, StackUnderTest, running
from support.workers import OwnWorkers, own_workers

pytestmark = pytest.mark.integration

SEED = 20261121
_LEASE = {"PENSTOCK_WORKER__LEASE_SECONDS": "3"}


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[StackUnderTest]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "path", [str(PLUGIN), *sys.path])
        with running(tmp_path_factory.mktemp("lost") / "home") as started:
            yield started


@pytest.fixture
def workers(own_stack: StackUnderTest, tmp_path: Path) -> Generator[OwnWorkers]:
    with own_workers(own_stack, tmp_path, **_LEASE) as opened:
        yield opened


def steps(trace: Path, changes: Path) -> str:
    """Write a workflow that reads and changes things, side by side and one after the other."""
    reads = {"file": str(trace), "seconds": 0.15}
    change = {"file": str(changes), "word": "{{ run.id }}", "seconds": 0.15}
    return workflow(
        [
            node("a", "trace", inputs=reads),
            node("b", "trace", needs=["a"], inputs=reads),
            node(
                "c", "trace", needs=["a"], inputs=reads, foreach={"in": [1, 2], "as": "n", "concurrency": 2}
            ),
            node("change", "change", needs=["b", "c"], inputs=change),
            node("d", "trace", needs=["change"], inputs=reads),
        ]
    )


async def check_run(services: Any, run_id: UUID, executions: Counter[str]) -> str:
    """Check that a run ended right and give its state."""
    shown = await services.show(run_id)
    events = await events_of(services.database, run_id)
    seen = Counter((e.type, e.node_id, e.data.get("item")) for e in events)
    for (kind, node_id, item), count in seen.items():
        if kind == "node.succeeded":
            assert count == 1, f"{node_id} {item} succeeded {count} times"
            after = [e.type for e in events if (e.node_id, e.data.get("item")) == (node_id, item)]
            assert after[-1] == "node.succeeded", f"{node_id} {item}: {after}"
    for label, item in shown["nodes"].items():
        # What was carried out was recorded before: an attempt that nobody knows of cannot be.
        name = label.replace("[", "-").rstrip("]")
        assert executions[f"{run_id} {name}"] <= item["attempts"], (label, item)
    if shown["state"] == "interrupted":
        assert shown["nodes"]["change"]["state"] == "interrupted", shown
        assert f"penstock runs retry {run_id}" in shown["message"]
    else:
        assert shown["state"] == "completed", shown
        assert shown["nodes"]["d"]["state"] == "succeeded"
    return shown["state"]


def executions_in(trace: Path) -> Counter[str]:
    return Counter(" ".join(line.split()[:2]) for line in lines(trace))


async def kill_at_random(
    services: Any, workers: OwnWorkers, trace: Path, changes: Path, *, kills: int, seed: int
) -> list[UUID]:
    """Kill one of two workers again and again while runs are in flight; give the runs."""
    chance = random.Random(seed)  # noqa: S311
    name = (await services.apply(steps(trace, changes), file="test.yaml", by="test")).name
    runs: list[UUID] = []
    for _ in range(kills):
        while len(workers.alive) < 2:
            workers.start()
        await workers.ready(services, *workers.alive)
        runs += [(await services.start(name, {})).run_id for _ in range(2)]
        await asyncio.sleep(chance.uniform(0.0, 1.2))
        workers.kill(chance.choice(sorted(workers.alive)))
    workers.start()
    return runs


async def survive(
    own_stack: StackUnderTest, workers: OwnWorkers, folder: Path, *, kills: int
) -> Counter[str]:
    trace, changes = folder / "trace", folder / "changes"
    async with own_stack.services() as services:
        runs = await kill_at_random(services, workers, trace, changes, kills=kills, seed=SEED)
        async with asyncio.timeout(120):
            for run_id in runs:
                await end_of(services, run_id)
        ends = Counter([await check_run(services, run_id, executions_in(trace)) for run_id in runs])
        done = Counter(lines(changes))
        assert max(done.values()) == 1, "a change was made twice without anybody having asked for it"
        interrupted = [run_id for run_id in runs if (await services.show(run_id))["state"] == "interrupted"]
        for run_id in interrupted:  # a person has looked, and has it made again
            await services.retry(run_id)
        for run_id in interrupted:
            await eventually(lambda run_id=run_id: has_completed(services, run_id))
        assert Counter(lines(changes)).keys() >= {f"do {run_id}" for run_id in runs}
    return ends


async def has_completed(services: Any, run_id: UUID) -> bool:
    return (await services.show(run_id))["state"] == "completed"


async def test_runs_survive_kills_at_random_points(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    ends = await survive(own_stack, workers, tmp_path, kills=6)

    assert sum(ends.values()) == 12


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_runs_survive_fifty_kills(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    ends = await survive(own_stack, workers, tmp_path, kills=50)

    print(dict(ends))  # noqa: T201  a figure for the person who runs it
    assert sum(ends.values()) == 100


async def test_change_that_was_cut_off_stops_the_run_until_a_person_decides(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    file = tmp_path / "changes"
    first = workers.start()
    async with own_stack.services() as services:
        await workers.ready(services, first)
        change = {"file": str(file), "word": "it", "seconds": 2}
        text = workflow(
            [
                node("before", "change", inputs={**change, "word": "before", "seconds": 0}, undo="automatic"),
                node("change", "change", needs=["before"], inputs=change, undo="automatic"),
                node("after", needs=["change"]),
                node("report", needs=["after"], run="always"),
            ]
        )
        run_id = await start(services, text)
        await eventually(lambda: asyncio.to_thread(lambda: lines(file) == ["do before", "do it"]))

        workers.kill(first)
        workers.start()
        shown = await end_of(services, run_id)

        assert shown["state"] == "interrupted"
        assert states(shown) == {
            "before": "succeeded",
            "change": "interrupted",
            "after": "skipped",
            "report": "succeeded",
        }
        assert f"run it again with: penstock runs retry {run_id}" in shown["message"]
        assert (await prefect_state(services, shown)).name == "Interrupted"
        assert lines(file) == ["do before", "do it"], "neither repeated nor undone"
        await services.retry(run_id)
        await eventually(lambda: has_completed(services, run_id))
    assert lines(file) == ["do before", "do it", "do it"]


async def test_late_writes_of_a_worker_that_was_stopped_are_refused(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    first = workers.start()
    async with own_stack.services() as services:
        await workers.ready(services, first)
        text = workflow(
            [node("slow", "trace", inputs={"file": str(trace), "seconds": 6}), node("z", needs=["slow"])]
        )
        name = (await services.apply(text, file="test.yaml", by="test")).name
        run_id = (await services.start(name, {})).run_id
        await eventually(lambda: asyncio.to_thread(lambda: len(lines(trace)) == 1))

        workers.signal(first, signal.SIGSTOP)
        second = workers.start()
        await eventually(lambda: asyncio.to_thread(lambda: len(lines(trace)) == 2))
        workers.signal(first, signal.SIGCONT)
        shown = await end_of(services, run_id)

        assert shown["state"] == "completed"
        assert shown["nodes"]["slow"]["output"]["attempt"] == 2
        kinds = Counter(event.type for event in await events_of(services.database, run_id))
        assert (kinds["run.lost"], kinds["node.succeeded"]) == (1, 2)
        await eventually(lambda: asyncio.to_thread(lambda: "the lease was lost" in workers.log_of(first)))

        workers.kill(second)  # the one that was stopped works on
        again = (await services.start(name, {})).run_id
        assert (await end_of(services, again))["state"] == "completed"
    assert len(lines(trace)) == 3


async def test_gates_hold_while_all_workers_are_gone(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    first = workers.start()
    async with own_stack.services() as services:
        text = workflow([mutate(file), node("other"), node("last", needs=["mutate", "other"])])
        run_id = await start(services, text)
        (request,) = await requests(services, run_id)
        await suspended(services, run_id)

        workers.kill(first)
        await decide(services, request)
        assert lines(file) == []
        workers.start()
        shown = await end_of(services, run_id)

    assert shown["state"] == "completed"
    assert lines(file) == ["changed"]


async def test_stopped_worker_lets_its_nodes_end_and_hands_the_rest_over(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    first = workers.start()
    async with own_stack.services() as services:
        slow = {"file": str(trace), "seconds": 2}
        text = workflow(
            [node("slow", "trace", inputs=slow), node("next", "trace", needs=["slow"], inputs=slow)]
        )
        run_id = await start(services, text)
        await eventually(lambda: asyncio.to_thread(lambda: len(lines(trace)) == 1))

        workers.signal(first, signal.SIGTERM)
        workers.start()
        shown = await end_of(services, run_id)

    assert shown["state"] == "completed"
    assert [line.split()[1] for line in lines(trace)] == ["slow", "next"]
    assert shown["nodes"]["slow"]["attempts"] == 1


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.slow)])
async def test_two_workers_share_many_runs_and_each_run_is_done_once(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path, count: int
) -> None:
    trace = tmp_path / "trace"
    names = [workers.start(limit=10) for _ in range(2)]
    async with own_stack.services() as services:
        await workers.ready(services, *names)
        text = workflow([node("only", "trace", inputs={"file": str(trace), "seconds": 0.2})])
        name = (await services.apply(text, file="test.yaml", by="test")).name
        runs = [(await services.start(name, {})).run_id for _ in range(count)]
        await eventually(lambda: asyncio.to_thread(lambda: len(lines(trace)) == len(runs)), seconds=150)
        ends = Counter([(await end_of(services, run_id))["state"] for run_id in runs])
        takers = Counter([(await get_run(services.database, run_id)).claimed_by for run_id in runs])

    assert ends == {"completed": count}
    assert Counter(line.split()[0] for line in lines(trace)) == Counter(str(run_id) for run_id in runs)
    assert set(takers) == set(names), "both have had a share"


async def test_urgent_runs_go_first_when_all_slots_are_taken(
    own_stack: StackUnderTest, workers: OwnWorkers, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    first = workers.start(limit=1)
    async with own_stack.services() as services:
        await workers.ready(services, first)
        long = workflow([node("wait", "trace", inputs={"file": str(trace), "seconds": 3})])
        text = workflow([node("only", "trace", inputs={"file": str(trace)})])
        names = [(await services.apply(one, file="test.yaml", by="test")).name for one in (long, text)]
        busy = (await services.start(names[0], {})).run_id
        await eventually(lambda: asyncio.to_thread(lambda: len(lines(trace)) == 1))
        queues = ("P3", "P1", "P0", "P2", "P0", "P3")
        started = [((await services.start(names[1], {}, queue=queue)).run_id, queue) for queue in queues]
        for run_id, _ in started:
            await end_of(services, run_id)
        await end_of(services, busy)

    by_run = {str(run_id): queue for run_id, queue in started}
    order = [by_run[line.split()[0]] for line in lines(trace)[1:]]
    assert order == ["P0", "P0", "P1", "P2", "P3", "P3"]
