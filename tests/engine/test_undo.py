from __future__ import annotations

from typing import Any

import pytest

from engine.kit import How, Stage, Visit, cut_off, play
from engine.world import Fate, World, checked
from penstock.engine.undo import Undone
from penstock.store.states import NodeState, RunState
from penstock.workflow import CheckedWorkflow


def change(id_: str, *needs: str, **rest: Any) -> dict[str, Any]:
    """Write a node that changes something and is undone when the run fails."""
    return {"id": id_, "agent": "writer", "undo": "automatic", "needs": list(needs), **rest}


def items(count: int, concurrency: int = 1) -> dict[str, Any]:
    """Write what makes a node run once per item."""
    return {
        "foreach": {"in": [*range(count)], "as": "item", "concurrency": concurrency},
        "with": {"item": "{{ item }}"},
    }


CHAIN = checked([change("a"), change("b", "a", **items(3)), change("c", "b"), {"id": "bad", "needs": ["c"]}])


def stage_of(workflow: CheckedWorkflow, **fates: Fate) -> Stage:
    """Set up a run; `b_1` stands for the second item of `b`."""
    return Stage(workflow, World({_label(name): fate for name, fate in fates.items()}))


def run(workflow: CheckedWorkflow, **fates: Fate) -> tuple[Stage, Visit]:
    """Run a workflow to its end."""
    stage = stage_of(workflow, **fates)
    return stage, play(stage)


def _label(name: str) -> str:
    node_id, _, item = name.partition("_")
    return f"{node_id}[{item}]" if item else node_id


def state(stage: Stage, name: str) -> NodeState | None:
    node_id, _, item = name.partition("_")
    return stage.store.state(node_id, item)


def message(visit: Visit) -> str:
    assert visit.ending is not None
    return visit.ending.message


def test_changes_are_undone_in_reverse_order_items_included() -> None:
    stage, visit = run(CHAIN, bad=Fate("fail"))

    assert stage.world.units("undid") == ["c", "b[2]", "b[1]", "b[0]", "a"]
    assert message(visit) == "node 'bad' failed: it failed; undone: c, b[2], b[1], b[0], a"
    assert [visit.results[name].state.value for name in "abc"] == ["undone", "succeeded", "undone"]
    assert {state(stage, name) for name in ("a", "b_0", "b_1", "b_2", "c")} == {NodeState.UNDONE}


def test_changes_that_ended_side_by_side_are_undone_from_the_last_one() -> None:
    workflow = checked([change("a"), change("b"), change("c"), {"id": "bad", "needs": ["a", "b", "c"]}])

    stage, _ = run(workflow, bad=Fate("fail"))

    ends = [name for name, _ in stage.store.ends if name != "bad"]
    assert stage.world.units("undid") == ends[::-1]


def test_nothing_is_undone_when_the_run_succeeds() -> None:
    stage, visit = run(CHAIN)

    assert visit.ending is not None
    assert visit.ending.state is RunState.COMPLETED
    assert stage.world.units("undid") == []


def test_undo_is_for_whom_the_file_says_so() -> None:
    workflow = checked([{"id": "a", "agent": "writer"}, change("b"), {"id": "bad", "needs": ["a", "b"]}])

    stage, _ = run(workflow, bad=Fate("fail"))

    assert stage.world.units("undid") == ["b"]
    assert state(stage, "a") is NodeState.SUCCEEDED


def test_only_items_that_were_done_are_undone() -> None:
    workflow = checked([change("a", **items(4, concurrency=2))])

    stage, visit = run(workflow, a_1=Fate("fail"), a_2=Fate("crash"))

    assert stage.world.units("undid") == ["a[3]", "a[0]"]
    assert [state(stage, f"a_{number}") for number in range(4)] == [
        NodeState.UNDONE,
        NodeState.FAILED,
        NodeState.FAILED,
        NodeState.UNDONE,
    ]
    assert "undone: a[3], a[0]" in message(visit)


def test_list_without_items_has_nothing_to_undo() -> None:
    workflow = checked([change("a", **items(0)), {"id": "bad", "needs": ["a"]}])

    _, visit = run(workflow, bad=Fate("fail"))

    assert visit.undone == []
    assert message(visit) == "node 'bad' failed: it failed"


def test_list_that_could_not_be_made_has_nothing_to_undo() -> None:
    broken = {"foreach": {"in": "{{ inputs.any.hosts }}", "as": "item"}}
    workflow = checked([change("a", **broken), change("b")], inputs={"any": {"type": "object"}})
    stage = Stage(workflow, inputs={"any": {}})

    visit = play(stage)

    assert stage.store.state("a") is NodeState.FAILED
    assert visit.undone == [Undone("b")]


def test_change_whose_check_said_no_is_undone_and_stays_a_failure() -> None:
    workflow = checked([change("a", verify={"agent": "checker"})])

    stage, visit = run(workflow, a=Fate(confirmed=False))

    assert visit.ending is not None
    assert visit.ending.state is RunState.FAILED
    assert visit.results["a"].state is NodeState.UNDONE
    assert (stage.store.rows["a", ""].error or {})["code"] == "not_verified"


def test_change_that_failed_is_not_undone() -> None:
    stage, visit = run(checked([change("a")]), a=Fate("fail"))

    assert (stage.world.units("undid"), visit.undone) == ([], [])


def test_changes_are_undone_when_somebody_said_no_later() -> None:
    workflow = checked([change("a"), {"id": "b", "agent": "guarded", "needs": ["a"]}])

    stage, visit = run(workflow, b=Fate(gate="rejected"))

    assert visit.ending is not None
    assert visit.ending.state is RunState.REJECTED
    assert stage.world.units("undid") == ["a"]


def test_nothing_is_undone_when_a_change_was_cut_off() -> None:
    workflow = checked([change("a"), change("b", "a")])

    stage = cut_off(lambda: Stage(workflow), "after", lambda one: state(one, "b") is NodeState.RUNNING)
    visit = play(stage)

    assert visit.ending is not None
    assert visit.ending.state is RunState.INTERRUPTED
    assert visit.results["b"].state is NodeState.INTERRUPTED
    assert stage.world.units("undid") == []


def test_undo_that_fails_does_not_stop_the_others_and_is_told() -> None:
    stage, visit = run(CHAIN, bad=Fate("fail"), c=Fate(undo="fail"), b_1=Fate(undo="fail"))

    assert stage.world.units("undid") == ["b[2]", "b[0]", "a"]
    assert message(visit) == (
        "node 'bad' failed: it failed; undone: b[2], b[0], a"
        "; undo of c failed: it is stuck; undo of b[1] failed: it is stuck"
    )
    assert state(stage, "c") is NodeState.SUCCEEDED
    assert visit.results["c"].state is NodeState.SUCCEEDED
    assert state(stage, "b_1") is NodeState.SUCCEEDED


def test_undo_that_asks_for_one_more_try_gets_it() -> None:
    stage, visit = run(
        checked([change("a"), {"id": "bad", "needs": ["a"]}]), a=Fate(undo="flaky"), bad=Fate("fail")
    )

    assert stage.world.tries["undo", "a"] == 2
    assert visit.undone == [Undone("a")]


def test_undo_that_hangs_is_ended_by_the_timeout() -> None:
    workflow = checked([change("a", timeout="20ms"), {"id": "bad", "needs": ["a"]}])

    _, visit = run(workflow, a=Fate(undo="hang"), bad=Fate("fail"))

    assert visit.undone == [Undone("a", "took longer than its timeout of 0.02 s")]


def test_undo_is_a_task_that_comes_after_what_it_undoes() -> None:
    stage, _ = run(CHAIN, bad=Fate("fail"))

    made = stage.tasks.made
    undo = next(task for task in made.values() if task.name == "undo b[1]")
    assert [made[task_run_id].name for task_run_id in undo.upstream] == ["b[0]", "b[1]", "b[2]"]


@pytest.mark.parametrize("how", ["before", "after", "hiccup"])
def test_undo_that_could_not_be_recorded_is_no_failure_and_another_worker_goes_on(how: How) -> None:
    def make() -> Stage:
        return stage_of(CHAIN, bad=Fate("fail"))

    stage = cut_off(make, how, lambda one: "c" in one.world.units("undid"))
    assert stage.world.units("undid") == ["c"]

    visit = play(stage)

    once_more = [] if how == "after" else ["c"]
    assert stage.world.units("undid") == ["c", *once_more, "b[2]", "b[1]", "b[0]", "a"]
    assert state(stage, "c") is NodeState.UNDONE
    assert visit.ending is not None
    assert visit.ending.state is RunState.FAILED


def test_error_branch_is_undone_although_its_cause_was_undone_before() -> None:
    tidy = change("tidy", **{"with": {"note": "{{ error.node }}"}})
    look = change("look", run="always", **{"with": {"note": "{{ nodes.a.status }}"}})
    a = change("a", "first", verify={"agent": "checker"}, on_error="branch")
    workflow = checked([change("first"), a, look], branches={"branch": [tidy]})
    stuck = Fate(undo="fail")

    def make() -> Stage:
        return stage_of(workflow, a=Fate(confirmed=False), tidy=stuck, look=stuck)

    stage = cut_off(make, "hiccup", lambda one: state(one, "a") is NodeState.UNDONE)
    stage.world.healed = True
    visit = play(stage)

    assert visit.undone == [Undone("tidy"), Undone("look"), Undone("first")]
