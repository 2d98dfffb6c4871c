from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from engine.world import checked
from penstock.engine.courses import ItemCourse, NodeCourse
from penstock.engine.scheduler import NodeResult
from penstock.store.states import NodeState

OK = NodeResult(NodeState.SUCCEEDED)
BAD = NodeResult(NodeState.FAILED, error={"code": "agent_failed", "message": "it failed"})
TOLERATED = NodeResult(NodeState.FAILED, tolerated=True)
REJECTED = NodeResult(NodeState.REJECTED)
INTERRUPTED = NodeResult(NodeState.INTERRUPTED)
SKIPPED = NodeResult(NodeState.SKIPPED)
WHY = "{} items have failed"


@pytest.mark.parametrize(
    ("course", "ended", "running", "waiting", "start"),
    [
        pytest.param(ItemCourse("abc", 1, None), {}, "", "", "a", id="the first"),
        pytest.param(ItemCourse("abc", 2, None), {}, "", "", "ab", id="as many as there are places"),
        pytest.param(ItemCourse("abc", 9, None), {}, "", "", "abc", id="all"),
        pytest.param(ItemCourse("abc", 2, None), {}, "a", "", "b", id="one place is taken"),
        pytest.param(ItemCourse("abc", 1, None), {"a": BAD}, "", "", "b", id="a failure stops nobody"),
        pytest.param(ItemCourse("abc", 1, None), {}, "a", "", "", id="no place"),
        pytest.param(ItemCourse("abc", 1, None), {}, "", "a", "b", id="who waits for people takes no place"),
        pytest.param(ItemCourse("abc", 1, None, "a"), {}, "", "a", "", id="another run takes one"),
        pytest.param(ItemCourse("abc", 2, None, "a"), {}, "", "a", "b", id="another run takes one of two"),
        pytest.param(
            ItemCourse("abc", 1, None, "ab"), {}, "", "ab", "", id="more were begun than there are places"
        ),
        pytest.param(ItemCourse("abc", 2, None, "ab"), {}, "", "", "ab", id="what was begun goes on"),
        pytest.param(ItemCourse("abc", 1, 2), {"a": BAD}, "", "", "b", id="too few failures to stop"),
        pytest.param(ItemCourse("", 1, 1), {}, "", "", "", id="no items"),
    ],
)
def test_items_start_in_order_while_there_are_places(
    course: ItemCourse, ended: Mapping[str, NodeResult], running: str, waiting: str, start: str
) -> None:
    ready = course.ready(ended, running=running, waiting=waiting)

    assert (list(ready.start), ready.skip) == ([*start], {})


@pytest.mark.parametrize("failure", [BAD, TOLERATED, REJECTED, INTERRUPTED])
def test_items_are_left_out_after_enough_failures_of_any_kind(failure: NodeResult) -> None:
    course = ItemCourse("abcd", 2, 2)

    ready = course.ready({"a": failure, "b": OK, "c": failure}, running="", waiting="")

    assert (ready.start, ready.skip) == ((), {"d": WHY.format(2)})


@pytest.mark.parametrize(
    ("running", "waiting", "begun", "start", "skip"),
    [
        pytest.param("", "", "", "", "bcd", id="all that is left"),
        pytest.param("b", "", "", "", "cd", id="not what runs"),
        pytest.param("", "b", "", "", "bcd", id="also what waits for people: nobody need decide"),
        pytest.param("", "b", "b", "", "cd", id="not what waits for another run"),
        pytest.param("", "", "c", "c", "bd", id="not what an earlier worker began"),
        pytest.param("b", "", "c", "", "d", id="what was begun waits for a place"),
    ],
)
def test_items_that_are_left_out(
    running: Collection[str], waiting: Collection[str], begun: str, start: str, skip: str
) -> None:
    ready = ItemCourse("abcd", 1, 1, begun).ready({"a": BAD}, running=running, waiting=waiting)

    assert (list(ready.start), ready.skip) == ([*start], dict.fromkeys(skip, WHY.format(1)))


def test_skipped_items_are_no_failures() -> None:
    assert ItemCourse("ab", 1, 1).ready({"a": SKIPPED}, running="", waiting="").start == ("b",)


WORKFLOW = checked(
    [
        {"id": "scan", "on_error": "tidy"},
        {"id": "patch", "on_error": "tidy"},
        {"id": "tell", "on_error": "mourn", "needs": ["scan"]},
        {"id": "last", "needs": ["tell"], "run": "always"},
    ],
    branches={
        "tidy": [{"id": "sweep"}, {"id": "report", "needs": ["sweep"]}],
        "mourn": [{"id": "weep"}],
    },
)
COURSE = NodeCourse(WORKFLOW)


def ready(**ended: NodeResult) -> tuple[set[str], set[str]]:
    found = COURSE.ready(ended, running=(), waiting=())
    return set(found.start), set(found.skip)


def test_error_branch_joins_when_a_node_has_failed_into_it() -> None:
    assert ready() == ({"scan", "patch"}, set())
    assert ready(scan=OK, patch=OK) == ({"tell"}, set())
    assert ready(scan=BAD) == ({"patch", "sweep"}, {"tell"})
    assert ready(scan=OK, patch=BAD, sweep=OK) == ({"tell", "report"}, set())
    assert ready(scan=OK, patch=OK, tell=BAD) == ({"last", "weep"}, set())


@pytest.mark.parametrize("result", [OK, SKIPPED, REJECTED, INTERRUPTED])
def test_error_branch_is_for_failures_alone(result: NodeResult) -> None:
    assert COURSE.causes({"scan": result}) == {}


def test_node_that_runs_or_waits_is_not_started_again() -> None:
    found = COURSE.ready({"scan": BAD}, running={"patch"}, waiting={"sweep"})

    assert found.start == ()


def test_cause_of_an_error_branch_is_who_failed_first() -> None:
    other = NodeResult(NodeState.FAILED, error={"code": "node_timed_out", "message": "too slow"})

    assert COURSE.causes({"patch": other, "scan": BAD, "tell": BAD}) == {"tidy": "patch", "mourn": "tell"}
    assert COURSE.error("report", {"patch": other, "scan": BAD}) == {
        "node": "patch",
        "message": "too slow",
        "code": "node_timed_out",
    }
    assert COURSE.error("weep", {"tell": NodeResult(NodeState.FAILED)}) == {
        "node": "tell",
        "message": "",
        "code": "",
    }
    assert COURSE.error("last", {"tell": BAD}) is None


def test_cause_stays_the_cause_when_its_change_was_undone() -> None:
    undone = NodeResult(NodeState.UNDONE, output={}, error=BAD.error)

    assert COURSE.causes({"scan": undone}) == {"tidy": "scan"}
    assert COURSE.causes({"scan": NodeResult(NodeState.UNDONE, output={})}) == {}


def test_results_are_sorted_as_the_file_has_the_nodes() -> None:
    mixed: list[str] = ["weep", "last", "report", "sweep", "scan", "patch"]

    assert list(COURSE.in_order(dict.fromkeys(mixed, OK))) == [
        "scan",
        "patch",
        "last",
        "sweep",
        "report",
        "weep",
    ]
