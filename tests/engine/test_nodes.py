"""What a node can do beyond calling an agent, on the real thing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from engine.flows import node, workflow
from engine.test_runs import prefect_state, run, states, task_runs
from penstock.errors import SpecError

pytestmark = pytest.mark.integration


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


async def test_foreach_runs_a_node_once_per_item_and_collects_the_outputs(services: Any) -> None:
    foreach = {"in": "{{ inputs.hosts }}", "as": "host", "concurrency": 2}
    text = workflow(
        [
            node("ping", inputs={"text": "{{ host }}!"}, foreach=foreach),
            node("sum", inputs={"number": "{{ nodes.ping.output | length }}"}),
        ],
        inputs={"hosts": {"type": "array", "items": {"type": "string"}}},
        outputs={"said": "{{ nodes.ping.output }}", "count": "{{ nodes.sum.output.number }}"},
    )

    shown = await run(services, text, hosts=["a", "b", "c"])

    assert shown["state"] == "completed", shown
    assert [item["text"] for item in shown["outputs"]["said"]] == ["a!", "b!", "c!"]
    assert shown["outputs"]["count"] == 3
    assert states(shown) == dict.fromkeys(("ping", "ping[0]", "ping[1]", "ping[2]", "sum"), "succeeded")
    found = await task_runs(services, {**shown, "nodes": dict.fromkeys(range(4))})
    assert sorted(found) == ["ping[0]", "ping[1]", "ping[2]", "sum"]
    waits_for = {str(item.id) for item in found["sum"].task_inputs["wait_for"]}
    assert waits_for == {str(found[f"ping[{number}]"].id) for number in range(3)}


async def test_foreach_over_nothing_succeeds_with_nothing(services: Any) -> None:
    text = workflow(
        [node("a", foreach={"in": [], "as": "x"})], outputs={"count": "{{ nodes.a.output | length }}"}
    )

    shown = await run(services, text)

    assert (shown["state"], shown["outputs"]) == ("completed", {"count": 0})


async def test_foreach_starts_no_more_items_after_so_many_failures(services: Any) -> None:
    foreach = {"in": [1, 2, 3, 4], "as": "n", "stop_after_failures": 2}
    text = workflow([node("a", "fail", inputs={"number": "{{ n }}"}, foreach=foreach)])

    shown = await run(services, text)

    assert shown["state"] == "failed"
    assert [shown["nodes"][f"a[{number}]"]["state"] for number in range(4)] == [
        "failed",
        "failed",
        "skipped",
        "skipped",
    ]
    assert shown["nodes"]["a[3]"]["reason"] == "2 items have failed"
    assert shown["nodes"]["a"]["error"]["message"].startswith("2 of 4 items: ")


async def test_foreach_with_failed_items_goes_on_when_the_node_continues(services: Any) -> None:
    foreach = {"in": [0, 5], "as": "n"}
    retry = {"max": 2, "base": "10ms"}
    text = workflow(
        [
            node(
                "a",
                "flaky",
                inputs={"failures": "{{ n }}"},
                foreach=foreach,
                on_error="continue",
                retry=retry,
            ),
            node("b", needs=["a"]),
        ],
        outputs={"first": "{{ nodes.a.output[0].text | default('none') }}"},
    )

    shown = await run(services, text)

    assert shown["state"] == "completed"
    assert states(shown) == {
        "a": "failed",
        "a[0]": "succeeded",
        "a[1]": "failed",
        "b": "succeeded",
    }
    assert shown["outputs"] == {"first": "at last"}


async def test_error_branch_runs_with_the_error_and_the_run_still_fails(services: Any) -> None:
    text = workflow(
        [node("a", "fail", inputs={"text": "boom"}, on_error="rescue"), node("b", needs=["a"])],
        error_branches={
            "rescue": [
                node("tell", inputs={"text": "{{ error.node }}: {{ error.message }} ({{ error.code }})"}),
                node("then", inputs={"text": "{{ nodes.tell.output.text }}"}),
            ]
        },
    )

    shown = await run(services, text)

    assert shown["state"] == "failed"
    assert states(shown) == {"a": "failed", "b": "skipped", "tell": "succeeded", "then": "succeeded"}
    assert shown["nodes"]["then"]["output"]["text"] == "a: boom (agent_failed)"


async def test_error_branch_does_not_run_when_nothing_fails_into_it(services: Any) -> None:
    text = workflow([node("a", on_error="rescue")], error_branches={"rescue": [node("tell")]})

    shown = await run(services, text)

    assert shown["state"] == "completed"
    assert states(shown) == {"a": "succeeded"}


async def test_node_with_run_on_failure_runs_only_then(services: Any) -> None:
    text = workflow(
        [
            node("well"),
            node("bad", "fail"),
            node("after_well", needs=["well"], run="on_failure"),
            node("after_bad", needs=["bad"], run="on_failure"),
        ]
    )

    shown = await run(services, text)

    assert shown["state"] == "failed"
    assert states(shown)["after_well"] == "skipped"
    assert states(shown)["after_bad"] == "succeeded"


async def test_completed_changes_are_undone_in_reverse_order_when_the_run_fails(
    services: Any, tmp_path: Path
) -> None:
    file = tmp_path / "trace"
    inputs = {"file": str(file)}
    text = workflow(
        [
            node("one", "change", inputs={**inputs, "word": "one"}, undo="automatic"),
            node("kept", "change", needs=["one"], inputs={**inputs, "word": "kept"}),
            node(
                "each",
                "change",
                needs=["kept"],
                inputs={**inputs, "word": "{{ x }}"},
                foreach={"in": ["x", "y"], "as": "x"},
                undo="automatic",
            ),
            node("bad", "fail", needs=["each"]),
            node("report", needs=["bad"], run="always"),
        ]
    )

    shown = await run(services, text)

    assert shown["state"] == "failed"
    assert lines(file) == ["do one", "do kept", "do x", "do y", "undo y", "undo x", "undo one"]
    assert states(shown) == {
        "one": "undone",
        "kept": "succeeded",
        "each": "succeeded",
        "each[0]": "undone",
        "each[1]": "undone",
        "bad": "failed",
        "report": "succeeded",
    }
    assert "undone: each[1], each[0], one" in shown["message"]
    found = await task_runs(services, {**shown, "nodes": dict.fromkeys(range(9))})
    assert {"undo one", "undo each[0]", "undo each[1]"} <= set(found)


async def test_undo_that_fails_is_told_and_does_not_stop_the_others(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "trace"
    text = workflow(
        [
            node("one", "change", inputs={"file": str(file), "word": "one"}, undo="automatic"),
            node(
                "two",
                "change",
                needs=["one"],
                inputs={"file": str(file), "word": "stubborn"},
                undo="automatic",
            ),
            node("bad", "fail", needs=["two"]),
        ]
    )

    shown = await run(services, text)

    assert lines(file) == ["do one", "do stubborn", "undo one"]
    assert "undo of two failed: it cannot be undone" in shown["message"]
    assert states(shown)["two"] == "succeeded"


async def test_change_is_verified_by_another_agent_until_it_succeeds(services: Any, tmp_path: Path) -> None:
    file, sign = tmp_path / "trace", tmp_path / "sign"
    verify = {"agent": "needs-file", "with": {"file": str(sign), "text": "{{ nodes.a.output.text }}"}}
    text = workflow(
        [
            node(
                "a",
                "change",
                inputs={"file": str(file), "word": "w"},
                verify={**verify, "within": "30s"},
                retry={"max": 1, "base": "50ms", "cap": "100ms"},
            )
        ]
    )
    asyncio.get_running_loop().call_later(1.0, sign.touch)

    shown = await run(services, text)

    assert shown["state"] == "completed", shown
    assert lines(file) == ["do w"]


async def test_change_that_is_not_confirmed_fails_is_not_repeated_and_is_undone(
    services: Any, tmp_path: Path
) -> None:
    file = tmp_path / "trace"
    text = workflow(
        [
            node(
                "a",
                "change",
                inputs={"file": str(file), "word": "w"},
                verify={"agent": "needs-file", "with": {"file": str(tmp_path / "never")}},
                undo="automatic",
            )
        ]
    )

    shown = await run(services, text)

    assert shown["state"] == "failed"
    assert shown["error"]["code"] == "not_verified"
    assert lines(file) == ["do w", "undo w"]
    assert states(shown) == {"a": "undone"}


async def test_output_is_reused_while_it_is_fresh(services: Any, tmp_path: Path) -> None:
    trace, sign = tmp_path / "trace", tmp_path / "sign"
    sign.touch()
    inputs = {"file": str(sign), "trace": str(trace), "text": "hello"}
    cached = workflow([node("a", "needs-file", inputs=inputs, cache={"ttl": "10m"})])
    expired = workflow([node("a", "needs-file", inputs={**inputs, "text": "x"}, cache={"ttl": "1ms"})])

    first, second = await run(services, cached), await run(services, cached)
    for _ in range(2):
        await run(services, expired)

    assert lines(trace) == ["a", "a", "a"]
    assert second["nodes"]["a"]["output"] == first["nodes"]["a"]["output"]
    assert second["nodes"]["a"]["reason"] == f"cached by run {first['run_id']}"
    assert (await task_runs(services, second))["a"].state.name == "Cached"


async def test_budget_stops_changes_of_one_target(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "trace"
    text = workflow(
        [node("a", "change", inputs={"file": str(file), "word": "{{ inputs.host }}"})],
        inputs={"host": {"type": "string"}},
        budget={"max_mutations": 2, "per": "target", "window": "1h"},
    )

    ends = [(await run(services, text, host=host))["state"] for host in ("a", "a", "a", "b")]
    last = await run(services, text, host="a")

    assert ends == ["completed", "completed", "failed", "completed"]
    assert lines(file) == ["do a", "do a", "do b"]
    assert last["error"]["code"] == "budget_exceeded"
    assert "a: 2 changes in 3600 s are the budget" in last["message"]


async def test_sub_workflow_is_a_run_of_its_own_and_its_outputs_come_back(services: Any) -> None:
    child = workflow(
        [node("say", inputs={"text": "hello {{ inputs.who }}"})],
        inputs={"who": {"type": "string"}},
        outputs={"said": "{{ nodes.say.output.text }}"},
    )
    child_name = (await services.apply(child, file="child.yaml", by="test")).name
    text = workflow(
        [
            {"id": "sub", "workflow": child_name, "with": {"who": "{{ inputs.who }}"}},
            node("after", inputs={"text": "{{ nodes.sub.output.said }}!"}),
        ],
        inputs={"who": {"type": "string"}},
        outputs={"said": "{{ nodes.after.output.text }}"},
    )

    shown = await run(services, text, who="world")

    assert shown["state"] == "completed", shown
    assert shown["outputs"] == {"said": "hello world!"}
    child_run = UUID(shown["nodes"]["sub"]["reason"].split()[1])
    assert (await services.show(child_run))["state"] == "completed"
    assert (await services.client.read_flow_run(child_run)).deployment_id is not None


async def test_failed_sub_workflow_fails_its_node(services: Any) -> None:
    child = workflow([node("bad", "fail", inputs={"text": "boom"})])
    child_name = (await services.apply(child, file="child.yaml", by="test")).name
    each = {"in": [1, 2], "as": "n", "concurrency": 2}
    text = workflow([{"id": "sub", "workflow": child_name, "foreach": each}, node("b", needs=["sub"])])

    shown = await run(services, text)

    assert shown["state"] == "failed"
    assert shown["nodes"]["sub[1]"]["error"]["code"] == "child_failed"
    assert "boom" in shown["nodes"]["sub[1]"]["error"]["message"]
    assert states(shown)["b"] == "skipped"


async def test_sub_workflow_that_is_not_applied_is_refused(services: Any) -> None:
    text = workflow([{"id": "sub", "workflow": "not-there"}])

    with pytest.raises(SpecError, match="unknown workflow 'not-there'"):
        await services.apply(text, file="test.yaml", by="test")


async def test_finished_run_of_prefect_shows_how_it_ended(services: Any, tmp_path: Path) -> None:
    text = workflow([node("bad", "fail"), node("x", "change", inputs={"file": str(tmp_path / "f")})])

    shown = await run(services, text)

    assert (await prefect_state(services, shown)).name == "Failed"


async def test_items_that_changed_something_are_undone_when_the_run_takes_too_long(
    services: Any, tmp_path: Path
) -> None:
    file = tmp_path / "trace"
    inputs = {"file": str(file), "word": "{{ x.word }}", "seconds": "{{ x.seconds }}"}
    items = [{"word": "a", "seconds": 0}, {"word": "b", "seconds": 0}, {"word": "c", "seconds": 60}]
    text = workflow(
        [node("each", "change", inputs=inputs, foreach={"in": items, "as": "x"}, undo="automatic")],
        timeout="3s",
    )

    shown = await run(services, text)

    assert shown["state"] == "failed"
    assert shown["error"]["code"] == "run_timed_out"
    assert lines(file) == ["do a", "do b", "do c", "undo b", "undo a"]
    assert states(shown) == {"each[0]": "undone", "each[1]": "undone", "each[2]": "cancelled"}


async def test_change_that_was_never_confirmed_is_undone_when_the_run_takes_too_long(
    services: Any, tmp_path: Path
) -> None:
    file = tmp_path / "trace"
    verify = {"agent": "needs-file", "with": {"file": str(tmp_path / "never")}, "within": "10m"}
    change = {"file": str(file), "word": "w"}
    text = workflow(
        [node("a", "change", inputs=change, verify=verify, undo="automatic", retry={"base": "100ms"})],
        timeout="3s",
    )

    shown = await run(services, text)

    assert shown["error"]["code"] == "run_timed_out"
    assert lines(file) == ["do w", "undo w"]
    assert states(shown) == {"a": "undone"}
