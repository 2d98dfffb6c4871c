"""Make a checkout ready: virtual environment, pinned packages, scanners, sandbox.

Needs nothing but the standard library of Python 3.11 and git; uv is used when it is there.
What is already as it should be is not touched, so a second call takes no time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
MARKER = VENV / "penstock-setup.sha256"
BASE = ROOT / "requirements" / "base.txt"
DEV = ROOT / "requirements" / "dev.txt"
PROJECT = ROOT / "pyproject.toml"


class SetupError(Exception):
    """The checkout could not be made ready; the message says what to do."""


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description="Make this checkout ready to run.")
    parser.add_argument("--dev", action="store_true", help="what the checks and tests need, too")
    options = parser.parse_args()
    try:
        prepare(dev=options.dev)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def prepare(*, dev: bool) -> None:
    """Bring everything up to date.

    Raises:
        SetupError: Something could not be installed.
    """
    pins = [BASE, DEV] if dev else [BASE]
    make_environment()
    if installed() not in acceptable(dev=dev):
        for path in pins:
            install_pins(path)
        install_project()
        MARKER.write_text(digest(pins) + "\n")
    provide_bubblewrap()
    run([str(PYTHON), "-m", "penstock.cli.main", "tools", "install"], "looking after the scanners")


def acceptable(*, dev: bool) -> set[str]:
    """Give the markers of environments that will do; one for development also runs the product."""
    return {digest([BASE, DEV])} | (set() if dev else {digest([BASE])})


def digest(pins: Sequence[Path]) -> str:
    """Sum up what an environment is made from."""
    facts = hashlib.sha256(str(ROOT).encode())
    for path in (*pins, PROJECT):
        facts.update(path.read_bytes())
    return facts.hexdigest()


def installed() -> str:
    """Read what the environment was made from; empty when that is unknown."""
    return MARKER.read_text().strip() if MARKER.is_file() else ""


def make_environment() -> None:
    """Create the virtual environment unless a working one is there."""
    if PYTHON.exists() and works([str(PYTHON), "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]):
        return
    MARKER.unlink(missing_ok=True)
    if uv := find_uv():
        run(
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)],
            "creating the environment",
        )
        return
    if not works([sys.executable, "-c", "import ensurepip, venv"]):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupError(
            f"{sys.executable} lacks venv; on Debian or Ubuntu: apt-get install python{version}-venv"
        )
    run([sys.executable, "-m", "venv", "--clear", str(VENV)], "creating the environment")


def install_pins(path: Path) -> None:
    """Install exactly the listed packages, each checked against its hash."""
    what = f"installing {path.relative_to(ROOT)}"
    run([*installer(), "--require-hashes", "-r", str(path)], what)


def install_project() -> None:
    """Install the project itself so that edits take effect; its build tools are pinned as well."""
    run([*installer(), "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], "installing Penstock")


def installer() -> list[str]:
    """Give the start of the command that installs packages into the environment."""
    if uv := find_uv():
        return [uv, "pip", "install", "--quiet", "--python", str(PYTHON)]
    if not works([str(PYTHON), "-m", "pip", "--version"]):
        run([str(PYTHON), "-m", "ensurepip"], "installing pip")
    return [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def find_uv() -> str | None:
    """Find uv, if it is there and starts."""
    uv = shutil.which("uv")
    return uv if uv and works([uv, "--version"]) else None


def provide_bubblewrap() -> None:
    """Install the sandbox where it is missing and we may; otherwise say how."""
    if shutil.which("bwrap") or not sys.platform.startswith("linux"):
        return
    if prefix := apt():
        # The lists may be absent (containers) or out of reach (offline); installing decides.
        works([*prefix, "update", "--quiet"])
        if works([*prefix, "install", "--yes", "--no-install-recommends", "bubblewrap"]) and shutil.which(
            "bwrap"
        ):
            say("installed bubblewrap, the sandbox of the tools")
            return
    say("bubblewrap is missing and the scanners do not run without a sandbox; install it:")
    say("  apt-get install bubblewrap   (or dnf, apk, pacman)")


def apt() -> list[str] | None:
    """Give the command that installs system packages without asking, if we may."""
    program = shutil.which("apt-get")
    if program is None:
        return None
    if os.geteuid() == 0:
        return [program]
    sudo = shutil.which("sudo")
    return [sudo, "-n", program] if sudo and works([sudo, "-n", "true"]) else None


def works(command: Sequence[str]) -> bool:
    """Say whether a command succeeds; its output does not matter."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    return done.returncode == 0


def run(command: Sequence[str], what: str) -> None:
    """Run a command that must succeed.

    Raises:
        SetupError: It does not.
    """
    say(what)
    done = subprocess.run(command, check=False, cwd=ROOT)
    if done.returncode:
        raise SetupError(f"{what} failed (exit code {done.returncode}): {' '.join(map(str, command))}")


def say(text: str) -> None:
    """Tell the person what happens."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
