from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.scheduler import NodeResult, walk
from penstock.store.states import NodeState
from penstock.workflow import Graph, Link

OK = NodeResult(NodeState.SUCCEEDED)


class Recorder:
    """Runs nodes by a plan and remembers what happened, in order."""

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


async def test_walk_runs_independent_nodes_side_by_side() -> None:
    recorder = Recorder()

    await walk(Graph({"a": Link(), "b": Link(), "c": Link(hard=("a", "b"))}), {}, recorder.run, recorder.skip)

    assert recorder.most_at_once == 2
    assert recorder.events[-2:] == ["+c", "-c"]


async def test_walk_skips_what_needs_a_failed_node_and_says_why() -> None:
    recorder = Recorder({"a": NodeResult(NodeState.FAILED)})

    results = await walk(Graph({"a": Link(), "b": Link(hard=("a",))}), {}, recorder.run, recorder.skip)

    assert results["b"].reason == "'a' failed"
    assert recorder.events == ["+a", "-a", "~b"]


async def test_walk_goes_on_after_what_was_done_before() -> None:
    recorder = Recorder()
    graph = Graph({"a": Link(), "b": Link(hard=("a",))})

    results = await walk(graph, {"a": OK}, recorder.run, recorder.skip)

    assert recorder.events == ["+b", "-b"]
    assert list(results) == ["a", "b"]


async def test_walk_cancels_what_runs_when_a_node_cannot_be_recorded() -> None:
    cancelled: list[str] = []

    async def run(name: str, results: Mapping[str, NodeResult]) -> NodeResult:
        del results
        if name == "bad":
            raise OSError("the journal is gone")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(name)
            raise
        return OK

    with pytest.raises(OSError, match="the journal is gone"):
        await walk(Graph({"slow": Link(), "bad": Link()}), {}, run, Recorder().skip)

    assert cancelled == ["slow"]


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
    recorder = Recorder({f"n{index}": NodeResult(NodeState.FAILED) for index in failing})

    results = asyncio.run(walk(graph, {}, recorder.run, recorder.skip))

    assert set(results) == set(graph.links)
    position = {event: index for index, event in enumerate(recorder.events)}
    for name, link in graph.links.items():
        began = position.get(f"+{name}", position.get(f"~{name}"))
        assert began is not None
        for need in link.all:
            assert position.get(f"-{need}", position.get(f"~{need}", -1)) < began
        bad = any(results[need].state is not NodeState.SUCCEEDED for need in link.hard)
        assert (results[name].state is NodeState.SKIPPED) == bad
