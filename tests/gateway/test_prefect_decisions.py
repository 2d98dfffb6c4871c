"""Resuming a run through the gateway is a decision with a name, on the real thing."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from engine.flows import node, workflow
from engine.test_gates import end_of, lines, mutate, requests, start, suspended
from engine.test_runs import states
from penstock.gateway.prefect_rules import Access, access_of
from penstock.store.sessions import open_session
from penstock.store.tokens import token_hash
from support.stack import StackUnderTest

pytestmark = pytest.mark.integration

LOOKS = frozenset(
    [
        "/artifacts/count",
        "/artifacts/filter",
        "/artifacts/latest/count",
        "/artifacts/latest/filter",
        "/automations/count",
        "/automations/filter",
        "/automations/templates/validate",
        "/block_documents/count",
        "/block_schemas/filter",
        "/block_types/filter",
        "/concurrency_limits/filter",
        "/deployments/count",
        "/deployments/filter",
        "/deployments/paginate",
        "/events/count-by/{countable}",
        "/events/filter",
        "/flow_runs/count",
        "/flow_runs/filter",
        "/flow_runs/history",
        "/flow_runs/lateness",
        "/flow_runs/paginate",
        "/flows/count",
        "/flows/filter",
        "/flows/paginate",
        "/logs/filter",
        "/saved_searches/filter",
        "/task_runs/count",
        "/task_runs/filter",
        "/task_runs/history",
        "/task_runs/paginate",
        "/task_workers/filter",
        "/templates/validate",
        "/ui/flow_runs/count-task-runs",
        "/ui/flow_runs/history",
        "/ui/flows/count-deployments",
        "/ui/flows/next-runs",
        "/ui/schemas/validate",
        "/ui/task_runs/count",
        "/ui/task_runs/dashboard/counts",
        "/v2/concurrency_limits/filter",
        "/variables/count",
        "/variables/filter",
        "/work_pools/count",
        "/work_pools/filter",
        "/work_pools/{work_pool_name}/queues/filter",
        "/work_pools/{work_pool_name}/workers/filter",
        "/work_queues/filter",
    ]
)
"""All that is sent to Prefect with POST and changes nothing."""


@asynccontextmanager
async def browser_of(
    stack: StackUnderTest, services: Any, person: str = "ada"
) -> AsyncGenerator[httpx.AsyncClient]:
    """Open a browser of somebody who has signed in, on the UI's API."""
    token = secrets.token_urlsafe(32)
    await open_session(services.database, token_hash(token), person=person, via="link", lifetime_s=600)
    base = f"http://127.0.0.1:{stack.settings.port}/prefect/api/"
    async with httpx.AsyncClient(base_url=base, cookies={"penstock_session": token}, timeout=60) as client:
        yield client


async def fill_in(
    stack: StackUnderTest, services: Any, run_id: UUID, person: str = "ada", **fields: str
) -> dict[str, Any]:
    """Do what the UI does when somebody presses Resume: get the form, fill it in, send it."""
    async with browser_of(stack, services, person) as client:
        run = (await client.get(f"flow_runs/{run_id}")).json()
        keys = run["state"]["state_details"]["run_input_keyset"]
        schema = (await client.get(f"flow_runs/{run_id}/input/{keys['schema']}")).json()
        names = {one["title"].lower(): name for name, one in schema["properties"].items()}
        assert names.keys() == {"decision", "comment"}
        filled = {names[field]: value for field, value in fields.items()}
        answer = await client.post(f"flow_runs/{run_id}/resume", json={"run_input": filled})
    assert answer.status_code == (201 if answer.json()["status"] == "ACCEPT" else 200)
    return answer.json()


async def test_approval_without_a_code_lets_the_run_go_on(
    stack: StackUnderTest, services: Any, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([mutate(file), node("after", needs=["mutate"])]))
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)

    answer = await fill_in(stack, services, run_id, decision="approve", comment="go on")
    shown = await end_of(services, run_id)

    assert answer["status"] == "ACCEPT"
    assert answer["state"]["name"] != "Suspended"
    assert (shown["state"], lines(file)) == ("completed", ["changed"])
    decided = await services.approvals.show(UUID(request["id"]))
    (said,) = decided["decisions"]
    assert (said["person"], said["via"], said["comment"]) == ("ada", "prefect", "go on")
    kept = await services.client.request(
        "POST", "/flow_runs/{id}/input/filter", path_params={"id": run_id}, json={"prefix": "", "limit": 50}
    )
    assert not [one for one in kept.json() if one["key"].endswith("-response")]


async def test_quorum_of_two_takes_two_people(stack: StackUnderTest, services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([mutate(file, approval={"require": {"count": 2}})]))
    await requests(services, run_id)
    flow_run = await suspended(services, run_id)

    first = await fill_in(stack, services, run_id, decision="approve")
    again = await fill_in(stack, services, run_id, decision="approve")
    between = await services.client.read_flow_run(run_id)
    second = await fill_in(stack, services, run_id, "bob", decision="approve")
    shown = await end_of(services, run_id)

    for refused in (first, again):
        assert (refused["status"], refused["state"]["name"]) == ("REJECT", "Suspended")
        assert refused["details"]["reason"] == "counted: it still needs 1 more approval"
    assert between.state.id == flow_run.state.id
    assert second["status"] == "ACCEPT"
    assert (shown["state"], lines(file)) == ("completed", ["changed"])


async def test_two_gates_are_told_apart_by_who_may_decide(
    stack: StackUnderTest, services: Any, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    nodes = [
        mutate(one, approval={"require": {"count": 1}, "forbid": ["requester"]}),
        node("other", "mutate", inputs={"file": str(two)}),
    ]
    run_id = await start(services, workflow(nodes))
    await requests(services, run_id, count=2)
    await suspended(services, run_id)

    unclear = await fill_in(stack, services, run_id, decision="approve")
    tess = await fill_in(stack, services, run_id, "tess", decision="approve")
    await suspended(services, run_id)
    (left,) = await requests(services, run_id)
    refused = await fill_in(stack, services, run_id, "tess", decision="approve")
    last = await fill_in(stack, services, run_id, decision="approve")
    shown = await end_of(services, run_id)

    assert unclear["status"] == "REJECT"
    assert f"http://127.0.0.1:{stack.settings.port}/approvals" in unclear["details"]["reason"]
    assert (tess["status"], left["node"]) == ("ACCEPT", "mutate")
    assert refused["status"] == "REJECT"
    assert refused["details"]["reason"]
    assert last["status"] == "ACCEPT"
    assert states(shown) == {"mutate": "succeeded", "other": "succeeded"}


async def test_form_of_an_earlier_suspension_decides_nothing(
    stack: StackUnderTest, services: Any, tmp_path: Path
) -> None:
    run_id = await start(services, workflow([mutate(tmp_path / "f")]))
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)
    old = {"run_input": {"decision_0": "approve"}}

    async with browser_of(stack, services) as client:
        answer = (await client.post(f"flow_runs/{run_id}/resume", json=old)).json()

    assert answer["status"] == "REJECT"
    assert "changed since this form was opened" in answer["details"]["reason"]
    assert (await services.approvals.show(UUID(request["id"])))["decisions"] == []
    await services.cancel(run_id, by="test")


async def test_run_that_is_over_is_not_resumed(stack: StackUnderTest, services: Any) -> None:
    run_id = await start(services, workflow([node("only")]))
    await end_of(services, run_id)

    async with browser_of(stack, services) as client:
        answer = (await client.post(f"flow_runs/{run_id}/resume", json={})).json()

    assert (answer["status"], answer["details"]["reason"]) == (
        "ABORT",
        "Cannot resume a flow run that is not paused.",
    )


async def test_every_route_of_prefect_is_judged(stack: StackUnderTest, services: Any) -> None:
    """What Prefect offers must not come to change things under a name that looks like reading."""
    async with browser_of(stack, services) as client:
        paths = (await client.get("openapi.json")).json()["paths"]
    looks = {
        path
        for path, methods in paths.items()
        if "post" in methods and access_of("POST", path[1:]) is Access.READ
    }

    assert looks == LOOKS
