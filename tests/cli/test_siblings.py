"""Workflow files that run other workflows, checked where they lie."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from engine.flows import node, workflow
from penstock.cli.main import app
from penstock.cli.siblings import WorkflowFiles

TEXT = {"title": {"type": "string"}}


def parent(folder: Path, runs: str = "child", name: str = "parent", with_: object = None) -> Path:
    step = {"id": "sub", "workflow": runs, "with": {"title": "x"} if with_ is None else with_}
    return write(folder / f"{name}.yaml", workflow([step], name=name))


def child(folder: Path, file: str = "child.yml", name: str = "child") -> Path:
    inputs = {"title": "{{ inputs.title }}", "body": "y"}
    return write(folder / file, workflow([node("tell", "notifier", inputs)], name=name, inputs=TEXT))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def penstock(command: str, *files: Path) -> Result:
    return CliRunner().invoke(app, [command, *map(str, files)])


def test_sub_workflow_is_found_in_the_same_folder(tmp_path: Path) -> None:
    child(tmp_path)
    file = parent(tmp_path)

    assert penstock("validate", file).exit_code == 0
    assert "workflow child" in penstock("graph", file).stdout


def test_sub_workflow_is_checked_against_its_inputs(tmp_path: Path) -> None:
    child(tmp_path)

    told = penstock("validate", parent(tmp_path, with_={"titel": "x"}))

    assert told.exit_code == 2
    assert "titel" in told.stderr


def test_sub_workflow_elsewhere_must_be_named(tmp_path: Path) -> None:
    file, elsewhere = parent(tmp_path), child(tmp_path / "elsewhere")

    alone, together = penstock("validate", file), penstock("validate", file, elsewhere)

    assert alone.exit_code == 2
    assert "unknown workflow 'child'" in alone.stderr
    assert together.exit_code == 0


def test_named_file_counts_before_one_of_the_folder(tmp_path: Path) -> None:
    write(
        tmp_path / "child.yaml",
        workflow([node("tell", "notifier", {"title": "a", "body": "b"})], name="child"),
    )
    file = parent(tmp_path)

    assert penstock("validate", file).exit_code == 2
    assert penstock("validate", file, child(tmp_path / "elsewhere")).exit_code == 0


def test_broken_siblings_do_not_disturb(tmp_path: Path) -> None:
    child(tmp_path)
    write(tmp_path / "compose.yaml", "services: {a: [")
    write(tmp_path / "other.yaml", "kind: Deployment")
    (tmp_path / "folder.yaml").mkdir()

    assert penstock("validate", parent(tmp_path)).exit_code == 0


def test_broken_sibling_that_is_needed_is_told_of(tmp_path: Path) -> None:
    file = parent(tmp_path)
    broken = write(child(tmp_path), child(tmp_path).read_text().replace('"nodes"', '"nods"'))

    told = penstock("validate", file)

    assert told.exit_code == 2
    assert f"{broken}:1:" in told.stderr
    assert "'nods'" in told.stderr

    write(broken, "{")
    assert f"{broken}:1:" in penstock("validate", file).stderr


def test_workflows_that_run_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "child.yaml", workflow([{"id": "back", "workflow": "parent"}], name="child"))

    told = penstock("validate", parent(tmp_path, with_={}))

    assert told.exit_code == 2
    assert "parent -> child -> parent" in told.stderr


def test_files_that_run_others_come_after_them(tmp_path: Path) -> None:
    top, middle = parent(tmp_path, runs="middle", name="top"), parent(tmp_path, name="middle")
    last = child(tmp_path)

    assert WorkflowFiles([top, middle, last]).children_first() == [last, middle, top]


def test_files_in_a_ring_keep_their_order(tmp_path: Path) -> None:
    ring = [parent(tmp_path, runs="b", name="a"), parent(tmp_path, runs="a", name="b")]

    assert WorkflowFiles(ring).children_first() == ring
