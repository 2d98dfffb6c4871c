"""Resuming a run through the gateway: whose decision it is, and what is told when it is none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from gateway.console_kit import Desk
from gateway.prefect_kit import SUSPENDED, FakePrefect, desk_before, fake_prefect, send
from penstock.approvals.terms import Clause
from penstock.store.approvals import ApprovalRequest
from penstock.store.database import Database
from penstock.store.suspension import suspend_run

OWN = "http://127.0.0.1:8080"
TWO = Clause("workflow", "two eyes are not enough", count=2)
ONLY_BOB = Clause("workflow", "finance pays", of=("group:finance",))


@pytest.fixture
async def prefect() -> AsyncGenerator[FakePrefect]:
    async with fake_prefect() as fake:
        yield fake


@pytest.fixture
async def desk(database: Database, tmp_path: Path, prefect: FakePrefect) -> AsyncGenerator[Desk]:
    async with desk_before(prefect, database, tmp_path) as opened:
        yield opened


async def suspended(desk: Desk, prefect: FakePrefect, *requests: ApprovalRequest) -> UUID:
    """Suspend the run of some requests as the engine does, in round 1."""
    run = desk.runs[requests[0].run_id].run
    await suspend_run(desk.database, run.id, run.token, "waits", after_round=0)
    prefect.has_run(run.id)
    return run.id


async def resume(desk: Desk, run_id: UUID, person: str = "ada", **fields: Any) -> httpx.Response:
    body = {"run_input": fields} if fields else {}
    return await send(desk, "POST", f"/api/flow_runs/{run_id}/resume", person=person, json=body)


def reason(answer: httpx.Response) -> str:
    result = answer.json()
    assert (answer.status_code, result["status"], result["state"]) == (200, "REJECT", SUSPENDED)
    assert result["details"]["type"] == "reject_details"
    return result["details"]["reason"]


async def test_resume_is_a_decision_of_whoever_has_signed_in(desk: Desk, prefect: FakePrefect) -> None:
    request = await desk.ask()
    run_id = await suspended(desk, prefect, request)

    answer = await resume(desk, run_id, decision_1="approve", comment="go on", code="of-somebody-else")

    assert (answer.status_code, answer.json()) == (
        201,
        {"status": "ACCEPT", "state": SUSPENDED, "details": {"type": "accept_details"}},
    )
    shown = await desk.services.approvals.show(request.id)
    assert shown["state"] == "approved"
    (said,) = shown["decisions"]
    assert (said["person"], said["comment"], said["via"], said["groups"]) == (
        "ada",
        "go on",
        "prefect",
        ["sre"],
    )
    assert desk.engine.woken == [run_id]
    assert prefect.paths == [f"GET /api/flow_runs/{run_id}"]


async def test_votes_are_counted_until_they_are_enough(desk: Desk, prefect: FakePrefect) -> None:
    request = await desk.ask(clauses=[TWO])
    run_id = await suspended(desk, prefect, request)

    first = await resume(desk, run_id, decision_1="approve")
    again = await resume(desk, run_id, decision_1="approve")
    second = await resume(desk, run_id, person="bob", decision_1="approve")

    assert reason(first) == reason(again) == "counted: it still needs 1 more approval"
    assert second.json()["status"] == "ACCEPT"
    shown = await desk.services.approvals.show(request.id)
    assert [said["person"] for said in shown["decisions"]] == ["ada", "bob"]


async def test_rejection_and_note_settle_it(desk: Desk, prefect: FakePrefect) -> None:
    for decision, comment, state in (("reject", "", "rejected"), ("send_back", "smaller", "sent_back")):
        request = await desk.ask(clauses=[TWO])
        run_id = await suspended(desk, prefect, request)
        answer = await resume(desk, run_id, decision=decision, comment=comment)
        assert answer.json()["status"] == "ACCEPT"
        assert (await desk.services.approvals.show(request.id))["state"] == state


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "give a decision"),
        ({"comment": "hm"}, "give a decision"),
        ({"code": "x"}, "give a decision"),
        ({"decision": "maybe"}, "'maybe' is no decision"),
        ({"decision": {"__prefect_kind": "jinja"}}, "text"),
        ({"decision": "approve", "comment": "x" * 4001}, "4000"),
        ({"decision": "approve", "comment": 5}, "text"),
        ({"decision": "approve", "decision_1": "approve"}, "is no field"),
        ({"decision": "approve", "break_glass": True}, "is no field"),
        ({"decision_x": "approve"}, "is no field"),
        ({"decision": "send_back"}, "say what should be different"),
        ({"decision_2": "approve"}, "changed since this form was opened"),
        ({"decision_0": "approve"}, "changed since this form was opened"),
    ],
)
async def test_no_decision_is_told_and_the_form_stays(
    desk: Desk, prefect: FakePrefect, fields: dict[str, Any], words: str
) -> None:
    request = await desk.ask()
    run_id = await suspended(desk, prefect, request)

    assert words in reason(await resume(desk, run_id, **fields))

    assert (await desk.services.approvals.show(request.id))["state"] == "open"
    assert desk.engine.woken == []


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b'{"run_input": 5}', b"[" * 100_000, b"\xff"])
async def test_no_body_is_no_decision(desk: Desk, prefect: FakePrefect, body: bytes) -> None:
    run_id = await suspended(desk, prefect, await desk.ask())

    answer = await send(desk, "POST", f"/api/flow_runs/{run_id}/resume", content=body)

    assert reason(answer) == "give a decision: approve, reject or send_back"


async def test_form_of_an_awake_run_is_not_heeded(desk: Desk, prefect: FakePrefect) -> None:
    """Between two suspensions other requests may be open than those that the form shows."""
    request = await desk.ask()
    prefect.has_run(request.run_id)

    assert "changed since" in reason(await resume(desk, request.run_id, decision_0="approve"))
    assert (await desk.services.approvals.show(request.id))["state"] == "open"


@pytest.mark.parametrize("person", ["vera", "tess", "ada"])
async def test_who_may_not_decide_is_told_why(desk: Desk, prefect: FakePrefect, person: str) -> None:
    clause = Clause("workflow", "finance pays", of=("group:finance",), forbid=("requester",))
    request = await desk.ask(clauses=[clause])
    run_id = await suspended(desk, prefect, request)

    answer = await resume(desk, run_id, person=person, decision_1="approve")

    assert reason(answer) == desk.services.approvals.judge.why_not(
        request,
        desk.services.rules.current().people.find(person),  # pyright: ignore[reportArgumentType]
    )
    assert (await desk.services.approvals.show(request.id))["decisions"] == []


async def test_one_of_several_is_meant_when_the_person_may_decide_no_other(
    desk: Desk, prefect: FakePrefect
) -> None:
    first = await desk.ask(clauses=[ONLY_BOB])
    second = await desk.ask(run_id=first.run_id, node_id="tell")
    run_id = await suspended(desk, prefect, first, second)

    ada = await resume(desk, run_id, decision_1="approve")

    assert ada.json()["status"] == "ACCEPT"
    states = [(await desk.services.approvals.show(one.id))["state"] for one in (first, second)]
    assert states == ["open", "approved"]


@pytest.mark.parametrize("person", ["bob", "vera"])
async def test_several_requests_are_decided_elsewhere(desk: Desk, prefect: FakePrefect, person: str) -> None:
    first = await desk.ask(clauses=[ONLY_BOB])
    second = await desk.ask(run_id=first.run_id, node_id="tell")
    run_id = await suspended(desk, prefect, first, second)

    said = reason(await resume(desk, run_id, person=person, decision_1="approve"))

    assert "2 requests of this run are open" in said
    assert f"{OWN}/approvals" in said
    for one in (first, second):
        assert (await desk.services.approvals.show(one.id))["decisions"] == []


async def test_id_in_another_spelling_is_the_same_run(desk: Desk, prefect: FakePrefect) -> None:
    request = await desk.ask()
    run_id = await suspended(desk, prefect, request)

    for spelled in (run_id.hex, str(run_id).upper(), f"urn:uuid:{run_id}", f"{{{run_id}}}"):
        path = f"/api/flow_runs/{spelled}/resume"
        assert reason(await send(desk, "POST", path, json={})).startswith("give a decision")
        assert reason(await send(desk, "POST", f"{path}/", json={})).startswith("give a decision")
    nobodys = await send(desk, "POST", "/api/flow_runs/mine/resume", json={})

    assert nobodys.status_code == 404
    assert set(prefect.paths) == {f"GET /api/flow_runs/{run_id}"}
