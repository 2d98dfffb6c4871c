"""The built wheel in an empty environment, as a user gets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel with pip; return the folder of the environment's programs."""
    folder = tmp_path_factory.mktemp("installed")
    quiet = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    python = str(folder / "venv" / "bin" / "python")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    run(sys.executable, "-m", "venv", str(folder / "venv"), cwd=folder)
    run(python, *quiet, "--require-hashes", "-r", str(ROOT / "requirements" / "base.txt"), cwd=folder)
    run(python, *quiet, "--no-deps", str(next(folder.glob("*.whl"))), cwd=folder)
    run(python, "-m", "pip", "check", cwd=folder)
    return folder / "venv" / "bin"


def run(*command: str, cwd: Path) -> str:
    environment = {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}
    }
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_installed_command_shows_its_help(installed: Path, tmp_path: Path) -> None:
    assert "Usage: penstock" in run(str(installed / "penstock"), "--help", cwd=tmp_path)


def test_installed_command_validates_a_shipped_workflow(installed: Path, tmp_path: Path) -> None:
    library = next(installed.parent.glob("lib/python3*/site-packages/penstock/library"))

    for workflow in library.glob("*.yaml"):
        run(str(installed / "penstock"), "validate", str(workflow), cwd=tmp_path)


def test_installed_command_lists_the_shipped_agents(installed: Path, tmp_path: Path) -> None:
    listed = json.loads(run(str(installed / "penstock"), "agents", "list", "--json", cwd=tmp_path))

    assert {"notifier", "security-scanner"} <= {agent["name"] for agent in listed["agents"]}


def test_installed_package_has_the_pages_of_the_gateway(installed: Path, tmp_path: Path) -> None:
    code = "from penstock.gateway import pages; print(pages.STATIC)"

    static = Path(run(str(installed / "python"), "-c", code, cwd=tmp_path).strip())

    source = ROOT / "src" / "penstock" / "gateway"
    for folder in ("static", "templates"):
        wanted = {path.name for path in (source / folder).iterdir()}
        assert wanted == {path.name for path in (static.parent / folder).iterdir()}


def test_installed_package_knows_its_scanners(installed: Path, tmp_path: Path) -> None:
    code = "from penstock.sandbox.tools import requirements; print(requirements())"

    shown = run(str(installed / "python"), "-c", code, cwd=tmp_path).strip()

    assert Path(shown).read_bytes() == (ROOT / "requirements" / "scanners.txt").read_bytes()
