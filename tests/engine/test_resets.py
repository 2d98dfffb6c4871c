from __future__ import annotations

from uuid import UUID

import pytest

from engine.kit import Stage, play
from engine.world import Fate, World, checked
from penstock.engine.resets import to_reset
from penstock.errors import InputInvalid
from penstock.store.nodes import Node
from penstock.store.states import NodeState, RunState

WORKFLOW = checked(
    [
        {"id": "scan"},
        {"id": "patch", "needs": ["scan"], "on_error": "tidy", "agent": "writer", "undo": "automatic"},
        {"id": "hosts", "foreach": {"in": [1, 2, 3], "as": "host"}, "agent": "writer", "undo": "automatic"},
        {"id": "tell", "with": {"note": "{{ nodes.hosts.status }}"}},
        {"id": "last", "needs": ["patch"], "run": "always"},
        {"id": "alone"},
    ],
    branches={"tidy": [{"id": "sweep"}, {"id": "report", "needs": ["sweep"]}]},
)


def row(key: str, state: NodeState) -> Node:
    node_id, _, item = key.partition("/")
    return Node(
        run_id=UUID(int=1),
        node_id=node_id,
        item=item,
        state=state,
        attempt=1,
        output=None,
        output_ref=None,
        error=None,
        reason=None,
        task_run_id=None,
        started_at=None,
        ended_at=None,
    )


MAIN = ("scan", "patch", "hosts", "hosts/0", "hosts/1", "hosts/2", "tell", "last", "alone")
BRANCH = ("sweep", "report")


def reset(*, start: str | None = None, branch: bool = False, **states: NodeState) -> set[str]:
    """Say what runs again when everything but some nodes has succeeded; `hosts_1` is an item."""
    rows = [
        row(name, states.get(name.replace("/", "_"), NodeState.SUCCEEDED))
        for name in (*MAIN, *(BRANCH if branch else ()))
    ]
    found = to_reset(WORKFLOW, rows, start=start)
    return {f"{node_id}/{item}" if item else node_id for node_id, item in found}


BAD = NodeState.FAILED
HOSTS = {"hosts", "hosts/0", "hosts/1", "hosts/2"}


def test_nothing_runs_again_when_all_has_succeeded() -> None:
    assert reset() == set()


@pytest.mark.parametrize("state", [state for state in NodeState if state is not NodeState.SUCCEEDED])
def test_whatever_did_not_succeed_runs_again(state: NodeState) -> None:
    assert reset(alone=state) == {"alone"}


def test_what_comes_after_runs_again_too() -> None:
    assert reset(patch=BAD) == {"patch", "last"}
    assert reset(scan=BAD) == {"scan", "patch", "last"}


def test_items_that_succeeded_stay_when_others_run_again() -> None:
    assert reset(hosts=BAD, hosts_1=BAD) == {"hosts", "hosts/1", "tell"}


def test_node_runs_again_when_an_item_of_it_was_undone() -> None:
    assert reset(hosts_0=NodeState.UNDONE, alone=BAD) == {"hosts", "hosts/0", "tell", "alone"}


def test_node_that_only_looks_at_another_one_comes_after_it() -> None:
    assert reset(hosts=NodeState.INTERRUPTED, hosts_2=NodeState.INTERRUPTED) == {"hosts", "hosts/2", "tell"}


def test_error_branch_comes_after_what_failed_into_it() -> None:
    assert reset(patch=BAD, branch=True) == {"patch", "last", "sweep", "report"}
    assert reset(report=BAD, branch=True) == {"report"}


def test_start_takes_a_node_and_all_after_it_whatever_their_state() -> None:
    assert reset(start="hosts") == {*HOSTS, "tell"}
    assert reset(start="scan", alone=BAD) == {"scan", "patch", "last"}
    assert reset(start="patch", branch=True) == {"patch", "last", "sweep", "report"}


def test_unknown_start_is_refused_with_what_there_is() -> None:
    with pytest.raises(InputInvalid, match="no node 'scna'; its nodes are scan, patch, hosts"):
        to_reset(WORKFLOW, [], start="scna")


def test_undone_items_are_done_again_when_the_run_is_tried_again() -> None:
    stage = Stage(WORKFLOW, World({"last": Fate("fail")}))
    assert play(stage).ending is not None
    assert set(stage.world.units("undid")) == {"patch", "hosts[0]", "hosts[1]", "hosts[2]"}

    stage.reopen(to_reset(WORKFLOW, stage.store.nodes()))
    stage.world.healed, stage.world.log = True, []
    ending = play(stage).ending

    assert ending is not None
    assert ending.state is RunState.COMPLETED
    assert set(stage.world.units("did")) == {"patch", "last", "hosts[0]", "hosts[1]", "hosts[2]", "tell"}
