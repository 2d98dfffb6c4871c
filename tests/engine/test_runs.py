"""Whole runs on a real Prefect server, a real PostgreSQL and a real worker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId

from engine.flows import node, workflow
from penstock.errors import InputInvalid, NotFound, SpecError
from support.stack import MASKED

pytestmark = pytest.mark.integration


async def run(services: Any, file: str, /, **inputs: Any) -> dict[str, Any]:
    applied = await services.apply(file, file="test.yaml", by="test")
    started = await services.start(applied.name, inputs)
    async for _ in services.follow(started.run_id):
        pass
    return await services.show(started.run_id)


def states(shown: dict[str, Any]) -> dict[str, str]:
    return {name: item["state"] for name, item in shown["nodes"].items()}


async def task_runs(services: Any, shown: dict[str, Any]) -> dict[str, Any]:
    """Read a run's task runs as soon as Prefect has recorded all of them as ended."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(shown["run_id"])]))
    for _ in range(100):
        found = await services.client.read_task_runs(flow_run_filter=wanted)
        if len(found) >= len(shown["nodes"]) and all(item.state.is_final() for item in found):
            return {item.name: item for item in found}
        await asyncio.sleep(0.1)
    raise AssertionError("Prefect did not record the task runs")


async def prefect_state(services: Any, shown: dict[str, Any]) -> Any:
    """Give the run's state in Prefect, which hears of an end a moment after the store."""
    for _ in range(100):
        flow_run = await services.client.read_flow_run(UUID(shown["run_id"]))
        if flow_run.state.is_final():
            return flow_run.state
        await asyncio.sleep(0.05)
    raise AssertionError("Prefect was not told how the run ended")


async def test_run_passes_outputs_along_and_gives_typed_outputs(services: Any) -> None:
    text = workflow(
        [
            node("first", inputs={"text": "{{ inputs.who }}", "number": "{{ inputs.count }}"}),
            node("second", inputs={"text": "hello {{ nodes.first.output.text }}"}),
        ],
        inputs={"who": {"type": "string"}, "count": {"type": "integer", "default": 7}},
        outputs={"said": "{{ nodes.second.output.text }}", "count": "{{ nodes.first.output.number }}"},
    )

    shown = await run(services, text, who="world")

    assert shown["state"] == "completed"
    assert shown["outputs"] == {"said": "hello world", "count": 7}
    assert states(shown) == {"first": "succeeded", "second": "succeeded"}


async def test_run_shows_in_prefect_with_named_nodes_and_edges(services: Any) -> None:
    text = workflow([node("a"), node("b", needs=["a"]), node("c", needs=["a"]), node("d", needs=["b", "c"])])

    shown = await run(services, text)
    found = await task_runs(services, shown)

    edges = {name: {str(item.id) for item in one.task_inputs["wait_for"]} for name, one in found.items()}
    ids = {name: str(one.id) for name, one in found.items()}
    assert edges == {
        "a": set(),
        "b": {ids["a"]},
        "c": {ids["a"]},
        "d": {ids["b"], ids["c"]},
    }
    state = await prefect_state(services, shown)
    assert (state.name, state.message) == ("Completed", "4 succeeded")


async def test_node_with_false_condition_is_skipped_and_its_dependents_too(services: Any) -> None:
    text = workflow(
        [
            node("a", inputs={"number": 1}),
            node("b", when="{{ nodes.a.output.number > 1 }}"),
            node("c", needs=["b"]),
            node("d", needs=["c"], run="always"),
        ]
    )

    shown = await run(services, text)

    assert shown["state"] == "completed"
    assert states(shown) == {"a": "succeeded", "b": "skipped", "c": "skipped", "d": "succeeded"}
    assert shown["nodes"]["b"]["reason"] == "its condition is false"
    found = await task_runs(services, shown)
    assert found["c"].state.name == "Skipped"


async def test_node_is_retried_when_it_says_so(services: Any) -> None:
    retry = {"max": 3, "base": "10ms"}
    text = workflow([node("a", "flaky", retry=retry, inputs={"failures": 2})])

    shown = await run(services, text)

    assert shown["state"] == "completed"
    assert shown["nodes"]["a"]["attempts"] == 3


async def test_node_that_exhausts_its_retries_fails_the_run(services: Any) -> None:
    retry = {"max": 2, "base": "10ms"}
    text = workflow([node("a", "flaky", retry=retry, inputs={"failures": 5}), node("b", needs=["a"])])

    shown = await run(services, text)

    assert shown["state"] == "failed"
    assert shown["message"] == "node 'a' failed: attempt 2 failed"
    assert states(shown) == {"a": "failed", "b": "skipped"}
    assert shown["nodes"]["a"]["attempts"] == 2


async def test_failure_that_is_final_is_not_retried(services: Any) -> None:
    text = workflow([node("a", "fail", inputs={"text": "no use"})])

    shown = await run(services, text)

    assert shown["nodes"]["a"]["attempts"] == 1
    assert shown["nodes"]["a"]["error"]["message"] == "no use"


async def test_failed_branch_does_not_stop_another(services: Any) -> None:
    text = workflow(
        [
            node("bad", "fail"),
            node("good"),
            node("tell", needs=["bad", "good"], run="always"),
            node("mourn", needs=["bad"], run="on_failure"),
        ]
    )

    shown = await run(services, text)

    assert shown["state"] == "failed"
    assert states(shown) == {"bad": "failed", "good": "succeeded", "tell": "succeeded", "mourn": "succeeded"}


async def test_tolerated_failure_lets_dependents_run(services: Any) -> None:
    text = workflow([node("bad", "fail", on_error="continue"), node("after", needs=["bad"])])

    shown = await run(services, text)

    assert shown["state"] == "completed"
    assert states(shown) == {"bad": "failed", "after": "succeeded"}


async def test_node_that_hangs_is_ended_by_its_timeout(services: Any) -> None:
    text = workflow([node("a", "hang", timeout="300ms", retry={"max": 1})])

    shown = await run(services, text)

    assert shown["nodes"]["a"]["error"]["code"] == "node_timed_out"
    assert (await task_runs(services, shown))["a"].state.name == "TimedOut"


async def test_run_that_takes_too_long_is_ended_by_its_timeout(services: Any) -> None:
    text = workflow([node("a", "hang")], timeout="500ms")

    shown = await run(services, text)

    assert shown["state"] == "failed"
    assert shown["error"]["code"] == "run_timed_out"


async def test_agent_that_blocks_and_forks_is_killed_with_its_children(services: Any) -> None:
    text = workflow([node("a", "block-in-process", timeout="4s", retry={"max": 1})])

    shown = await run(services, text)

    assert shown["nodes"]["a"]["error"]["code"] == "node_timed_out"
    left = [
        one
        for one in psutil.process_iter(["cmdline"])
        if "penstock.engine.child" in (one.info["cmdline"] or [])
    ]
    assert left == []


async def test_agent_in_a_process_gives_its_output_whatever_it_prints(services: Any) -> None:
    text = workflow([node("a", "block-in-process", inputs={"seconds": 0.01})])

    shown = await run(services, text)

    assert shown["state"] == "completed", shown
    assert int(shown["nodes"]["a"]["output"]["text"]) > 0


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("wrong_output", "output_invalid", "text: Field required"),
        ("mute", "output_invalid", "misbehave"),
        ("large_output", "output_invalid", "the limit is 10,485,760"),
        ("unpicklable", "agent_crashed", "Unpicklable: its message cannot be read"),
    ],
)
async def test_agent_that_breaks_its_contract_fails_its_node(
    services: Any, how: str, code: str, words: str
) -> None:
    text = workflow([node("a", "misbehave", inputs={"how": how})])

    shown = await run(services, text)

    error = shown["nodes"]["a"]["error"]
    assert error["code"] == code
    assert words in error["message"]
    assert shown["state"] == "failed"


async def test_large_output_is_stored_and_found_again(services: Any) -> None:
    text = workflow(
        [
            node("a", inputs={"text": "{{ inputs.text }}"}),
            node("b", inputs={"text": "{{ nodes.a.output.text }}"}),
        ],
        inputs={"text": {"type": "string"}},
    )

    shown = await run(services, text, text="y" * 400_000)

    assert shown["state"] == "completed", shown["message"]
    assert shown["nodes"]["b"]["output"]["text"] == "y" * 400_000


async def test_log_of_an_agent_is_in_the_runs_log_without_secrets(services: Any) -> None:
    shown = await run(services, workflow([node("a", inputs={"text": f"found {MASKED}"})]))

    mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(shown["run_id"])]))
    messages: list[str] = []
    for _ in range(100):
        messages = [line.message for line in await services.client.read_logs(mine)]
        if "echoed text=found [redacted]" in messages:
            break
        await asyncio.sleep(0.1)
    assert "echoed text=found [redacted]" in messages


async def test_secret_of_the_worker_is_masked_in_outputs_and_errors(services: Any) -> None:
    told = {"text": f"say {MASKED}"}
    text = workflow([node("good", inputs=told), node("bad", "fail", told)])

    shown = await run(services, text)

    assert shown["nodes"]["good"]["output"]["text"] == "say [redacted]"
    assert shown["nodes"]["bad"]["error"]["message"] == "say [redacted]"
    assert MASKED not in str((await prefect_state(services, shown)).message)


async def test_start_refuses_wrong_inputs_before_anything_is_made(services: Any) -> None:
    text = workflow([node("a")], inputs={"level": {"type": "string", "enum": ["low", "high"]}})
    applied = await services.apply(text, file="test.yaml", by="test")

    with pytest.raises(InputInvalid, match="low"):
        await services.start(applied.name, {"level": "hgih"})
    with pytest.raises(InputInvalid, match="did you mean 'level'"):
        await services.start(applied.name, {"levl": "low"})
    with pytest.raises(InputInvalid, match="'level' is missing"):
        await services.start(applied.name, {})


async def test_run_started_past_prefects_own_check_fails_with_the_reason(services: Any) -> None:
    text = workflow([node("a")], inputs={"count": {"type": "integer"}})
    applied = await services.apply(text, file="test.yaml", by="test")
    response = await services.client.request(
        "POST",
        "/deployments/{id}/create_flow_run",
        path_params={"id": applied.deployment_id},
        json={"parameters": {"count": "many"}, "enforce_parameter_schema": False},
    )
    run_id = UUID(response.json()["id"])

    async for _ in services.follow(run_id):
        pass
    shown = await services.show(run_id)

    assert shown["state"] == "failed"
    assert shown["error"]["code"] == "input_invalid"
    assert shown["nodes"] == {}


async def test_start_of_an_unknown_workflow_is_refused(services: Any) -> None:
    with pytest.raises(NotFound, match="no-such"):
        await services.start("no-such", {})


async def test_same_idempotency_key_gives_the_same_run(services: Any) -> None:
    applied = await services.apply(workflow([node("a")]), file="test.yaml", by="test")

    first = await services.start(applied.name, {}, key="once")
    second = await services.start(applied.name, {}, key="once")

    assert first.run_id == second.run_id


async def test_apply_makes_a_revision_only_when_the_meaning_changes(services: Any) -> None:
    text = workflow([node("a")], name="revised-twice")
    first = await services.apply(text, file="test.yaml", by="test")
    again = await services.apply(text.replace(", ", ",  "), file="test.yaml", by="test")
    other = await services.apply(workflow([node("b")], name="revised-twice"), file="test.yaml", by="test")

    assert (first.revision, again.revision, other.revision) == (1, 1, 2)
    assert (first.changed, again.changed, other.changed) == (True, False, True)
    assert first.deployment_id == other.deployment_id


async def test_apply_refuses_what_the_engine_would_not_do(services: Any) -> None:
    text = workflow([node("a", pool="elsewhere")])

    with pytest.raises(SpecError, match="'pool' is not available in this version"):
        await services.apply(text, file="test.yaml", by="test")


async def test_wide_fan_out_runs_side_by_side(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "trace"
    wide = [
        node(f"n{i}", "trace", needs=["start"], inputs={"file": str(file), "seconds": 0.2}) for i in range(30)
    ]
    text = workflow([node("start"), *wide, node("end", needs=[item["id"] for item in wide])])

    shown = await run(services, text)

    assert shown["state"] == "completed"
    assert len(file.read_text().splitlines()) == 30
