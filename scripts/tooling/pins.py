"""Keep requirements/*.in and *.txt in step with pyproject.toml.

Without an argument it writes the lists and resolves them with uv; `tooling.pins.problems` says,
without a network, what does not fit.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "requirements"
PYTHON = "3.11"
"""Oldest Python that the pins must hold for; markers in them serve the newer ones."""

_HEAD = "# Written by scripts/tooling/pins.py from pyproject.toml.\n"
_OPTIONS = (
    "--universal",
    "--generate-hashes",
    "--no-header",
    "--no-annotate",
    "--no-emit-index-url",
    "--quiet",
)
_PIN = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?P<rest>[^\n]*(?:\n[ \t]+[^\n]*)*)", re.MULTILINE
)


def main() -> int:
    """Write the lists and resolve them."""
    for name, text in lists(tomllib.loads((ROOT / "pyproject.toml").read_text())).items():
        (FOLDER / f"{name}.in").write_text(text)
        _resolve(name, ["-c", "requirements/base.txt"] if name == "dev" else [])
    return 0


def lists(project: dict[str, Any]) -> dict[str, str]:
    """Give the text of each `.in` file.

    The build tools are among the base: an editable installation then needs nothing unpinned.
    """
    base = [*project["project"]["dependencies"], *project["build-system"]["requires"], "editables>=0.5"]
    dev = project["project"]["optional-dependencies"]["dev"]
    return {"base": _HEAD + _lines(base), "dev": _HEAD + _lines(dev)}


def problems(name: str, folder: Path = FOLDER) -> list[str]:
    """Say what of `<name>.in` the pins in `<name>.txt` do not fulfil, and which pins lack a hash."""
    pins = {
        canonicalize_name(match["name"]): match
        for match in _PIN.finditer((folder / f"{name}.txt").read_text())
    }
    bare = [
        f"{name}.txt: {pin} has no hash"
        for pin, match in pins.items()
        if "--hash=sha256:" not in match["rest"]
    ]
    return [*_unfulfilled(name, folder, {pin: match["version"] for pin, match in pins.items()}), *bare]


def _unfulfilled(name: str, folder: Path, versions: dict[str, str]) -> Iterator[str]:
    for line in (folder / f"{name}.in").read_text().splitlines():
        if not (text := line.partition("#")[0].strip()):
            continue
        wanted = Requirement(text)
        version = versions.get(canonicalize_name(wanted.name))
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            yield f"{name}.txt: {text} is pinned to {version}"


def _lines(requirements: Sequence[str]) -> str:
    return "".join(f"{requirement}\n" for requirement in sorted(requirements, key=str.lower))


def _resolve(name: str, options: Sequence[str]) -> None:
    target = f"requirements/{name}"
    command = ["uv", "pip", "compile", f"{target}.in", *options, *_OPTIONS, "--python-version", PYTHON]
    subprocess.run([*command, "-o", f"{target}.txt"], cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
