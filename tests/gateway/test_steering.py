"""Runs listed, cancelled and tried again, and approvals, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from engine.flows import node, workflow
from support.signing import signed_in
from support.stack import StackUnderTest

pytestmark = pytest.mark.integration

NOBODY = "00000000-0000-0000-0000-000000000000"
EVIL = {"Origin": "https://evil.example"}


@pytest.fixture(scope="module")
def needed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steering") / "needed"


@pytest.fixture(scope="module")
def client(stack: StackUnderTest, needed: Path) -> Generator[httpx.Client]:
    needs = node("needs", "needs-file", {"file": str(needed)}, needs=["first"])
    asks = node("apply", "mutate", {"file": str(needed.with_name("changed"))})
    flows = {
        "gate-hangs": [node("a", "hang")],
        "gate-needs": [node("first"), needs],
        "gate-asks": [asks],
    }
    files = [needed.with_name(f"{name}.yaml") for name in flows]
    for file, (name, nodes) in zip(files, flows.items(), strict=True):
        file.write_text(workflow(nodes, name=name))
    applied = stack.cli("workflows", "apply", *map(str, files))
    assert applied.returncode == 0, applied.stderr
    with signed_in(stack, timeout=30) as opened:
        yield opened


def trigger(client: httpx.Client, name: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/api/workflows/{name}/trigger", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def eventually(what: Callable[[], Any]) -> Any:
    """Ask again until something true comes."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def reached(client: httpx.Client, run_id: str, *states: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        shown = client.get(f"/api/runs/{run_id}").json()
        return shown if shown["state"] in states else None

    return eventually(look)


def asked(client: httpx.Client, run_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = client.get("/api/approvals", params={"limit": 200}).json()["approvals"]
        return next((item for item in found if item["run_id"] == run_id), None)

    return eventually(look)


def respond(
    client: httpx.Client, request_id: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> httpx.Response:
    return client.post(f"/api/approvals/{request_id}/respond", json=body, headers=headers)


def seen(request: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a list tells of a request: all but the diff of its plan."""
    card = dict(request["card"])
    card["plan"] = {name: value for name, value in card["plan"].items() if name != "diff"}
    return {**request, "card": card}


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].removeprefix("urn:penstock:")


def test_approval_is_seen_and_given(client: httpx.Client) -> None:
    run_id = trigger(client, "gate-asks", queue="P0")["run_id"]
    request = asked(client, run_id)

    shown = client.get(f"/api/approvals/{request['id']}").json()
    approved = respond(client, request["id"], {"decision": "approve", "comment": "go"})

    assert seen(shown) == seen(request)
    assert shown["card"]["requester"] == "ann"
    assert (approved.status_code, approved.json()["state"]) == (200, "approved")
    (decision,) = approved.json()["decisions"]
    assert (decision["person"], decision["via"], decision["comment"]) == ("ann", "api", "go")
    assert reached(client, run_id, "completed", "failed")["state"] == "completed"
    assert problem(respond(client, request["id"], {"decision": "reject"})) == (409, "approval_closed")


def test_approval_is_refused(client: httpx.Client) -> None:
    run_id = trigger(client, "gate-asks")["run_id"]

    rejected = respond(client, asked(client, run_id)["id"], {"decision": "reject"})

    assert rejected.json()["state"] == "rejected"
    assert reached(client, run_id, "completed", "rejected")["state"] == "rejected"
    found = client.get("/api/approvals", params={"state": ["rejected", "expired"], "limit": 200}).json()
    assert rejected.json()["id"] in {item["id"] for item in found["approvals"]}


def test_pages_of_other_sites_cannot_approve_cancel_or_start(client: httpx.Client) -> None:
    run_id = trigger(client, "gate-asks")["run_id"]
    request = asked(client, run_id)

    refused = [
        respond(client, request["id"], {"decision": "approve"}, EVIL),
        client.post(f"/api/runs/{run_id}/cancel", headers=EVIL),
        client.post("/api/workflows/gate-hangs/trigger", json={}, headers=EVIL),
    ]

    assert {problem(answer) for answer in refused} == {(403, "foreign_origin")}
    assert seen(client.get(f"/api/approvals/{request['id']}").json()) == seen(request)
    assert client.get(f"/api/runs/{run_id}").json()["state"] == "suspended"
    assert client.post(f"/api/runs/{run_id}/cancel").status_code == 202
    reached(client, run_id, "cancelled")


def test_run_is_cancelled_once(client: httpx.Client) -> None:
    run_id = trigger(client, "gate-hangs")["run_id"]
    reached(client, run_id, "running")

    accepted = client.post(f"/api/runs/{run_id}/cancel")

    assert (accepted.status_code, accepted.json()["run_id"]) == (202, run_id)
    assert reached(client, run_id, "cancelled")["message"] == "cancelled by ann"
    assert problem(client.post(f"/api/runs/{run_id}/cancel")) == (409, "conflict")


def test_run_is_tried_again(client: httpx.Client, needed: Path) -> None:
    run_id = trigger(client, "gate-needs")["run_id"]
    again = f"/api/runs/{run_id}/retry"
    reached(client, run_id, "failed")

    needed.touch()
    accepted = client.post(again, json={"from": None})
    shown = reached(client, run_id, "completed")
    from_first = client.post(again, json={"from": "first"})

    assert accepted.status_code == from_first.status_code == 202
    assert [shown["nodes"][name]["attempts"] for name in ("first", "needs")] == [1, 2]
    shown = eventually(lambda: _attempted(client, run_id, "needs", 3))
    assert shown["nodes"]["first"]["attempts"] == 2
    assert problem(client.post(again, json={})) == (409, "conflict")
    assert problem(client.post(again, json={"from": "nope"})) == (422, "input_invalid")
    assert problem(client.post(again, json={"form": "first"})) == (422, "request_invalid")


def _attempted(client: httpx.Client, run_id: str, name: str, attempts: int) -> dict[str, Any] | None:
    shown = client.get(f"/api/runs/{run_id}").json()
    there = shown["state"] == "completed" and shown["nodes"][name]["attempts"] == attempts
    return shown if there else None


def test_running_run_is_not_tried_again(client: httpx.Client) -> None:
    run_id = trigger(client, "gate-hangs")["run_id"]
    reached(client, run_id, "running")

    assert problem(client.post(f"/api/runs/{run_id}/retry", json={})) == (409, "conflict")
    assert client.post(f"/api/runs/{run_id}/cancel").status_code == 202


def test_runs_are_listed_page_by_page(client: httpx.Client) -> None:
    wanted = {"workflow": "gate-asks", "state": ["suspended", "cancelled"], "limit": 1}
    mine = {trigger(client, "gate-asks")["run_id"] for _ in range(2)}
    for run_id in mine:
        reached(client, run_id, "suspended")

    first = client.get("/api/runs", params=wanted).json()
    second = client.get("/api/runs", params={**wanted, "cursor": first["cursor"]}).json()

    assert {page["runs"][0]["run_id"] for page in (first, second)} == mine
    shown = first["runs"][0]
    assert (shown["workflow"], shown["state"], shown["requester"]) == ("gate-asks", "suspended", "ann")
    for run_id in mine:
        assert client.post(f"/api/runs/{run_id}/cancel").status_code == 202


def test_trigger_says_whether_the_run_is_new(client: httpx.Client) -> None:
    key = {"Idempotency-Key": uuid4().hex}

    answers = [client.post("/api/workflows/gate-asks/trigger", json={}, headers=key).json() for _ in range(2)]

    assert [answer["new"] for answer in answers] == [True, False]
    assert answers[0]["run_id"] == answers[1]["run_id"]
    client.post(f"/api/runs/{answers[0]['run_id']}/cancel")


@pytest.mark.parametrize(
    ("method", "path", "body", "answer"),
    [
        ("POST", f"/api/runs/{NOBODY}/cancel", None, (404, "not_found")),
        ("POST", f"/api/runs/{NOBODY}/retry", {}, (404, "not_found")),
        ("POST", "/api/runs/nobody/cancel", None, (422, "request_invalid")),
        ("GET", "/api/runs?state=lost", None, (422, "request_invalid")),
        ("GET", "/api/runs?limit=0", None, (422, "request_invalid")),
        ("GET", "/api/runs?cursor=mine", None, (422, "input_invalid")),
        ("GET", f"/api/approvals/{NOBODY}", None, (404, "not_found")),
        ("GET", "/api/approvals?state=lost", None, (422, "input_invalid")),
        ("GET", "/api/approvals?cursor=mine", None, (422, "input_invalid")),
        ("POST", f"/api/approvals/{NOBODY}/respond", {"decision": "approve"}, (404, "not_found")),
        ("POST", f"/api/approvals/{NOBODY}/respond", {"decision": "maybe"}, (422, "request_invalid")),
        ("POST", "/api/workflows/gate-asks/trigger", {"queue": "P9"}, (422, "input_invalid")),
    ],
)
def test_wrong_requests_are_answered_with_a_problem(
    client: httpx.Client, method: str, path: str, body: Any, answer: tuple[int, str]
) -> None:
    assert problem(client.request(method, path, json=body)) == answer
