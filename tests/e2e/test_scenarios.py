"""The product from end to end: five stories, each on the real thing."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from engine.flows import node, workflow
from engine.test_gates import decide, end_of, requests, start, suspended
from engine.test_runs import prefect_state, states, task_runs
from penstock.sandbox import bubblewrap, tools
from support.checkouts import Repository, demand
from support.signing import token_of

pytestmark = pytest.mark.integration

LIBRARY = Path(__file__).parents[2] / "flows" / "library"
VULNERABLE = "import subprocess\n\n\ndef run(command):\n    subprocess.call(command, shell=True)\n"
MENDED = "import subprocess\n\n\ndef run(command):\n    subprocess.call(command)\n"


@pytest.fixture
def checkout(tmp_path: Path, services: Any) -> Repository:
    demand(bubblewrap.find(), "bubblewrap")
    demand((tools.tools_dir(services.settings) / "bin" / "semgrep").exists(), "the scanners")
    repository = Repository(tmp_path / "shop")
    repository.commit({"app/run.py": VULNERABLE, "README.md": "# Shop\n"})
    return repository


def patch_for(name: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{name}", f"b/{name}"
    )
    return "".join(lines)


async def test_simple_workflow_scans_and_tells(services: Any, checkout: Repository) -> None:
    text = (LIBRARY / "security-scan.yaml").read_text()

    run_id = await start(services, text, repository=str(checkout.root))
    shown = await end_of(services, run_id)

    assert shown["state"] == "completed", shown
    assert set(states(shown).values()) == {"succeeded"}
    assert (await prefect_state(services, shown)).name == "Completed"


async def test_approval_workflow_patches_after_a_yes_and_not_before(
    services: Any, checkout: Repository
) -> None:
    text = (LIBRARY / "fix-vulnerability.yaml").read_text()
    before = checkout.git("rev-parse", "main")
    patch = patch_for("app/run.py", VULNERABLE, MENDED)

    run_id = await start(services, text, repository=str(checkout.root), patch=patch)
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)
    whole = await services.approvals.show(UUID(request["id"]))
    assert whole["card"]["plan"]["diff"].endswith(patch)
    assert "app/run.py" in str(request["card"]["plan"]["targets"])
    assert checkout.git("rev-parse", "main") == before
    await decide(services, request)
    shown = await end_of(services, run_id)

    assert shown["state"] == "completed", shown
    assert checkout.git("show", "main:app/run.py") + "\n" == MENDED
    assert checkout.git("rev-parse", shown["nodes"]["apply"]["output"]["backup_path"]) == before
    assert shown["outputs"]["applied"] is True
    assert shown["outputs"]["findings_after"] < shown["outputs"]["findings_before"]


async def test_approval_workflow_undoes_the_patch_when_the_run_fails_later(
    services: Any, checkout: Repository, tmp_path: Path
) -> None:
    before = checkout.git("rev-parse", "main^{tree}")
    inputs = {"repository_path": str(checkout.root), "patch_content": "{{ inputs.patch }}"}
    text = workflow(
        [
            node("apply", "patcher", inputs=inputs, undo="automatic"),
            node("check", "needs-file", needs=["apply"], inputs={"file": str(tmp_path / "never")}),
        ],
        inputs={"patch": {"type": "string"}},
    )

    run_id = await start(services, text, patch=patch_for("app/run.py", VULNERABLE, MENDED))
    (request,) = await requests(services, run_id)
    await decide(services, request)
    shown = await end_of(services, run_id)

    assert states(shown) == {"apply": "undone", "check": "failed"}
    assert checkout.git("rev-parse", "main^{tree}") == before
    assert (checkout.root / "app/run.py").read_text() == VULNERABLE


async def test_complex_dag_runs_in_order_and_passes_every_output_on(services: Any) -> None:
    text = workflow(
        [
            node("start", inputs={"text": "s", "number": 1}),
            node("left", inputs={"text": "{{ nodes.start.output.text }}l"}),
            node("right", inputs={"text": "{{ nodes.start.output.text }}r"}),
            node("join", inputs={"text": "{{ nodes.left.output.text }}{{ nodes.right.output.text }}"}),
            node("end", needs=["join"], when="{{ nodes.start.output.number == 1 }}"),
        ],
        outputs={"joined": "{{ nodes.join.output.text }}"},
    )

    run_id = await start(services, text)
    shown = await end_of(services, run_id)
    found = await task_runs(services, shown)

    assert (shown["state"], shown["outputs"]) == ("completed", {"joined": "slsr"})
    ended = {name: item["ended_at"] for name, item in shown["nodes"].items()}
    began = {name: item["started_at"] for name, item in shown["nodes"].items()}
    assert ended["start"] <= min(began["left"], began["right"])
    assert max(ended["left"], ended["right"]) <= began["join"]
    assert ended["join"] <= began["end"]
    waits_for = {str(item.id) for item in found["join"].task_inputs["wait_for"]}
    assert waits_for == {str(found["left"].id), str(found["right"].id)}


ALERT: Mapping[str, Any] = {
    "version": "4",
    "groupKey": '{}:{alertname="VulnerablePackage"}',
    "status": "firing",
    "receiver": "penstock",
    "commonLabels": {"alertname": "VulnerablePackage", "severity": "critical", "service": "shop"},
    "alerts": [{"status": "firing", "labels": {"service": "shop"}, "fingerprint": "c0ffee"}],
}


async def post_as_alertmanager(stack: Any, name: str, payload: Mapping[str, Any]) -> list[str]:
    """Stand in for the trigger: fill the inputs from an alert and start the run, as often as it comes."""
    url = f"http://127.0.0.1:{stack.settings.port}/api/workflows/{name}/trigger"
    labels = payload["commonLabels"]
    token = await asyncio.to_thread(token_of, stack)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
        answers = [
            await client.post(
                url,
                json={"inputs": {"service": labels["service"], "severity": labels["severity"]}},
                headers={"Idempotency-Key": payload["groupKey"]},
            )
            for _ in range(2)
        ]
    return [answer.raise_for_status().json()["run_id"] for answer in answers]


async def test_webhook_starts_one_run_that_tells_people(services: Any, stack: Any, tmp_path: Path) -> None:
    told = tmp_path / "told"
    text = workflow(
        [
            node("look", inputs={"text": "{{ inputs.service }}"}),
            node(
                "tell",
                "trace",
                needs=["look"],
                when="{{ inputs.severity == 'critical' }}",
                inputs={"file": str(told)},
            ),
        ],
        inputs={
            "service": {"type": "string"},
            "severity": {"type": "string", "enum": ["warning", "critical"]},
        },
    )
    name = (await services.apply(text, file="test.yaml", by="test")).name

    first, second = await post_as_alertmanager(stack, name, ALERT)
    shown = await end_of(services, UUID(first))

    assert first == second, "an alert that comes twice starts one run"
    assert shown["state"] == "completed"
    assert len(told.read_text().splitlines()) == 1


async def test_errors_are_retried_then_fail_the_run_and_are_seen(services: Any) -> None:
    retry = {"max": 3, "base": "10ms"}
    heals = workflow([node("flaky", "flaky", inputs={"failures": 2}, retry=retry)])
    fails = workflow(
        [node("flaky", "flaky", inputs={"failures": 9}, retry=retry), node("next", needs=["flaky"])]
    )

    healed = await end_of(services, await start(services, heals))
    failed = await end_of(services, await start(services, fails))

    assert (healed["state"], healed["nodes"]["flaky"]["attempts"]) == ("completed", 3)
    assert (failed["state"], failed["nodes"]["flaky"]["attempts"]) == ("failed", 3)
    assert states(failed)["next"] == "skipped"
    state = await prefect_state(services, failed)
    assert state.name == "Failed"
    assert "attempt 3 failed" in state.message
