"""What is used of Prefect beyond its documented interface is still there and does what we count on."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Completed, Running

from engine.flows import node, workflow
from engine.test_gates import end_of, eventually, start
from penstock.engine import prefect_api

pytestmark = pytest.mark.integration


async def test_every_task_finds_the_shared_client() -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        async with prefect_api.shared_client() as client:
            assert get_client() is client
            assert await asyncio.create_task(_client_of_a_task()) is client


async def _client_of_a_task() -> Any:
    return get_client()


async def bare_run(services: Any) -> UUID:
    """Make a flow run that no worker takes, for Prefect believes that one has it."""
    applied = await services.apply(workflow([node("a")]), file="test.yaml", by="test")
    deployment = await services.client.read_deployment(applied.deployment_id)
    flow_run = await services.client.create_flow_run_from_deployment(
        deployment.id, state=Running(), idempotency_key=uuid4().hex
    )
    return flow_run.id


async def state_of(services: Any, run_id: UUID) -> Any:
    return (await services.client.read_flow_run(run_id)).state


async def test_suspend_refuses_a_key_that_was_used_and_takes_a_new_one(services: Any) -> None:
    client, run_id = services.client, await bare_run(services)

    async def suspend(key: str) -> bool:
        return await prefect_api.suspend(client, run_id, key=key, message="waits", form=None)

    assert await suspend("round-1")
    assert (await state_of(services, run_id)).name == "Suspended"
    await client.set_flow_run_state(run_id, Running(), force=True)
    assert not await suspend("round-1")
    assert await suspend("round-2")


async def test_form_is_filled_in_once_and_then_gone(services: Any) -> None:
    client, run_id = services.client, await bare_run(services)
    schema = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
    form = prefect_api.Form(schema, "**What** to do")
    for key in ("round-1", "round-1"):  # an earlier try that was cut off leaves its form behind
        await prefect_api.suspend(client, run_id, key=key, message="waits", form=form)

    await client.resume_flow_run(run_id, run_input={"code": "secret"})

    assert await prefect_api.take_form(client, run_id, "round-1") == {"code": "secret"}
    assert await prefect_api.take_form(client, run_id, "round-1") is None


async def test_resume_wakes_what_waits_and_nothing_else(services: Any) -> None:
    client, run_id = services.client, await bare_run(services)

    assert not await prefect_api.resume(client, run_id), "it runs"
    await prefect_api.suspend(client, run_id, key="round-1", message="waits", form=None)
    assert await prefect_api.resume(client, run_id)
    assert (await state_of(services, run_id)).type.value == "SCHEDULED"
    assert not await prefect_api.resume(client, uuid4())
    await client.set_flow_run_state(run_id, Completed(), force=True)
    assert not await prefect_api.resume(client, run_id)


async def test_cancel_waits_for_the_worker_of_a_running_run_only(services: Any) -> None:
    client = services.client
    running, suspended = await bare_run(services), await bare_run(services)
    await prefect_api.suspend(client, suspended, key="round-1", message="waits", form=None)

    states = [await prefect_api.cancel(client, run_id) for run_id in (running, suspended)]

    assert [state.type.value for state in states if state] == ["CANCELLING", "CANCELLED"]
    assert await prefect_api.cancel(client, uuid4()) is None


async def test_claim_is_given_to_one_caller_only(services: Any) -> None:
    client, run_id = services.client, await bare_run(services)
    await prefect_api.postpone(client, run_id, seconds=600, message="later")

    claims = await asyncio.gather(*(prefect_api.claim(client, run_id) for _ in range(4)))

    assert sorted(claims) == [False, False, False, True]


async def test_changes_in_prefect_are_heard_of(services: Any) -> None:
    run_id = await bare_run(services)
    heard: set[Any] = set()

    async def listen() -> None:
        async for change in prefect_api.watch_runs("Cancelling"):
            heard.add(change)

    listening = asyncio.create_task(listen())
    await eventually(lambda: asyncio.sleep(0, result=bool(heard)))
    await services.client.set_flow_run_state(run_id, Cancelling())
    expected = prefect_api.Watched("Cancelling", run_id)
    await eventually(lambda: asyncio.sleep(0, result=expected in heard))
    listening.cancel()


async def test_states_and_unfinished_runs_are_listed(services: Any) -> None:
    run_id = await bare_run(services)
    ended = await start(services, workflow([node("a")]))
    await end_of(services, ended)

    states = await prefect_api.states_of(services.client, [run_id, ended, uuid4()])
    unfinished = await prefect_api.unfinished_runs(services.client, services.settings.prefect.pool)

    assert set(states) == {run_id, ended}
    assert run_id in [flow_run.id for flow_run in unfinished]
    await services.client.set_flow_run_state(run_id, Completed(), force=True)
