from __future__ import annotations

import math
from uuid import UUID, uuid4

import pytest

from penstock.errors import NotFound, StoreError
from penstock.store.database import Database
from penstock.store.nodes import Node, NodeChange, finish_node, nodes_of, skip_node, start_node, write_nodes
from penstock.store.runs import events_of, finish_run, reopen_run
from penstock.store.states import NodeState, RunState
from penstock.store.workflows import Revision
from store.entering import enter

S = NodeState


@pytest.fixture
async def run_id(database: Database, revision: Revision) -> UUID:
    return (await enter(database, revision)).run.id


async def scan_of(database: Database, run_id: UUID) -> Node:
    (node,) = await nodes_of(database, run_id)
    return node


async def node_events(database: Database, run_id: UUID) -> list[str]:
    return [event.type for event in await events_of(database, run_id) if event.node_id]


async def test_node_starts_and_ends_with_its_output(database: Database, run_id: UUID) -> None:
    task = uuid4()
    assert await start_node(database, run_id, "scan", attempt=1, task_run_id=task)
    assert await finish_node(database, run_id, "scan", S.SUCCEEDED, attempt=1, output={"raw": "a\x00b"})

    node = await scan_of(database, run_id)
    assert (node.state, node.attempt, node.output, node.task_run_id) == (
        S.SUCCEEDED,
        1,
        {"raw": "a\x00b"},
        task,
    )
    assert node.started_at is not None
    assert node.ended_at is not None
    assert node.started_at < node.ended_at
    assert await node_events(database, run_id) == ["node.running", "node.succeeded"]


async def test_node_may_end_without_a_start(database: Database, run_id: UUID) -> None:
    assert await finish_node(database, run_id, "scan", S.SUCCEEDED, attempt=1, output_ref="results/1")

    assert (await scan_of(database, run_id)).output_ref == "results/1"


async def test_repeated_writes_count_once(database: Database, run_id: UUID) -> None:
    task = uuid4()
    for _ in range(2):
        assert await start_node(database, run_id, "scan", attempt=1, task_run_id=task)
    for _ in range(2):
        assert await finish_node(database, run_id, "scan", S.SUCCEEDED, attempt=1, output={"n": 1})

    assert await node_events(database, run_id) == ["node.running", "node.succeeded"]


async def test_same_attempt_of_another_worker_is_refused(database: Database, run_id: UUID) -> None:
    await start_node(database, run_id, "scan", attempt=1, task_run_id=uuid4())

    assert not await start_node(database, run_id, "scan", attempt=1, task_run_id=uuid4())


async def test_success_is_never_run_again(database: Database, run_id: UUID) -> None:
    await finish_node(database, run_id, "scan", S.SUCCEEDED, attempt=1, output={"n": 1})

    assert not await start_node(database, run_id, "scan", attempt=2)
    assert not await finish_node(database, run_id, "scan", S.FAILED, attempt=2)
    assert not await skip_node(database, run_id, "scan", reason="late")
    assert (await scan_of(database, run_id)).output == {"n": 1}


async def test_late_write_of_an_older_attempt_is_refused(database: Database, run_id: UUID) -> None:
    await start_node(database, run_id, "scan", attempt=1)
    await start_node(database, run_id, "scan", attempt=2)

    assert not await finish_node(database, run_id, "scan", S.SUCCEEDED, attempt=1, output={"n": 1})
    assert not await start_node(database, run_id, "scan", attempt=1)

    node = await scan_of(database, run_id)
    assert (node.state, node.attempt, node.output) == (S.RUNNING, 2, None)


@pytest.mark.parametrize("state", [S.SUCCEEDED, S.CANCELLED, S.RUNNING])
async def test_ended_attempt_stays_as_it_ended(database: Database, run_id: UUID, state: NodeState) -> None:
    await finish_node(database, run_id, "scan", S.FAILED, attempt=1, error={"code": "x"})

    assert await write_nodes(database, run_id, [NodeChange("scan", state, 1)]) == frozenset()
    assert (await scan_of(database, run_id)).error == {"code": "x"}


async def test_failed_node_may_be_tried_again(database: Database, run_id: UUID) -> None:
    await finish_node(database, run_id, "scan", S.FAILED, attempt=1, error={"code": "x"})

    assert await start_node(database, run_id, "scan", attempt=2)
    assert (await scan_of(database, run_id)).error is None


async def test_skipped_node_may_run_later(database: Database, run_id: UUID) -> None:
    assert await skip_node(database, run_id, "scan", reason="scan failed")
    assert (await scan_of(database, run_id)).started_at is None

    assert await start_node(database, run_id, "scan", attempt=1)


async def test_waiting_node_runs_or_is_rejected(database: Database, run_id: UUID) -> None:
    await write_nodes(
        database,
        run_id,
        [NodeChange("apply", S.WAITING_APPROVAL, 1), NodeChange("deploy", S.WAITING_APPROVAL, 1)],
    )

    assert await start_node(database, run_id, "apply", attempt=1)
    assert await finish_node(database, run_id, "deploy", S.REJECTED, attempt=1, reason="not today")
    assert [node.state for node in await nodes_of(database, run_id)] == [S.RUNNING, S.REJECTED]


async def test_undone_node_keeps_its_output(database: Database, run_id: UUID) -> None:
    await finish_node(database, run_id, "scan", S.SUCCEEDED, attempt=1, output={"n": 1})
    for _ in range(2):
        assert await finish_node(database, run_id, "scan", S.UNDONE, attempt=1)

    node = await scan_of(database, run_id)
    assert (node.state, node.output) == (S.UNDONE, {"n": 1})


ENDS = {S.SUCCEEDED, S.FAILED, S.SKIPPED, S.REJECTED, S.WITHDRAWN, S.CANCELLED}
IDLE = {S.PENDING, S.WAITING_APPROVAL, S.WAITING}
AGAIN = {S.FAILED, S.SKIPPED, S.REJECTED, S.WITHDRAWN, S.CANCELLED, S.INTERRUPTED}
"""States after which a node may be tried again."""

SAME_ATTEMPT = {
    **{state: {S.RUNNING, S.VERIFYING, *ENDS, *IDLE} - {state} for state in IDLE},
    S.RUNNING: {S.WAITING_APPROVAL, S.WAITING, S.VERIFYING, *ENDS, S.INTERRUPTED, S.UNDONE},
    S.VERIFYING: {*ENDS, S.INTERRUPTED, S.UNDONE},
    S.SUCCEEDED: {S.UNDONE},
    S.FAILED: {S.UNDONE},
    S.INTERRUPTED: {S.UNDONE},
}
NEWER_ATTEMPT = {state: {S.RUNNING, S.VERIFYING, *ENDS, *IDLE} for state in {*AGAIN, *IDLE, S.RUNNING}}


async def reach(database: Database, run_id: UUID, state: NodeState) -> None:
    """Bring the node `scan` into a state, in attempt 1."""
    before = {S.INTERRUPTED: S.RUNNING, S.UNDONE: S.SUCCEEDED}.get(state)
    for step in (before, state) if before else (state,):
        assert await write_nodes(database, run_id, [NodeChange("scan", step, 1)])


@pytest.mark.parametrize("state", S)
@pytest.mark.parametrize(
    ("attempt", "followers"), [(0, {}), (1, SAME_ATTEMPT), (2, NEWER_ATTEMPT)], ids=["older", "same", "newer"]
)
async def test_only_these_states_follow(
    database: Database,
    revision: Revision,
    state: NodeState,
    attempt: int,
    followers: dict[NodeState, set[NodeState]],
) -> None:
    found: set[NodeState] = set()
    for follower in set(S) - ({state} if attempt == 1 else set()):
        run_id = (await enter(database, revision)).run.id
        await reach(database, run_id, state)
        if await write_nodes(database, run_id, [NodeChange("scan", follower, attempt)]):
            found.add(follower)

    assert found == followers.get(state, set())


async def test_verified_node_keeps_the_output_it_has(database: Database, run_id: UUID) -> None:
    for node_id in ("good", "bad", "new"):
        await start_node(database, run_id, node_id, attempt=1)
        await write_nodes(database, run_id, [NodeChange(node_id, S.VERIFYING, 1, output={"n": 1})])
    for _ in range(2):
        assert await finish_node(database, run_id, "good", S.SUCCEEDED, attempt=1, output={"n": 1})
        assert await finish_node(database, run_id, "bad", S.FAILED, attempt=1, error={"code": "x"})
        assert await finish_node(database, run_id, "new", S.SUCCEEDED, attempt=1, output={"n": 2})

    nodes = {node.node_id: (node.state, node.output) for node in await nodes_of(database, run_id)}
    assert nodes == {
        "good": (S.SUCCEEDED, {"n": 1}),
        "bad": (S.FAILED, {"n": 1}),
        "new": (S.SUCCEEDED, {"n": 2}),
    }
    assert await finish_node(database, run_id, "bad", S.UNDONE, attempt=1)


async def test_node_that_was_reset_runs_again(database: Database, run_id: UUID) -> None:
    await finish_node(database, run_id, "scan", S.SUCCEEDED, attempt=1, output={"n": 1})
    await finish_node(database, run_id, "scan", S.UNDONE, attempt=1)
    assert not await start_node(database, run_id, "scan", attempt=2)
    await finish_run(database, run_id, RunState.FAILED)
    await reopen_run(database, run_id, reset=[("scan", "")])

    assert await start_node(database, run_id, "scan", attempt=2)
    assert (await scan_of(database, run_id)).output is None


async def test_items_of_a_node_are_apart(database: Database, run_id: UUID) -> None:
    written = await write_nodes(
        database,
        run_id,
        [NodeChange("host", S.SUCCEEDED, 1, item=key, output=key) for key in ("b", "a")],
    )

    assert written == {("host", "a"), ("host", "b")}
    assert [(node.item, node.output) for node in await nodes_of(database, run_id)] == [("a", "a"), ("b", "b")]


async def test_write_nodes_tells_what_stands(database: Database, run_id: UUID) -> None:
    await finish_node(database, run_id, "a", S.SUCCEEDED, attempt=1)
    await skip_node(database, run_id, "b", reason="not wanted")

    written = await write_nodes(
        database,
        run_id,
        [
            NodeChange("a", S.RUNNING, 2),
            NodeChange("b", S.SKIPPED, reason="not wanted"),
            NodeChange("c", S.RUNNING, 1),
        ],
    )

    assert written == {("b", ""), ("c", "")}


async def test_write_nodes_of_nothing_writes_nothing(database: Database, run_id: UUID) -> None:
    assert await write_nodes(database, run_id, []) == frozenset()


async def test_write_nodes_refuses_two_changes_of_one_node(database: Database, run_id: UUID) -> None:
    with pytest.raises(StoreError, match="at once"):
        await write_nodes(database, run_id, [NodeChange("a", S.RUNNING, 1), NodeChange("a", S.FAILED, 1)])


async def test_output_that_is_no_json_leaves_the_node_as_it_was(database: Database, run_id: UUID) -> None:
    await start_node(database, run_id, "scan", attempt=1)

    with pytest.raises(StoreError, match="score is nan"):
        await finish_node(database, run_id, "scan", S.SUCCEEDED, attempt=1, output={"score": math.nan})
    assert (await scan_of(database, run_id)).state is S.RUNNING


async def test_finish_node_wants_a_state_that_ends(database: Database, run_id: UUID) -> None:
    with pytest.raises(StoreError, match="does not end"):
        await finish_node(database, run_id, "scan", S.RUNNING, attempt=1)


async def test_node_of_an_unknown_run_is_not_found(database: Database) -> None:
    with pytest.raises(NotFound):
        await start_node(database, uuid4(), "scan", attempt=1)
