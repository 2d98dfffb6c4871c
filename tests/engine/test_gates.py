"""Nodes that wait for people: asked, suspended, decided, run once, on the real thing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.states import AwaitingRetry, Scheduled

from engine.flows import node, workflow
from engine.test_runs import prefect_state, states
from penstock.errors import ApprovalError, Conflict, InputInvalid

pytestmark = pytest.mark.integration


async def eventually(what: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """Ask again until something true comes."""
    deadline = time.monotonic() + seconds
    while not (found := await what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)
    return found


async def start(services: Any, text: str, **inputs: Any) -> UUID:
    applied = await services.apply(text, file="test.yaml", by="test")
    return (await services.start(applied.name, inputs, requester="tess")).run_id


async def requests(services: Any, run_id: UUID, *, count: int = 1) -> list[dict[str, Any]]:
    """Give the open requests of a run once there are so many."""

    async def found() -> list[dict[str, Any]]:
        listed = (await services.approvals.list(limit=200))["approvals"]
        mine = [item for item in listed if item["run_id"] == str(run_id)]
        return mine if len(mine) >= count else []

    return sorted(await eventually(found), key=lambda item: item["node"])


async def suspended(services: Any, run_id: UUID) -> Any:
    """Wait until Prefect shows the run as suspended, and give it."""

    async def found() -> Any:
        flow_run = await services.client.read_flow_run(run_id)
        return flow_run if flow_run.state.name == "Suspended" else None

    return await eventually(found)


async def decide(services: Any, request: dict[str, Any], decision: str = "approve", **more: Any) -> Any:
    name = more.pop("person", "ada")
    person = services.rules.current().people.find(name)
    return await services.approvals.decide(UUID(request["id"]), decision, person=person, via="api", **more)


async def code_for(services: Any, request: dict[str, Any], name: str) -> str:
    person = services.rules.current().people.find(name)
    return await services.approvals.code(UUID(request["id"]), person=person)


async def end_of(services: Any, run_id: UUID) -> dict[str, Any]:
    async with asyncio.timeout(60):
        async for _ in services.follow(run_id):
            pass
    return await services.show(run_id)


def mutate(file: Path, **rest: Any) -> dict[str, Any]:
    return node("mutate", "mutate", inputs={"file": str(file)}, **rest)


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


async def test_gated_node_runs_after_an_approval_and_not_before(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([mutate(file), node("after", needs=["mutate"])]))

    (request,) = await requests(services, run_id)
    flow_run = await suspended(services, run_id)
    assert f"waits for approval {request['id']}, needs 1 approval" in flow_run.state.message
    assert states(await services.show(run_id)) == {"mutate": "waiting_approval"}
    assert lines(file) == []
    await decide(services, request)
    shown = await end_of(services, run_id)

    assert shown["state"] == "completed"
    assert lines(file) == ["changed"]
    decided = await services.approvals.show(UUID(request["id"]))
    assert decided["state"] == "approved"
    assert [(one["person"], one["via"]) for one in decided["decisions"]] == [("ada", "api")]


async def test_card_shows_what_would_run(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    text = workflow(
        [mutate(file, approval={"title": "Change {{ inputs.what }}"})], inputs={"what": {"type": "string"}}
    )
    run_id = await start(services, text, what="it")

    (request,) = await requests(services, run_id)

    card = request["card"]
    assert (request["title"], card["requester"], card["node"]) == ("Change it", "tess", "mutate")
    assert card["plan"]["summary"] == f"Append to {file}"
    assert card["plan"]["targets"] == [str(file)]
    assert card["agent"]["name"] == "mutate"
    await services.cancel(run_id, by="test")


async def test_rejected_gate_skips_what_follows_and_runs_what_always_runs(
    services: Any, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    text = workflow(
        [mutate(file), node("after", needs=["mutate"]), node("report", needs=["after"], run="always")]
    )
    run_id = await start(services, text)
    (request,) = await requests(services, run_id)

    await decide(services, request, "reject", comment="not today")
    shown = await end_of(services, run_id)

    assert shown["state"] == "rejected"
    assert states(shown) == {"mutate": "rejected", "after": "skipped", "report": "succeeded"}
    assert "rejected by ada: not today" in shown["message"]
    assert (await prefect_state(services, shown)).name == "Rejected"
    assert lines(file) == []


async def test_other_branches_go_on_and_gates_are_answered_in_either_order(
    services: Any, tmp_path: Path
) -> None:
    files = [tmp_path / "f0", tmp_path / "f1"]
    text = workflow(
        [
            node("one", "mutate", inputs={"file": str(files[0])}),
            node("two", "mutate", inputs={"file": str(files[1])}),
            node("free"),
            node("last", needs=["one", "two", "free"]),
        ]
    )
    run_id = await start(services, text)
    one, two = await requests(services, run_id, count=2)
    await suspended(services, run_id)
    assert states(await services.show(run_id))["free"] == "succeeded"

    await decide(services, two)
    await eventually(lambda: asyncio.to_thread(files[1].exists))
    await suspended(services, run_id)
    assert lines(files[0]) == []
    await decide(services, one)
    shown = await end_of(services, run_id)

    assert shown["state"] == "completed"
    assert [lines(file) for file in files] == [["changed"], ["changed"]]


async def test_approved_node_starts_while_another_branch_still_runs(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    text = workflow([mutate(file), node("slow", "hang")])
    run_id = await start(services, text)
    (request,) = await requests(services, run_id)

    await decide(services, request)
    await eventually(lambda: asyncio.to_thread(file.exists), seconds=10)

    assert (await services.client.read_flow_run(run_id)).state.name == "Running"
    await services.cancel(run_id, by="test")
    await end_of(services, run_id)


async def test_each_item_of_a_foreach_has_a_gate(services: Any, tmp_path: Path) -> None:
    names = [str(tmp_path / "a"), str(tmp_path / "b")]
    each = {"in": names, "as": "name"}
    text = workflow([node("each", "mutate", inputs={"file": "{{ name }}"}, foreach=each)])
    run_id = await start(services, text)

    first, second = await requests(services, run_id, count=2)
    await suspended(services, run_id)
    await decide(services, second)
    await decide(services, first, "reject")
    shown = await end_of(services, run_id)

    assert [item["node"] for item in (first, second)] == ["each[0]", "each[1]"]
    assert shown["state"] == "rejected"
    assert [lines(Path(name)) for name in names] == [[], ["changed"]]


async def test_quorum_counts_distinct_people(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([mutate(file, approval={"require": {"count": 2}})]))
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)

    await decide(services, request, person="ada")
    again = await decide(services, request, person="ada")
    assert again["state"] == "open"
    settled = await decide(services, request, person="bob")
    shown = await end_of(services, run_id)

    assert settled["state"] == "approved"
    assert (shown["state"], lines(file)) == ("completed", ["changed"])


async def test_nobody_decides_twice_or_after_the_end(services: Any, tmp_path: Path) -> None:
    run_id = await start(services, workflow([mutate(tmp_path / "f")]))
    (request,) = await requests(services, run_id)
    await decide(services, request)
    await end_of(services, run_id)

    with pytest.raises(ApprovalError):
        await decide(services, request, "reject", person="bob")
    with pytest.raises(ApprovalError):
        await decide(services, request, "reject", person="ada")
    with pytest.raises(InputInvalid, match="'maybe' is no decision"):
        await decide(services, request, "maybe")


@pytest.mark.parametrize(
    "state",
    [Scheduled(name="Resuming"), AwaitingRetry(message="Retry from the UI")],
    ids=["set_state", "retry"],
)
async def test_waking_the_run_in_prefect_does_not_open_the_gate(
    services: Any, tmp_path: Path, state: Any
) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([mutate(file)]))
    (request,) = await requests(services, run_id)
    before = (await suspended(services, run_id)).state.id

    await services.client.set_flow_run_state(run_id, state, force=True)

    async def again() -> Any:
        flow_run = await services.client.read_flow_run(run_id)
        return flow_run.state if flow_run.state.name == "Suspended" and flow_run.state.id != before else None

    found = await eventually(again)
    assert "it was resumed without a decision" in found.message
    assert lines(file) == []
    await decide(services, request)
    assert (await end_of(services, run_id))["state"] == "completed"
    assert lines(file) == ["changed"]


async def test_form_of_prefect_decides_with_a_code_and_only_once(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([mutate(file)]))
    (request,) = await requests(services, run_id)
    before = (await suspended(services, run_id)).state.id
    code = await code_for(services, request, "grace")

    wrong = {"decision": "approve", "code": "0000-0000-0000-0000"}
    await services.client.resume_flow_run(run_id, run_input=wrong)

    async def again() -> Any:
        flow_run = await services.client.read_flow_run(run_id)
        return flow_run.state if flow_run.state.name == "Suspended" and flow_run.state.id != before else None

    found = await eventually(again)
    assert "the code was wrong" in found.message
    await services.client.resume_flow_run(run_id, run_input={"decision": "approve", "code": code})
    shown = await end_of(services, run_id)

    assert (shown["state"], lines(file)) == ("completed", ["changed"])
    decided = await services.approvals.show(UUID(request["id"]))
    assert [(one["person"], one["via"]) for one in decided["decisions"]] == [("grace", "prefect")]
    inputs = await services.client.filter_flow_run_input(run_id, "round-", 50, set())
    assert code not in str([item.value for item in inputs])


async def test_gate_that_nobody_answers_in_time_is_rejected(services: Any, tmp_path: Path) -> None:
    approval = {"timeout": "1s", "on_timeout": "reject"}
    run_id = await start(services, workflow([mutate(tmp_path / "f", approval=approval)]))

    shown = await end_of(services, run_id)

    assert shown["state"] == "rejected"
    assert "nobody decided in time" in shown["message"]


async def test_plan_that_changes_voids_the_approval_and_asks_again(services: Any, tmp_path: Path) -> None:
    file, sign = tmp_path / "f", tmp_path / "sign"
    text = workflow(
        [
            node("drift", "drifting", inputs={"file": str(file), "text": str(sign)}),
            node("gate", "mutate", inputs={"file": str(tmp_path / "g")}),
        ]
    )
    sign.write_text("one")
    run_id = await start(services, text)
    first, _ = await requests(services, run_id, count=2)
    await suspended(services, run_id)
    sign.write_text("two")

    await decide(services, first)

    async def asked_again() -> Any:
        found = [item for item in await requests(services, run_id) if item["node"] == "drift"]
        return found[0] if found and found[0]["id"] != first["id"] else None

    second = await eventually(asked_again)
    assert second["digest"] != first["digest"]
    assert (await services.approvals.show(UUID(first["id"])))["state"] == "void"
    assert lines(file) == []
    await services.cancel(run_id, by="test")


async def test_cancelling_a_run_that_waits_withdraws_its_request(services: Any, tmp_path: Path) -> None:
    run_id = await start(services, workflow([mutate(tmp_path / "f")]))
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)

    await services.cancel(run_id, by="tess")
    shown = await end_of(services, run_id)

    assert (shown["state"], shown["message"]) == ("cancelled", "cancelled by tess")
    assert (await services.approvals.show(UUID(request["id"])))["state"] == "withdrawn"
    assert (await prefect_state(services, shown)).name == "Cancelled"
    with pytest.raises(ApprovalError):
        await decide(services, request)


async def test_retry_after_a_rejection_asks_anew(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([node("first"), mutate(file, needs=["first"])]))
    (request,) = await requests(services, run_id)
    with pytest.raises(Conflict, match="only a run that has ended"):
        await services.retry(run_id)
    await decide(services, request, "reject")
    await end_of(services, run_id)

    await services.retry(run_id)
    (second,) = await requests(services, run_id)
    await decide(services, second)
    shown = await end_of(services, run_id)

    assert second["id"] != request["id"]
    assert (shown["state"], lines(file)) == ("completed", ["changed"])
    assert shown["nodes"]["first"]["attempts"] == 1
