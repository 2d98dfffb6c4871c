"""Single units and how they end: tries, timeouts, drains, cancels and cuts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.kit import Cut, Stage, cut_off, enter, play
from engine.world import CHILD, Does, Fate, World, checked
from penstock.engine.control import RunControl, Stop
from penstock.engine.nodes import NodeRunner, Past
from penstock.engine.resets import to_reset
from penstock.engine.scheduler import NodeResult
from penstock.store.states import NodeState, RunState


def stage_of(*nodes: dict[str, Any], **fates: Fate) -> Stage:
    """Set up a run of some nodes."""
    return Stage(checked(nodes), World(fates))


def error_of(stage: Stage, node_id: str) -> str:
    error = stage.store.rows[node_id, ""].error or {}
    return f"{error['code']}: {error['message']}"


async def begin(stage: Stage, control: RunControl) -> asyncio.Task[None]:
    """Have a worker take the run, until an agent is at work."""

    async def carry() -> None:
        await stage.visit(control)

    task = asyncio.create_task(carry())
    control.attach(task)
    await stage.world.at_work.wait()
    return task


@pytest.mark.parametrize(
    ("does", "agent", "attempts"),
    [
        ("stubborn", "reader", 3),
        ("stubborn", "writer", 3),
        ("cut_line", "reader", 3),
        ("cut_line", "steady", 3),
        ("cut_line", "writer", 1),
        ("crash", "reader", 1),
        ("fail", "reader", 1),
    ],
)
def test_tries(does: Does, agent: str, attempts: int) -> None:
    stage = stage_of({"id": "a", "agent": agent, "retry": {"max": 3}}, a=Fate(does))

    play(stage)

    assert len(stage.world.units("began")) == stage.store.rows["a", ""].attempt == attempts
    assert stage.store.spent == ([] if agent == "reader" else ["a"])


@pytest.mark.parametrize(("agent", "attempts"), [("reader", 2), ("writer", 1)])
def test_try_that_takes_too_long_is_ended(agent: str, attempts: int) -> None:
    node = {"id": "a", "agent": agent, "retry": {"max": 2}, "timeout": "20ms"}
    stage = stage_of(node, a=Fate("hang"))

    play(stage)

    assert error_of(stage, "a") == "node_timed_out: took longer than its timeout of 0.02 s"
    assert stage.store.rows["a", ""].attempt == attempts


@pytest.mark.parametrize("agent", ["reader", "writer"])
def test_worker_that_drains_does_not_take_tries_away(agent: str) -> None:
    stage = stage_of({"id": "a", "agent": agent}, {"id": "b", "needs": ["a"]}, a=Fate("flaky"))

    visit = enter(stage, Cut(_calls_before(stage, "a"), "drain"))

    assert visit is not None
    assert visit.walked.drained
    assert stage.store.state("a") is NodeState.SUCCEEDED
    assert stage.store.state("b") is None
    ending = play(stage).ending
    assert ending is not None
    assert ending.state is RunState.COMPLETED
    assert stage.world.units("did") == ["a", "b"]


def _calls_before(stage: Stage, label: str) -> int:
    """Give the number of the call that says a unit starts."""
    return 1 if stage.workflow.nodes[label].spec.agent == "reader" else 2


async def test_cancelled_run_ends_what_runs_calmly() -> None:
    stage, control = stage_of({"id": "a", "agent": "writer"}, a=Fate("hang")), RunControl()
    task = await begin(stage, control)

    control.stop(Stop.CANCEL, by="ada")
    with pytest.raises(asyncio.CancelledError):
        await task

    assert stage.store.state("a") is NodeState.CANCELLED
    assert stage.store.rows["a", ""].reason == "the run was cancelled"


@pytest.mark.parametrize("reason", [Stop.LEAVE, Stop.LOST])
@pytest.mark.parametrize(
    ("agent", "end", "run"),
    [
        ("reader", NodeState.SUCCEEDED, RunState.COMPLETED),
        ("steady", NodeState.SUCCEEDED, RunState.COMPLETED),
        ("writer", NodeState.INTERRUPTED, RunState.INTERRUPTED),
        ("guarded", NodeState.INTERRUPTED, RunState.INTERRUPTED),
    ],
)
async def test_worker_that_leaves_says_nothing_and_the_next_one_goes_on(
    reason: Stop, agent: str, end: NodeState, run: RunState
) -> None:
    stage, control = stage_of({"id": "a", "agent": agent}, a=Fate("hang")), RunControl()
    task = await begin(stage, control)
    control.stop(reason)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.store.state("a") is NodeState.RUNNING

    stage.world.healed = True
    visit = await stage.visit()

    assert stage.store.state("a") is end
    assert visit.ending is not None
    assert visit.ending.state is run


def test_change_that_was_cut_off_is_done_again_when_somebody_says_so() -> None:
    def is_begun(stage: Stage) -> bool:
        return stage.store.state("a") is NodeState.RUNNING

    stage = cut_off(lambda: stage_of({"id": "a", "agent": "writer"}), "before", is_begun)
    play(stage)
    assert error_of(stage, "a").startswith("node_interrupted: node 'a' was cut off while writer was changing")

    stage.reopen(to_reset(stage.workflow, stage.store.nodes()))
    play(stage)

    assert stage.store.state("a") is NodeState.SUCCEEDED
    assert stage.store.rows["a", ""].attempt == 2


def test_change_whose_check_was_cut_off_is_checked_and_not_done_again() -> None:
    def is_checked(stage: Stage) -> bool:
        return stage.store.state("a") is NodeState.VERIFYING

    node = {"id": "a", "agent": "writer", "verify": {"agent": "checker"}}
    stage = cut_off(lambda: stage_of(node), "before", is_checked)
    play(stage)

    assert stage.world.units("did") == ["a"]
    assert stage.world.units("checked") == ["a", "a"]
    assert stage.store.rows["a", ""].output == {"item": None, "note": ""}


def test_store_that_is_away_for_a_moment_fails_no_node() -> None:
    stage = Stage(checked([{"id": "a", "when": "{{ inputs.on }}"}], inputs={"on": {"type": "boolean"}}))
    stage.inputs = {"on": False}

    assert enter(stage, Cut(1, "hiccup")) is None
    assert stage.store.state("a") is None
    play(stage)

    assert stage.store.state("a") is NodeState.SKIPPED


def test_other_runs_take_places_and_are_never_left_out() -> None:
    node = {"id": "a", "workflow": CHILD, "foreach": {"in": [1, 2, 3], "as": "item", "concurrency": 2}}
    waits = Fate(gate="open")
    stage = stage_of(node, **{"a[0]": waits, "a[1]": waits, "a[2]": waits})

    play(stage)

    assert sorted(stage.world.units("began")) == ["a[0]", "a[1]"]


async def test_item_whose_run_an_earlier_worker_began_is_not_left_out() -> None:
    foreach = {"in": [1, 2, 3], "as": "item", "stop_after_failures": 1}
    stage = stage_of({"id": "a", "workflow": CHILD, "foreach": foreach}, **{"a[1]": Fate(gate="open")})
    failed = NodeResult(NodeState.FAILED, error={"code": "child_failed", "message": "it failed"})
    past = Past(items={"a": {"0": failed}}, waiting=frozenset({("a", "1")}))

    result = await NodeRunner(stage.kit(), past).run("a", {})

    assert result.state is NodeState.WAITING
    assert (stage.store.state("a", "1"), stage.store.state("a", "2")) == (
        NodeState.WAITING,
        NodeState.SKIPPED,
    )


@pytest.mark.parametrize(
    ("left", "end", "run"),
    [
        (NodeState.RUNNING, NodeState.INTERRUPTED, RunState.INTERRUPTED),
        (NodeState.VERIFYING, NodeState.UNDONE, RunState.FAILED),
    ],
)
def test_change_that_was_cut_off_is_told_although_enough_items_have_failed(
    left: NodeState, end: NodeState, run: RunState
) -> None:
    node = {
        "id": "a",
        "agent": "writer",
        "foreach": {"in": [1, 2, 3], "as": "item", "concurrency": 2, "stop_after_failures": 1},
        "verify": {"agent": "checker"},
        "undo": "automatic",
    }

    def make() -> Stage:
        return stage_of(node, **{"a[0]": Fate("fail")})

    def is_between(stage: Stage) -> bool:
        states = [stage.store.state("a", item) for item in "01"]
        return states == [NodeState.FAILED, left]

    stage = cut_off(make, "after", is_between)
    visit = play(stage)

    states = [stage.store.state("a", item) for item in "012"]
    assert states == [NodeState.FAILED, end, NodeState.SKIPPED]
    assert visit.ending is not None
    assert visit.ending.state is run


def test_nobody_is_asked_about_an_item_that_will_not_run() -> None:
    foreach = {"in": [1, 2, 3], "as": "item", "stop_after_failures": 1}
    fates = {"a[0]": Fate(gate="open"), "a[1]": Fate("fail")}
    stage = stage_of({"id": "a", "agent": "guarded", "foreach": foreach}, **fates)

    visit = play(stage)

    states = [stage.store.state("a", item) for item in "012"]
    assert states == [NodeState.SKIPPED, NodeState.FAILED, NodeState.SKIPPED]
    assert visit.ending is not None
