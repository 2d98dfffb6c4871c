"""The rules of tests/conftest.py, tried on a test session of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SKIPS = """
import pytest


def test_lacks_something():
    pytest.skip("bubblewrap is missing")


@pytest.mark.skipif(True, reason="needs root")
def test_wants_root():
    pass
"""


@pytest.fixture
def session(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_bytes((ROOT / "tests" / "conftest.py").read_bytes())
    (tmp_path / "test_skips.py").write_text(SKIPS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def run(session: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in {"CI", "PENSTOCK_SANDBOX"}
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"],
        cwd=session,
        env={**environment, "PYTHONPATH": str(ROOT / "tests"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_skip_is_a_skip_at_home(session: Path) -> None:
    done = run(session)

    assert done.returncode == 0, done.stdout
    assert "2 skipped" in done.stdout


def test_skip_fails_on_ci_unless_it_is_about_who_runs(session: Path) -> None:
    done = run(session, CI="true")

    assert done.returncode == 1
    assert "1 failed, 1 skipped" in done.stdout
    assert "skipped, which CI does not accept" in done.stdout


@pytest.mark.parametrize("value", ["none", "NONE"])
def test_session_without_a_sandbox_ends_at_once(session: Path, value: str) -> None:
    done = run(session, PENSTOCK_SANDBOX=value)

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no test may pass" in done.stderr
    assert "passed" not in done.stdout
