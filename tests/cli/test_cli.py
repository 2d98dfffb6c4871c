"""Commands as people and scripts use them: output and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.flows import node, workflow
from penstock.cli.runs import parse_inputs
from penstock.errors import InputInvalid
from support.stack import StackUnderTest, free_port

pytestmark = pytest.mark.integration


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os  # noqa: PLC0415

    return subprocess.run(
        [sys.executable, "-m", "penstock.cli.main", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_validate_tells_every_mistake_and_fails(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(workflow([node("a", "security-scaner"), node("b", "notifier", {"nope": 1})], name="bad"))

    told = cli("validate", str(file))
    as_json = cli("validate", str(file), "--json")

    assert told.returncode == as_json.returncode == 2
    assert "did you mean 'security-scanner'?" in told.stderr
    assert len(told.stderr.splitlines()) >= 2
    found = json.loads(as_json.stdout)[0]
    assert not found["valid"]
    assert {"file", "line", "column", "message"} <= set(found["problems"][0])


def test_validate_of_a_missing_file_names_it(tmp_path: Path) -> None:
    told = cli("validate", str(tmp_path / "none.yaml"))

    assert told.returncode == 2
    assert "none.yaml:1:1: No such file" in told.stderr


def test_schema_and_graph_are_printed(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    inputs = {"title": "x", "body": "y"}
    file.write_text(
        workflow([node("a", "notifier", inputs), node("b", "notifier", inputs, needs=["a"])], name="good")
    )

    assert json.loads(cli("schema").stdout)["title"]
    assert "node_a --> node_b" in cli("graph", str(file)).stdout


def test_commands_say_what_to_do_when_nothing_runs(tmp_path: Path) -> None:
    told = cli("workflows", "delete", "x", PENSTOCK_HOME=str(tmp_path))

    assert told.returncode == 2
    assert "penstock up" in told.stderr


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    told = cli("up", PENSTOCK_HOME=str(tmp_path), PENSTOCK_WORKER__CONCURRENCY="many")

    assert told.returncode == 2
    assert "PENSTOCK_WORKER__CONCURRENCY" in told.stderr


def test_up_fails_early_without_its_database_and_shows_no_password(tmp_path: Path) -> None:
    told = cli(
        "up",
        PENSTOCK_HOME=str(tmp_path),
        PENSTOCK_PORT=str(free_port()),
        PENSTOCK_PREFECT__PORT=str(free_port()),
        PENSTOCK_DATABASE_URL=f"postgresql://x:sekret@127.0.0.1:{free_port()}/none",
    )

    assert told.returncode == 1
    assert "cannot be reached" in told.stderr
    assert "sekret" not in told.stderr + told.stdout


def test_up_refuses_a_second_stack_on_one_home(stack: StackUnderTest) -> None:
    told = stack.cli("up")

    assert told.returncode == 2
    assert "already up" in told.stderr


def test_run_prints_the_whole_run_as_json(stack: StackUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "say.yaml"
    inputs = {"text": {"type": "string"}, "number": {"type": "integer", "default": 1}}
    with_ = {"text": "{{ inputs.text }}", "number": "{{ inputs.number }}"}
    file.write_text(workflow([node("a", inputs=with_)], name="say", inputs=inputs))

    ran = stack.cli("run", str(file), "--input", "text=hi there", "-i", "number=5", "--json")

    assert ran.returncode == 0, ran.stderr
    shown = json.loads(ran.stdout)
    assert shown["state"] == "completed"
    assert shown["nodes"]["a"]["output"] == {"text": "hi there", "number": 5, "attempt": 1}
    assert set(shown["nodes"]["a"]) >= {"state", "output", "error", "attempts", "started_at", "ended_at"}


def test_run_that_fails_exits_with_one_and_says_why(stack: StackUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "fail.yaml"
    file.write_text(workflow([node("a", "fail", {"text": "no disk"})], name="failing"))

    ran = stack.cli("run", str(file))

    assert ran.returncode == 1
    assert "node 'a' failed: no disk" in ran.stdout


def test_runs_and_revisions_can_be_looked_up(stack: StackUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "kept.yaml"
    file.write_text(workflow([node("a")], name="looked-up"))
    run_id = json.loads(stack.cli("run", str(file), "--json").stdout)["run_id"]
    file.write_text(workflow([node("a"), node("b")], name="looked-up"))
    applied = stack.cli("workflows", "apply", str(file), "--json")

    assert json.loads(applied.stdout)[0]["revision"] == 2
    assert run_id in stack.cli("runs", "list", "--workflow", "looked-up").stdout
    assert "succeeded" in stack.cli("runs", "show", run_id).stdout
    assert "nodes.b" in stack.cli("workflows", "diff", "looked-up").stdout
    assert stack.cli("workflows", "show", "looked-up", "--revision", "1").stdout == workflow(
        [node("a")], name="looked-up"
    )
    assert stack.cli("workflows", "delete", "looked-up").returncode == 0
    assert "looked-up" not in stack.cli("workflows", "list").stdout


def test_parse_inputs_keeps_text_and_reads_json() -> None:
    types = {"a": "string", "b": "integer", "c": "array"}

    assert parse_inputs(["a=1=2", "b=3", 'c=["x"]'], types) == {"a": "1=2", "b": 3, "c": ["x"]}
    for wrong in (["a"], ["b=x"], ["a=1", "a=2"]):
        with pytest.raises(InputInvalid):
            parse_inputs(wrong, types)
