from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from penstock.contracts import ToolCall, ToolResult
from penstock.errors import AgentFailed, InputInvalid, ToolFailed, ToolKilled, ToolMissing
from penstock.testing import AgentHarness
from penstock_agents.security_scanner import ScanOutput, repository, scan
from penstock_agents.security_scanner.findings import normal
from support.checkouts import Repository

_EVAL = "def f(x):\n    return eval(x)\n"
_CONTRACTS = Path(os.environ.get("PENSTOCK_CONTRACTS", Path(__file__).parents[3] / "shared" / "contracts"))

pytestmark = pytest.mark.usefixtures("tools_env")


async def _scan(checkout: Repository, **options: Any) -> ScanOutput:
    return await AgentHarness(scan).run({"repository_path": str(checkout.root), **options})


def _rules(output: ScanOutput) -> set[tuple[str, str]]:
    return {(item.rule, item.file) for item in output.findings}


def _contract(path: str) -> dict[str, Any]:
    file = _CONTRACTS / path
    if not file.is_file():
        pytest.skip(f"the published contract {path} is missing")
    return json.loads(file.read_text())


class Tool:
    """A sandbox whose tools answer what a test says; everything else is real."""

    name = "none"

    def __init__(self, answer: bytes | Exception) -> None:
        self.answer = answer

    async def run(self, call: ToolCall) -> ToolResult:
        if call.argv[0] == "git":
            listed = "ls-files" in call.argv
            return ToolResult(0 if listed else 1, b"a.py\0" if listed else b"", b"", 0.1)
        if isinstance(self.answer, Exception):
            raise self.answer
        return ToolResult(0, self.answer, b"", 0.1)


@contextmanager
def _nobody() -> Generator[None]:
    """Be an ordinary user for a moment, since root can read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_scan_finds_and_counts_with_every_tool(repository: Repository) -> None:
    commit = repository.commit(
        {"src/a.py": _EVAL, "b.env": "key = AKIAQYLPMN5HHHFPZAM2\n", "ok.py": "x = 1\n"}
    )

    output = await _scan(repository)

    assert _rules(output) == {("py-eval", "src/a.py"), ("secret.aws-access-key", "b.env")}
    assert output.findings[1].also == ["bandit"]
    assert (output.summary.critical, output.summary.total, output.passed) == (2, 2, False)
    assert (output.commit, output.files_scanned) == (commit, 3)
    assert set(output.tools) == {"semgrep", "bandit", "detect-secrets"}
    assert all(run.version and run.duration_s > 0 for run in output.tools.values())


async def test_scan_passes_a_clean_repository(repository: Repository) -> None:
    repository.commit({"a.py": "x = 1\n"})

    output = await _scan(repository)

    assert (output.passed, output.findings, output.summary.total) == (True, [], 0)


async def test_scan_works_on_an_empty_repository(repository: Repository) -> None:
    output = await _scan(repository)

    assert (output.passed, output.files_scanned, output.commit) == (True, 0, "")


async def test_scan_takes_untracked_but_not_ignored_files(repository: Repository) -> None:
    repository.commit({".gitignore": "ignored/\n"})
    repository.write({"new.py": _EVAL, "ignored/a.py": _EVAL, ".hidden/tests/b.py": _EVAL})

    output = await _scan(repository)

    assert {item.file for item in output.findings} == {"new.py", ".hidden/tests/b.py"}


async def test_scan_leaves_out_what_exclude_names(repository: Repository) -> None:
    repository.commit({"a.py": _EVAL, "tests/b.py": _EVAL, "x/gen_c.py": _EVAL})

    output = await _scan(repository, exclude=["tests/", "*/gen_*"])

    assert {item.file for item in output.findings} == {"a.py"}


async def test_scan_limits_the_list_but_not_the_counts(repository: Repository) -> None:
    repository.commit({f"{number}.py": _EVAL for number in range(5)})

    output = await _scan(repository, max_findings=2, tools=["semgrep"])

    assert (len(output.findings), output.summary.total) == (2, 5)


async def test_scan_reports_only_from_the_wanted_severity(repository: Repository) -> None:
    repository.commit({"a.py": "import hashlib\nhashlib.md5(b'')\n"})

    output = await _scan(repository, min_severity="critical", tools=["semgrep"])

    assert output.passed


async def test_scan_repository_files_cannot_switch_tools_off(repository: Repository) -> None:
    repository.commit({
        ".bandit": "[bandit]\nskips: B307\n",
        ".semgrepignore": "*\n",
        "pyproject.toml": "[tool.bandit]\nskips = ['B307']\n",
        ".tox/a.py": _EVAL,
    })  # fmt: skip

    output = await _scan(repository)

    assert [(item.rule, item.also) for item in output.findings] == [("py-eval", ["bandit"])]


async def test_scan_suppressions_can_be_ignored(repository: Repository) -> None:
    repository.commit({"a.py": "eval(x)  # nosec nosemgrep\n"})

    assert (await _scan(repository)).passed
    assert not (await _scan(repository, suppressions=False)).passed


async def test_scan_files_that_cannot_be_read_to_the_end_do_not_pass(repository: Repository) -> None:
    repository.commit({"broken.py": "def f(:\n  eval(\n", "large.txt": "word " * 500_000})

    output = await _scan(repository)

    assert _rules(output) == {
        ("penstock.not-scanned", "broken.py"),
        ("penstock.not-scanned", "large.txt"),
    }
    assert not output.passed


async def test_scan_skips_large_binaries_and_links(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text(_EVAL)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.py").write_text(_EVAL)
    repository.write({"image.bin": b"\0" * 50_000_000, "a.py": "x = 1\n"})
    (repository.root / "link.py").symlink_to(tmp_path / "outside.py")
    (repository.root / "linked").symlink_to(tmp_path / "folder")

    output = await _scan(repository)

    assert output.passed
    assert (output.files_scanned, output.files_skipped) == (1, 3)


async def test_scan_includes_submodules(repository: Repository, tmp_path: Path) -> None:
    inner = Repository(tmp_path / "inner")
    inner.commit({"a.py": _EVAL})
    repository.git(
        "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.root), "deep/sub"
    )
    repository.commit({"b.py": "x = 1\n"})

    output = await _scan(repository)

    assert {item.file for item in output.findings} == {"deep/sub/a.py"}


async def test_scan_runs_no_program_that_the_repository_names(repository: Repository, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    program.chmod(0o755)
    repository.commit({"a.py": "x = 1\n", ".gitattributes": "* filter=evil\n"})
    for key in ("core.fsmonitor", "core.sshCommand", "filter.evil.clean", "core.pager", "diff.external"):
        repository.git("config", key, str(program))
    (repository.root / "a.py").write_text("x = 2\n")

    assert (await _scan(repository)).passed
    assert not mark.exists()


async def test_scan_shows_hostile_file_names_on_one_line(repository: Repository) -> None:
    name = "a\n| x | `b`\x1b[31m.py"
    repository.write({name: _EVAL, os.fsdecode(b"caf\xe9.py"): _EVAL, "-rf.py": _EVAL})
    harness = AgentHarness(scan)

    output: ScanOutput = await harness.run({"repository_path": str(repository.root)})

    assert {item.file for item in output.findings} == {r"a\n| x | `b`\x1b[31m.py", r"caf\udce9.py", "-rf.py"}
    assert r"\`b\`" in harness.artifacts[1].data


async def test_fingerprints_survive_moved_lines_and_tell_copies_apart(repository: Repository) -> None:
    repository.write(
        {"a.py": _EVAL + "\ndef g(x):\n    return eval(x)\n", "k": "password = 'hunter2hunter2'\n"}
    )
    before = await _scan(repository)

    repository.write(
        {
            "a.py": "# new\n\n" + (repository.root / "a.py").read_text(),
            "k": "\n\npassword = 'changed9changed9'\n",
        }
    )
    after = await _scan(repository)

    prints = [item.fingerprint for item in before.findings]
    assert prints == [item.fingerprint for item in after.findings]
    assert len(set(prints)) == len(prints) == 3


def test_normal_keeps_names_only() -> None:
    assert normal(["  login('user', \"s3cret\", 12345)  # token abc"]) == "login"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nonexistent/x", "does not exist"),
        ("../outside", "does not exist|out of the workspace"),
        ("/etc/hostname", "is not a folder"),
        ("/usr", "not the root of a git repository"),
        ("a\0b", "NUL"),
        ("/" + "x" * 300, "cannot be read: File name too long"),
    ],
)
async def test_scan_says_what_is_wrong_with_a_path(path: str, reason: str) -> None:
    with pytest.raises(AgentFailed, match=reason):
        await AgentHarness(scan).run({"repository_path": path})


async def test_scan_refuses_bare_repositories_and_worktrees(repository: Repository, tmp_path: Path) -> None:
    repository.commit({"a.py": "x = 1\n"})
    repository.git("clone", "--quiet", "--bare", ".", str(tmp_path / "bare"))
    repository.git("worktree", "add", "--quiet", str(tmp_path / "tree"))

    with pytest.raises(AgentFailed, match="is a bare repository"):
        await AgentHarness(scan).run({"repository_path": str(tmp_path / "bare")})
    with pytest.raises(AgentFailed, match="linked worktree"):
        await AgentHarness(scan).run({"repository_path": str(tmp_path / "tree")})


async def test_scan_refuses_a_damaged_repository(repository: Repository) -> None:
    (repository.root / ".git" / "index").write_bytes(b"nonsense")

    with pytest.raises(AgentFailed, match="git cannot read the repository"):
        await _scan(repository)


async def test_scan_refuses_unknown_inputs() -> None:
    with pytest.raises(InputInvalid, match="tools"):
        await AgentHarness(scan).run({"repository_path": "/x", "tools": ["nmap"]})


def test_take_names_files_that_cannot_be_read() -> None:
    root = Path("/") / "dev" / "shm" / f"penstock-test-{os.getpid()}"
    root.mkdir()
    root.chmod(0o777)
    try:
        (root / "secret.py").write_text("x")
        (root / "secret.py").chmod(0)
        with _nobody(), pytest.raises(AgentFailed, match=r"cannot be read: secret.py \(Permission denied\)"):
            repository.take(root, ["secret.py"], root / "copy", [], lambda: False)
    finally:
        (root / "secret.py").unlink()
        (root / "copy").rmdir()
        root.rmdir()


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (
            ToolKilled("semgrep was killed: it ran longer than 600 s"),
            AgentFailed,
            "not complete: semgrep was killed",
        ),
        (
            ToolFailed("semgrep: line with s3cret", details={"exit_code": 2}),
            AgentFailed,
            "semgrep failed with exit code 2$",
        ),
        (ToolMissing("run: penstock tools install"), ToolMissing, "penstock tools install"),
        (b"s3cret is not JSON", AgentFailed, r"cannot be read \(JSONDecodeError\)"),
        (b"{}", AgentFailed, r"cannot be read \(KeyError\)"),
        (
            b'{"version":"1","results":[],"errors":[{"type":"Rule parse error"}]}',
            AgentFailed,
            "semgrep failed: rule parse",
        ),
    ],
)
async def test_scan_fails_when_a_tool_fails(
    answer: bytes | Exception, error: type[Exception], reason: str, repository: Repository
) -> None:
    repository.write({"a.py": "x = 1\n"})
    harness = AgentHarness(scan, sandbox=Tool(answer))

    with pytest.raises(error, match=reason) as caught:
        await harness.run({"repository_path": str(repository.root), "tools": ["semgrep"]})

    assert caught.value.__cause__ is None
    assert not harness.artifacts


async def test_scan_cancelled_leaves_no_process(repository: Repository) -> None:
    repository.commit({"a.py": _EVAL})
    task = asyncio.create_task(_scan(repository))
    await asyncio.sleep(0.4)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_scan_artifacts_are_valid_sarif_and_markdown(repository: Repository) -> None:
    commit = repository.commit({"a b/ż.py": _EVAL, "k.env": "password = 'hunter2hunter2'\n"})
    harness = AgentHarness(scan)

    await harness.run({"repository_path": str(repository.root)})

    sarif = json.loads(harness.artifacts[0].data)
    jsonschema.Draft7Validator(_contract("sarif/sarif-schema-2.1.0.json")).validate(sarif)  # pyright: ignore[reportUnknownMemberType]  partly typed
    results = [item for run in sarif["runs"] for item in run["results"]]
    places = [item["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for item in results]
    assert sorted(places) == ["a%20b/%C5%BC.py", "k.env"]
    assert commit[:12] in harness.artifacts[1].data


async def test_scan_reads_the_reports_that_the_tools_publish(repository: Repository) -> None:
    repository.write({"a.py": "x = 1\n"})
    report = _contract("bandit/bandit-output-selfmade.json")

    class Bandit(Tool):
        async def run(self, call: ToolCall) -> ToolResult:
            if "--version" in call.argv:
                return ToolResult(0, b"bandit 1.9.4\n", b"", 0.1)
            return await super().run(call)

    harness = AgentHarness(scan, sandbox=Bandit(json.dumps(report).encode()))
    inputs = {"repository_path": str(repository.root), "tools": ["bandit"], "min_severity": "info"}

    output: ScanOutput = await harness.run(inputs)

    expected = {(item["filename"], item["line_number"]) for item in report["results"]}
    assert {(item.file, item.line) for item in output.findings} == expected
    assert output.tools["bandit"].version == "1.9.4"


async def test_scan_takes_checksums_of_lock_files_for_what_they_are(repository: Repository) -> None:
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    pin = f"six==1.16.0 --hash=sha256:{digest}\n"
    repository.commit({"pins.txt": pin, "hidden.txt": f'key = "{digest[::-1]}" # sha256:{digest}\n'})

    output = await _scan(repository)

    assert {finding.file for finding in output.findings} == {"hidden.txt"}
