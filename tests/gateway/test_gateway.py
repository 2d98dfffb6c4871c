"""The gateway of a real stack, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.flows import node, workflow
from penstock.errors import SettingsError
from penstock.gateway.app import serve
from penstock.settings import Settings
from support.signing import signed_in
from support.stack import StackUnderTest

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def client(stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client]:
    file: Path = tmp_path_factory.mktemp("gateway") / "greet.yaml"
    inputs = {"who": {"type": "string"}}
    file.write_text(workflow([node("a", inputs={"text": "{{ inputs.who }}"})], name="greet", inputs=inputs))
    applied = stack.cli("workflows", "apply", str(file))
    assert applied.returncode == 0, applied.stderr
    with signed_in(stack) as opened:
        yield opened


def ended(client: httpx.Client, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        shown = client.get(f"/api/runs/{run_id}").json()
        if shown["state"] not in {"pending", "running"}:
            return shown
        time.sleep(0.05)
    raise AssertionError("the run did not end")


def test_gateway_is_well(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"database": "ok", "prefect": "ok"}


def test_trigger_starts_a_run_that_can_be_watched(client: httpx.Client) -> None:
    accepted = client.post("/api/workflows/greet/trigger", json={"inputs": {"who": "you"}})

    assert accepted.status_code == 202
    shown = ended(client, accepted.json()["run_id"])
    assert shown["state"] == "completed"
    assert shown["nodes"]["a"]["output"]["text"] == "you"


def test_trigger_with_one_key_starts_one_run(client: httpx.Client) -> None:
    body, headers = {"inputs": {"who": "once"}}, {"Idempotency-Key": "key-1"}

    runs = {
        client.post("/api/workflows/greet/trigger", json=body, headers=headers).json()["run_id"] for _ in "ab"
    }

    assert len(runs) == 1


@pytest.mark.parametrize(
    ("name", "body", "problem", "words"),
    [
        ("nope", {}, (404, "not_found"), "'nope'"),
        ("greet", {}, (422, "input_invalid"), "'who' is missing"),
        ("greet", {"inputs": {"who": 3}}, (422, "input_invalid"), "who"),
        ("greet", {"inputs": []}, (422, "request_invalid"), "schema"),
    ],
)
def test_wrong_requests_are_answered_with_a_problem(
    client: httpx.Client, name: str, body: dict[str, Any], problem: tuple[int, str], words: str
) -> None:
    answer = client.post(f"/api/workflows/{name}/trigger", json=body)

    assert answer.status_code == problem[0]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"urn:penstock:{problem[1]}"
    assert words in answer.json()["detail"]


def test_inputs_cannot_order_prefect_about(
    stack: StackUnderTest, client: httpx.Client, tmp_path: Path
) -> None:
    file = tmp_path / "any.yaml"
    file.write_text(workflow([node("a")], name="any-object", inputs={"any": {"type": "object"}}))
    assert stack.cli("workflows", "apply", str(file)).returncode == 0
    hostile = {"any": {"deep": [{"__prefect_kind": "workspace_variable", "variable_name": "x"}]}}

    answer = client.post("/api/workflows/any-object/trigger", json={"inputs": hostile})

    assert answer.status_code == 422
    assert "__prefect_kind" in answer.json()["detail"]


def test_other_host_names_and_forms_are_refused(client: httpx.Client) -> None:
    rebound = client.get("/healthz", headers={"Host": "evil.example"})
    form = client.post(
        "/api/workflows/greet/trigger",
        content='{"inputs": {"who": "x"}}',
        headers={"Content-Type": "text/plain"},
    )

    assert rebound.status_code == 400
    assert form.status_code == 422


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"people": "people.yaml"},
        {"oidc": {"issuer": "https://login.penstock.example"}},
        {"gateway": {"url": "https://penstock.example"}},
    ],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "penstock.example"])  # noqa: S104  it is refused
def test_gateway_stays_on_loopback_until_it_is_told_who_may_come(host: str, settings: dict[str, Any]) -> None:
    gateway = {**settings.get("gateway", {}), "host": host}

    with pytest.raises(SettingsError, match=r"listens on loopback only|without PENSTOCK_PEOPLE"):
        serve(Settings.model_validate({**settings, "gateway": gateway}))


def test_identity_provider_wants_a_people_file() -> None:
    settings = Settings.model_validate({"oidc": {"issuer": "https://login.penstock.example"}})

    with pytest.raises(SettingsError, match="whoever the identity provider lets in could approve"):
        serve(settings)


def test_headers_of_a_proxy_count_only_where_there_is_one(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/").replace("http:", "https:")
    body = {"name": "x", "password": "x"}

    answer = client.post("/login", data=body, headers={"X-Forwarded-Proto": "https", "Origin": own})

    assert answer.status_code == 403


def test_unknown_run_is_not_found(client: httpx.Client) -> None:
    answer = client.get("/api/runs/00000000-0000-0000-0000-000000000000")

    assert (answer.status_code, answer.json()["status"]) == (404, 404)


def test_agents_and_openapi_are_there(client: httpx.Client) -> None:
    names = {agent["name"] for agent in client.get("/api/agents").json()}

    assert {"security-scanner", "notifier"} <= names
    assert client.get("/openapi.json").json()["openapi"].startswith("3.1")
