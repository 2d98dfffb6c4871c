"""The flows that Penstock ships and those of its guide, run as users run them."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.flows import workflow
from penstock.engine.environment import api_url
from penstock.engine.runs import FLOW_NAME
from support.stack import StackUnderTest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "PYTHON_FLOWS.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = re.findall(r"^prefect (.*)$", GUIDE, re.MULTILINE)


@pytest.fixture(scope="session")
def environment(stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give what a user's shell would have, next to a running stack."""
    return {
        **stack.environment,
        "PREFECT_API_URL": api_url(stack.settings),
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
    }


@pytest.fixture(scope="session")
def deployed(environment: dict[str, str]) -> dict[str, str]:
    """Deploy everything in prefect.yaml with the commands of the guide."""
    for command in COMMANDS[:2]:
        done = python("-m", "prefect", *command.split(), env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    return environment


def python(*arguments: str, env: Mapping[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=dict(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.parametrize(("code", "said"), EXAMPLES)
def test_guide_example_runs(code: str, said: str, environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "example_flow.py"
    file.write_text(code)

    done = python(str(file), env=environment)

    assert (done.returncode, done.stdout) == (0, said), done.stderr


@pytest.mark.slow
def test_guide_example_runs_without_a_server(environment: dict[str, str], tmp_path: Path) -> None:
    code, said = EXAMPLES[0]
    file = tmp_path / "example_flow.py"
    file.write_text(code)
    alone = {name: value for name, value in environment.items() if name != "PREFECT_API_URL"}

    done = python(str(file), env={**alone, "PREFECT_HOME": str(tmp_path / "prefect")})

    assert (done.returncode, done.stdout) == (0, said), done.stderr


def test_nightly_scan_tells_what_it_could_not_scan_and_fails(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = python("flows/nightly_scan.py", str(tmp_path / "nowhere"), env=environment)

    assert done.returncode == 1
    assert "Nightly scan: 0 of 1 repositories scanned" in done.stderr
    assert "nowhere: not scanned: " in done.stderr


async def test_deploy_registers_both_flows_with_their_forms(deployed: dict[str, str], services: Any) -> None:
    del deployed
    by_name = await services.client.read_deployment_by_name(f"{FLOW_NAME}/by-name")
    nightly = await services.client.read_deployment_by_name("nightly-scan/nightly")

    assert by_name.parameter_openapi_schema["required"] == ["workflow", "inputs"]
    assert by_name.parameter_openapi_schema["properties"]["workflow"]["description"]
    assert nightly.parameters == {"repositories": ["."], "targets": ["log"]}
    assert [item.active for item in nightly.schedules] == [False]


async def test_workflow_is_run_by_its_name_on_a_process_worker(
    deployed: dict[str, str], services: Any
) -> None:
    outputs = {"said": "{{ nodes.a.output.text }}"}
    nodes = [{"id": "a", "agent": "echo", "with": {"text": "done"}}]
    text = workflow(nodes, name="called-by-name", outputs=outputs)
    await services.apply(text, file="test.yaml", by="test")
    good = await _schedule(services, {"workflow": "called-by-name", "inputs": {}})
    bad = await _schedule(services, {"workflow": "no-such", "inputs": {}})

    worker = ("-m", "prefect", "worker", "start", "--pool", "python", "--run-once")
    done = await asyncio.to_thread(python, *worker, env=deployed)
    ends = [(await services.client.read_flow_run(run)).state for run in (good, bad)]

    assert [end.name for end in ends] == ["Completed", "Failed"], done.stdout + done.stderr
    assert "no-such" in ends[1].message


async def _schedule(services: Any, parameters: dict[str, Any]) -> Any:
    deployment = await services.client.read_deployment_by_name(f"{FLOW_NAME}/by-name")
    run = await services.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    return run.id


async def test_guide_starts_a_workflow_with_parameters_that_the_flow_has(
    deployed: dict[str, str], services: Any
) -> None:
    del deployed
    words = shlex.split(COMMANDS[3])
    given = [words[at + 1].partition("=")[0] for at, word in enumerate(words) if word == "--param"]

    deployment = await services.client.read_deployment_by_name(words[2])

    assert sorted(given) == sorted(deployment.parameter_openapi_schema["properties"])


@pytest.mark.parametrize("file", sorted((ROOT / "flows").glob("*.py")), ids=lambda file: file.name)
def test_flow_file_shadows_no_module(file: Path) -> None:
    spec = importlib.util.find_spec(file.stem)

    assert spec is None or spec.origin == str(file)
