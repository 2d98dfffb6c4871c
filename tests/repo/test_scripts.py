"""The scripts that set a checkout up and run it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from support.checkouts import demand
from support.stack import free_port

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "scripts" / "local"


def shell(folder: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a bash command that finds programs in one folder only."""
    bash = shutil.which("bash")
    assert bash is not None
    environment = {"PATH": str(folder), **variables}
    return subprocess.run([bash, "-c", command], env=environment, capture_output=True, text=True, check=False)


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("bash", "head", "dirname", "sed", "git"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    return tmp_path


FIND = f". '{LOCAL}/python.sh'; find_python"


def test_python_too_old_is_passed_over(folder: Path) -> None:
    program(folder, "python3", "echo Python 3.9.1; exit 1")
    (folder / "python3.12").symlink_to(sys.executable)

    assert shell(folder, FIND).stdout == "python3.12\n"


def test_python_that_is_named_wins(folder: Path) -> None:
    (folder / "python3").symlink_to(sys.executable)

    assert shell(folder, FIND, PYTHON=sys.executable).stdout.strip() == sys.executable


def test_lack_of_python_says_what_was_found_and_what_to_do(folder: Path) -> None:
    program(folder, "python3", "echo Python 3.9.1; exit 1")

    done = shell(folder, FIND)

    assert done.returncode == 1
    assert "needs Python 3.11 or newer; found: python3 (Python 3.9.1)" in done.stderr
    assert "PYTHON=" in done.stderr


def test_run_explains_itself_and_refuses_unknown_options(folder: Path) -> None:
    shown = shell(folder, f"'{LOCAL}/run.sh' --help")
    refused = shell(folder, f"'{LOCAL}/run.sh' --twice")

    assert "--once" in shown.stdout
    assert (refused.returncode, "--twice" in refused.stderr) == (2, True)


def test_run_without_a_usable_python_ends_with_an_error(folder: Path) -> None:
    done = shell(folder, f"'{LOCAL}/run.sh' --once")

    assert done.returncode == 1
    assert "found: none" in done.stderr


@contextmanager
def running(home: Path, *options: str) -> Generator[subprocess.Popen[str]]:
    """Run `run.sh` as a terminal would, as a process group of its own."""
    demand((ROOT / ".venv" / "penstock-setup.sha256").is_file(), "the environment made by run-tests.sh")
    environment = {
        **os.environ,
        "PENSTOCK_HOME": str(home),
        "PENSTOCK_PORT": str(free_port()),
        "PENSTOCK_PREFECT__PORT": str(free_port()),
    }
    process = subprocess.Popen(
        [str(LOCAL / "run.sh"), *options],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_run_once_ends_with_the_code_of_its_run(tmp_path: Path) -> None:
    with running(tmp_path, "--once") as process:
        output, _ = process.communicate(timeout=500)

    assert process.returncode == 0, output
    assert "completed: 2 succeeded" in output


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_run_ends_every_process_that_it_started(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with running(tmp_path) as process:
        assert process.stdout is not None
        said = next((line for line in process.stdout if "stays up" in line), None)
        assert said is not None
        family = psutil.Process(process.pid).children(recursive=True)

        os.killpg(process.pid, number)
        process.communicate(timeout=60)

        assert process.returncode == code
        assert family
        assert psutil.wait_procs(family, timeout=10)[1] == []
