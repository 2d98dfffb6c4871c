from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from penstock import sandbox
from penstock.contracts import Sandbox, ToolCall
from penstock.errors import SandboxError, SandboxUnavailable, ToolMissing
from penstock.sandbox import calls, tools
from penstock.sandbox.direct import on_host
from penstock.sandbox.stderr import mask, tail
from penstock.settings import SandboxBackend, Settings


def test_select_gives_the_direct_backend_only_when_asked() -> None:
    chosen = sandbox.select(Settings(sandbox=SandboxBackend.NONE))

    assert chosen.name == "none"
    assert isinstance(chosen, Sandbox)


@pytest.mark.parametrize("backend", [SandboxBackend.DOCKER, SandboxBackend.KUBERNETES])
def test_select_says_what_this_version_lacks(backend: SandboxBackend) -> None:
    with pytest.raises(SandboxUnavailable, match="not available in this version"):
        sandbox.select(Settings(sandbox=backend))


def test_select_without_bubblewrap_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        sandbox.select(Settings())


async def test_probe_tells_what_mends_a_missing_backend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    found = await sandbox.probe(Settings(tools=tmp_path))

    assert not found.ok
    assert "apt-get install bubblewrap" in found.message
    assert found.missing_tools == tools.TOOLS


@pytest.mark.parametrize(
    "inside", ["/", "relative", "/usr/lib", "/proc", "/etc/passwd", "/src/../usr", "/dev/x"]
)
def test_check_refuses_mounts_over_the_sandbox(inside: str, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="mount"):
        calls.check(ToolCall(["true"], readonly={tmp_path: inside}))


def test_check_refuses_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="does not exist"):
        calls.check(ToolCall(["true"], writable={tmp_path / "gone": "/src"}))


@pytest.mark.parametrize("argv", [[], ["a\0b"]])
def test_check_refuses_arguments_that_cannot_be_passed(argv: Sequence[str]) -> None:
    with pytest.raises(SandboxError, match="program"):
        calls.check(ToolCall(argv))


def test_program_missing_scanner_names_the_mending_line(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="run: penstock tools install"):
        calls.program(ToolCall(["semgrep"]), tmp_path)


def test_program_missing_names_the_program(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="'no-such-program' is not installed"):
        calls.program(ToolCall(["no-such-program"]), tmp_path)


def test_environment_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", "postgresql://a:b@c/d")

    env = calls.environment(ToolCall(["true"], env={"MODE": "x"}), tmp_path, "/tmp")  # noqa: S108  inside

    assert "PENSTOCK_DATABASE_URL" not in env
    assert env["MODE"] == "x"


def test_on_host_replaces_whole_paths_only(tmp_path: Path) -> None:
    call = ToolCall(["ls"], readonly={tmp_path: "/src"}, writable={tmp_path.parent: "/src/out"})

    assert on_host(call, "/src/a") == f"{tmp_path}/a"
    assert on_host(call, "--x=/src/out/b") == f"--x={tmp_path.parent}/b"
    assert on_host(call, "/srcs/a") == "/srcs/a"


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ("fatal: https://user:hunter2pass@example.org/x", "hunter2pass"),
        ("password=correct-horse", "correct-horse"),
        ("Authorization: Bearer abc.def", "abc.def"),
        ("bad value 'some long secret'", "some long secret"),
        ("got AKIAQYLPMN5HHHFPZAM2 here", "AKIAQYLPMN5HHHFPZAM2"),
    ],
)
def test_mask_hides_secrets(line: str, secret: str) -> None:
    assert secret not in mask(line)
    assert "***" in mask(line)


def test_tail_keeps_the_last_printable_lines() -> None:
    data = b"\n".join(b"line %d" % number for number in range(100)) + b"\x1b[31m red\x00\n"

    lines = tail(data).splitlines()

    assert lines[-1] == "line 99 red"
    assert len(lines) == 12


def test_tail_hides_a_private_key() -> None:
    key = b"-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY-----\nend"

    assert tail(key) == "***\nend"
