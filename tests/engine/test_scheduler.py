from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.control import RunControl, Stop
from penstock.engine.courses import ItemCourse
from penstock.engine.scheduler import NodeResult, Walked, walk
from penstock.store.states import NodeState
from penstock.workflow import Graph, Link, Ready

OK = NodeResult(NodeState.SUCCEEDED)
BAD = NodeResult(NodeState.FAILED)
WAITS = NodeResult(NodeState.WAITING_APPROVAL, reason="waits for approval 1")


@dataclass(frozen=True)
class GraphCourse:
    """The order that a graph gives."""

    graph: Graph

    def ready(
        self, ended: Mapping[str, NodeResult], *, running: Collection[str], waiting: Collection[str]
    ) -> Ready:
        outcomes = {name: result.outcome for name, result in ended.items()}
        return self.graph.ready(outcomes, running={*running, *waiting})


class Recorder:
    """Runs steps by a plan and remembers what happened, in order."""

    def __init__(self, plan: Mapping[str, NodeResult] | None = None) -> None:
        self.plan = plan or {}
        self.events: list[str] = []
        self.at_once = 0
        self.most_at_once = 0

    async def run(self, name: str, results: Mapping[str, NodeResult]) -> NodeResult:
        del results
        self.events.append(f"+{name}")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        self.events.append(f"-{name}")
        return self.plan.get(name, OK)

    async def skip(self, name: str, reason: str) -> NodeResult:
        self.events.append(f"~{name}")
        return NodeResult(NodeState.SKIPPED, reason=reason)


Step = Callable[[], Awaitable[NodeResult]]


async def go(
    links: Mapping[str, Link],
    steps: Mapping[str, Step] | None = None,
    *,
    recorder: Recorder | None = None,
    control: RunControl | None = None,
    done: Mapping[str, NodeResult] | None = None,
) -> Walked:
    """Walk through a graph; a step that is not given is the recorder's."""
    known, others = recorder or Recorder(), steps or {}

    async def run(name: str, results: Mapping[str, NodeResult]) -> NodeResult:
        return await others[name]() if name in others else await known.run(name, results)

    return await walk(GraphCourse(Graph(links)), done or {}, run, known.skip, control or RunControl())


async def test_walk_runs_independent_steps_side_by_side() -> None:
    recorder = Recorder()

    await go({"a": Link(), "b": Link(), "c": Link(hard=("a", "b"))}, recorder=recorder)

    assert recorder.most_at_once == 2
    assert recorder.events[-2:] == ["+c", "-c"]


async def test_walk_skips_what_needs_a_failed_step_and_says_why() -> None:
    recorder = Recorder({"a": BAD})

    walked = await go({"a": Link(), "b": Link(hard=("a",))}, recorder=recorder)

    assert walked.results["b"].reason == "'a' failed"
    assert recorder.events == ["+a", "-a", "~b"]


async def test_walk_goes_on_after_what_was_done_before() -> None:
    recorder = Recorder()

    walked = await go({"a": Link(), "b": Link(hard=("a",))}, recorder=recorder, done={"a": OK})

    assert recorder.events == ["+b", "-b"]
    assert list(walked.results) == ["a", "b"]


async def test_walk_gives_results_in_the_order_in_which_they_came() -> None:
    gate = asyncio.Event()

    async def slow() -> NodeResult:
        await gate.wait()
        return OK

    async def fast() -> NodeResult:
        gate.set()
        return OK

    walked = await go({"slow": Link(), "fast": Link()}, {"slow": slow, "fast": fast})

    assert list(walked.results) == ["fast", "slow"]


async def test_walk_cancels_what_runs_when_a_step_cannot_be_recorded() -> None:
    cancelled: list[str] = []

    async def bad() -> NodeResult:
        raise OSError("the journal is gone")

    async def slow() -> NodeResult:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append("slow")
            raise
        return OK

    with pytest.raises(OSError, match="the journal is gone"):
        await go({"slow": Link(), "bad": Link()}, {"slow": slow, "bad": bad})

    assert cancelled == ["slow"]


async def test_walk_ends_when_only_waiting_steps_are_left() -> None:
    recorder = Recorder({"gate": WAITS})

    walked = await go({"gate": Link(), "other": Link(), "after": Link(hard=("gate",))}, recorder=recorder)

    assert (walked.results, walked.waiting, walked.drained) == ({"other": OK}, {"gate": WAITS}, False)
    assert recorder.events.count("+gate") == 1


async def test_walk_looks_again_at_what_waits_after_a_nudge_while_others_run() -> None:
    control = RunControl()
    looked, decided, through = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def gate() -> NodeResult:
        looked.set()
        return OK if decided.is_set() else WAITS

    async def after() -> NodeResult:
        through.set()
        return OK

    async def long() -> NodeResult:
        await looked.wait()
        decided.set()
        control.nudge()
        await asyncio.wait_for(through.wait(), 30)
        return OK

    links = {"gate": Link(), "long": Link(), "after": Link(hard=("gate",))}
    walked = await go(links, {"gate": gate, "long": long, "after": after}, control=control)

    assert list(walked.results) == ["gate", "after", "long"]


async def test_walk_does_not_miss_a_nudge_that_comes_while_a_step_looks() -> None:
    control, decided, through = RunControl(), asyncio.Event(), asyncio.Event()

    async def gate() -> NodeResult:
        if decided.is_set():
            through.set()
            return OK
        decided.set()  # right after this step has looked
        control.nudge()
        await asyncio.sleep(0.01)
        return WAITS

    async def long() -> NodeResult:
        await asyncio.wait_for(through.wait(), 30)
        return OK

    walked = await go({"gate": Link(), "long": Link()}, {"gate": gate, "long": long}, control=control)

    assert set(walked.results) == {"gate", "long"}


async def test_walk_looks_again_after_a_nudge_that_comes_when_all_else_is_over() -> None:
    control, looks = RunControl(), 0

    async def gate() -> NodeResult:
        nonlocal looks
        looks += 1
        if looks == 1:
            asyncio.get_running_loop().call_soon(control.nudge)
        return WAITS if looks == 1 else OK

    walked = await go({"gate": Link()}, {"gate": gate}, control=control)

    assert walked.results == {"gate": OK}


async def test_drained_walk_starts_nothing_more_and_lets_the_rest_come_to_its_end() -> None:
    control = RunControl()
    recorder = Recorder()

    async def first() -> NodeResult:
        control.drain()
        await asyncio.sleep(0.01)
        return OK

    links = {"first": Link(), "after": Link(hard=("first",)), "never": Link(hard=("after",))}
    walked = await go(links, {"first": first}, recorder=recorder, control=control)

    assert walked == Walked({"first": OK}, {}, drained=True)
    assert recorder.events == []


async def test_drained_walk_starts_nothing_that_was_ready_before_it_recorded_what_is_skipped() -> None:
    control = RunControl()
    recorder = Recorder({"a": BAD})

    async def skip(name: str, reason: str) -> NodeResult:
        control.drain()
        return await Recorder.skip(recorder, name, reason)

    graph = Graph({"a": Link(), "b": Link(hard=("a",)), "c": Link(hard=("b",), run="always")})
    walked = await walk(GraphCourse(graph), {}, recorder.run, skip, control)

    assert list(walked.results) == ["a", "b"]
    assert walked.drained


async def test_drained_walk_with_nothing_left_is_over_or_waits() -> None:
    async def last() -> NodeResult:
        control.drain()
        await asyncio.sleep(0)
        return OK

    control = RunControl()
    assert not (await go({"last": Link()}, {"last": last}, control=control)).drained
    control = RunControl()
    recorder = Recorder({"gate": WAITS})
    walked = await go({"last": Link(), "gate": Link()}, {"last": last}, recorder=recorder, control=control)
    assert (walked.waiting, walked.drained) == ({"gate": WAITS}, False)


async def test_drained_walk_with_a_step_that_was_left_in_the_middle_is_left() -> None:
    control = RunControl()

    async def half() -> NodeResult:
        control.drain()
        return NodeResult(NodeState.PENDING)

    assert (await go({"half": Link()}, {"half": half}, control=control)).drained


async def test_cancelled_walk_cancels_its_steps_and_waits_for_them() -> None:
    control, cleaned = RunControl(), False

    async def careful() -> NodeResult:
        nonlocal cleaned
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned = True
        return OK

    async def carry() -> None:
        await go({"careful": Link()}, {"careful": careful}, control=control)

    task = asyncio.create_task(carry())
    control.attach(task)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    control.stop(Stop.CANCEL, by="ada")
    with pytest.raises(asyncio.CancelledError):
        await task

    assert cleaned
    assert (control.reason, control.by) == (Stop.CANCEL, "ada")


async def test_step_that_is_cancelled_before_it_began_leaves_nothing_behind() -> None:
    recorder = Recorder({"a": BAD})

    async def skip(name: str, reason: str) -> NodeResult:
        raise OSError(f"the journal is gone: {name}, {reason}")

    graph = Graph({"a": Link(), "b": Link(hard=("a",)), "c": Link(hard=("a",), run="always")})
    with pytest.raises(OSError, match="the journal is gone: b"):
        await walk(GraphCourse(graph), {}, recorder.run, skip, RunControl())

    gc.collect()  # a coroutine that was never awaited would be told here
    assert recorder.events == ["+a", "-a"]


async def test_step_that_ignores_its_cancellation_does_not_hold_the_walk_for_ever() -> None:
    begun, released, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def step() -> NodeResult:
        begun.set()
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        over.set()
        return OK

    task = asyncio.create_task(go({"step": Link()}, {"step": step}))
    await begun.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=30)
    was_over = over.is_set()
    released.set()
    await over.wait()

    assert task.cancelled()
    assert not was_over


async def test_step_that_waits_is_left_out_as_soon_as_its_course_says_so() -> None:
    recorder = Recorder({"0": WAITS, "1": BAD})

    walked = await walk(ItemCourse(["0", "1", "2"], 1, 1), {}, recorder.run, recorder.skip, RunControl())

    assert recorder.events == ["+0", "-0", "+1", "-1", "~0", "~2"]
    assert walked.waiting == {}


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw a graph whose nodes need only earlier ones."""
    count = draw(st.integers(1, 12))
    links: dict[str, Link] = {}
    for index in range(count):
        earlier = [f"n{other}" for other in range(index)]
        hard = draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []
        soft = (
            [name for name in draw(st.lists(st.sampled_from(earlier), unique=True)) if name not in hard]
            if earlier
            else []
        )
        links[f"n{index}"] = Link(tuple(hard), tuple(soft))
    return Graph(links)


@settings(derandomize=True, max_examples=200)
@given(graphs(), st.sets(st.integers(0, 11)))
def test_walk_runs_every_node_after_all_it_waits_for(graph: Graph, failing: set[int]) -> None:
    recorder = Recorder({f"n{index}": BAD for index in failing})

    results = asyncio.run(go(graph.links, recorder=recorder)).results

    assert set(results) == set(graph.links)
    position = {event: index for index, event in enumerate(recorder.events)}
    for name, link in graph.links.items():
        began = position.get(f"+{name}", position.get(f"~{name}"))
        assert began is not None
        for need in link.all:
            assert position.get(f"-{need}", position.get(f"~{need}", -1)) < began
        bad = any(results[need].state is not NodeState.SUCCEEDED for need in link.hard)
        assert (results[name].state is NodeState.SKIPPED) == bad
