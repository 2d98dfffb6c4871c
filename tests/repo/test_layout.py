"""The shape of the repository: folders, wheel, versions, pins, and what no file may name."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import penstock
from tooling import pins, size

ROOT = Path(__file__).parents[2]

REGISTRIES = frozenset(
    {
        "a4aa2ac280bb8d1a0ce7a1be5a7bfb10292b49fe9435ad5cff19f421f3c70e41",
        "8b5bb5eb9d758455b8635855cf8aaf05b68775e3f83f0291e800ef338fb9783c",
        "8743857e3ea00fd1c64bbc68b8af241954ad2c285e7a60340eec7ea5dcb200db",
        "3ca29e55be4befa48f875d24c27f9bed32fe06588819ed6264084b6670a1ebb0",
        "87d14f070cb9686970d008f9f94e668075fd37620381409858bf040ae1271d51",
        "789e46d79514e28093cabe2bb4a0798266f584b0e508ef269ebabb6e57859290",
        "71741fe2460a615058687c4585f665af5e825968e51a512ffb14c6f2684a397d",
    }
)
"""SHA-256 of host names of package registries; in clear they would break the rule they serve."""

HOST = re.compile(r"(?<![\w.-])(?:[a-z0-9-]+\.)+[a-z]{2,}(?![\w-])")
MACHINE = re.compile(r"(?<![\w.~}/-])/(?:home|Users|work|mnt|data)/\w")
NUMBER = re.compile(r"^## \[(\d+\.\d+\.\d+)\]", re.MULTILINE)


@pytest.fixture(scope="session")
def tracked() -> list[Path]:
    """List the text files that git knows or would add."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:1024]]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.parametrize("folder", ["agents", "blocks", "flows"])
def test_top_level_folder_is_no_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_import_of_agents_finds_another_distribution(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("OWNER = 'somebody else'\n")

    done = subprocess.run(
        [sys.executable, "-c", "import penstock, penstock_agents, agents; print(agents.OWNER)"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "somebody else"


def test_wheel_has_only_names_of_ours(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition("/")[0] for name in archive.namelist()}

    assert all(name.startswith("penstock") for name in names), names


@pytest.mark.parametrize(
    "file",
    [
        "penstock/library/security-scan.yaml",
        "penstock/sandbox/scanners.txt",
        "penstock_agents/security_scanner/rules/python.yaml",
    ],
)
def test_wheel_carries_what_the_code_reads(wheel: Path, file: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert file in archive.namelist()


def test_wheel_carries_every_shipped_workflow(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    assert {f"penstock/library/{path.name}" for path in (ROOT / "flows" / "library").glob("*.yaml")} <= names


def test_changelog_and_version_agree() -> None:
    released = NUMBER.findall((ROOT / "CHANGELOG.md").read_text())

    assert released[:1] in ([], [penstock.__version__])


def test_changelog_says_what_is_new() -> None:
    text = (ROOT / "CHANGELOG.md").read_text().partition("## [Unreleased]")[2].partition("\n## [")[0]

    assert re.search(r"^- \S", text, re.MULTILINE) or NUMBER.search((ROOT / "CHANGELOG.md").read_text())


@pytest.mark.parametrize("name", ["base", "dev"])
def test_requirement_list_follows_the_project(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert (ROOT / "requirements" / f"{name}.in").read_text() == pins.lists(project)[name]


@pytest.mark.parametrize("name", ["base", "dev", "scanners"])
def test_pins_fulfil_their_list_and_carry_hashes(name: str) -> None:
    assert pins.problems(name) == []


def test_pins_name_no_place_to_download_from() -> None:
    text = "".join(path.read_text() for path in (ROOT / "requirements").glob("*.txt"))

    assert not re.search(r"^\s*(-i|--index-url|--extra-index-url|--find-links|-f)\b", text, re.MULTILINE)
    assert "://" not in text


def test_problems_name_a_missing_pin_a_wrong_pin_and_a_missing_hash(tmp_path: Path) -> None:
    (tmp_path / "x.in").write_text("# comment\nalpha>=2\nBeta_One\ngamma\n")
    (tmp_path / "x.txt").write_text("alpha==1.0 \\\n    --hash=sha256:00\nbeta-one==3\n")

    assert pins.problems("x", tmp_path) == [
        "x.txt: alpha>=2 is pinned to 1.0",
        "x.txt: gamma is pinned to None",
        "x.txt: beta-one has no hash",
    ]


def test_no_file_names_a_registry(tracked: list[Path]) -> None:
    found = [
        f"{path.relative_to(ROOT)}: a registry's host"
        for path in tracked
        for host in set(HOST.findall(path.read_text(errors="replace").lower()))
        if any(digest in REGISTRIES for digest in map(digest_of, domains(host)))
    ]

    assert found == []


def test_no_file_names_a_path_of_one_machine(tracked: list[Path]) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked
        for match in MACHINE.finditer(path.read_text(errors="replace"))
    ]

    assert found == []


def domains(host: str) -> list[str]:
    """Give a host name and the domains it lies in."""
    labels = host.split(".")
    return [".".join(labels[index:]) for index in range(len(labels) - 1)]


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_size_check_names_what_is_too_long() -> None:
    source = "def long():\n" + "    pass\n" * 50 + "def fine():\n" + "    pass\n" * 449

    assert list(size.problems(source, Path("a.py"))) == [
        "a.py:1: file has 501 lines, at most 500",
        "a.py:1: long has 51 lines, at most 50",
        "a.py:52: fine has 450 lines, at most 50",
    ]


def test_size_check_takes_a_reason() -> None:
    source = "# size: a table\ndef long():  # size: one list\n" + "    pass\n" * 600

    assert list(size.problems(source, Path("a.py"))) == []
