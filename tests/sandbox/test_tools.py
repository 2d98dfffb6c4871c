from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.errors import ToolFailed, ToolMissing
from penstock.sandbox import tools
from penstock.settings import Settings


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    """Give requirements that need no network: none."""
    path = tmp_path / "pins.txt"
    path.write_text("# nothing\n")
    return path


def test_tools_dir_is_the_setting_or_inside_our_environment(tmp_path: Path) -> None:
    assert tools.tools_dir(Settings(tools=tmp_path)) == tmp_path
    assert tools.tools_dir(Settings()) == Path(sys.prefix).resolve() / "penstock-tools"


def test_tool_path_missing_tells_the_mending_line(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="'semgrep' is not installed; run: penstock tools install"):
        tools.tool_path("semgrep", tmp_path)


def test_requirements_are_pinned_with_hashes_and_without_addresses() -> None:
    text = tools.requirements().read_text()

    assert "--hash=sha256:" in text
    assert "://" not in text
    assert all(
        f"\n{name}==" in text for name in ("bandit", "bc-detect-secrets", "checkov", "radon", "semgrep")
    )


def test_install_makes_a_working_environment_at_its_final_place(tmp_path: Path, pins: Path) -> None:
    folder = tools.install(tmp_path / "a place" / "tools", pins=pins)

    done = subprocess.run(
        [folder / "bin" / "python", "-c", "import sys; print(sys.prefix)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == [".tools.lock", "tools"]


def test_install_keeps_a_current_environment(tmp_path: Path, pins: Path) -> None:
    folder = tools.install(tmp_path / "tools", pins=pins)
    (folder / "mark").touch()

    tools.install(folder, pins=pins)

    assert (folder / "mark").exists()


def test_install_replaces_an_environment_of_other_requirements(tmp_path: Path, pins: Path) -> None:
    folder = tools.install(tmp_path / "tools", pins=pins)
    (folder / "mark").touch()
    pins.write_text("# still nothing\n")

    tools.install(folder, pins=pins)

    assert not (folder / "mark").exists()
    assert not tools.is_current(folder)


def test_install_failure_leaves_the_old_environment(tmp_path: Path, pins: Path) -> None:
    folder = tools.install(tmp_path / "tools", pins=pins)
    (folder / "mark").touch()
    pins.write_text("a-package-without-a-hash\n")

    with pytest.raises(ToolFailed, match="could not be installed"):
        tools.install(folder, pins=pins)

    assert (folder / "mark").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tools.lock", "pins.txt", "tools"]
