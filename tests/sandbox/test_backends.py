from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest

from penstock import sandbox
from penstock.contracts import Limits, Sandbox, ToolCall
from penstock.errors import ToolFailed, ToolKilled, ToolMissing
from penstock.settings import SandboxBackend, Settings
from support.checkouts import demand

_PYTHON = "python3"


@pytest.fixture
def bubblewrap() -> Sandbox:
    demand(shutil.which("bwrap"), "bubblewrap")
    return sandbox.select(Settings())


@pytest.fixture(params=["bubblewrap", "none"])
def backend(request: pytest.FixtureRequest) -> Sandbox:
    if request.param == "bubblewrap":
        demand(shutil.which("bwrap"), "bubblewrap")
    return sandbox.select(Settings(sandbox=SandboxBackend(request.param)))


def _sh(script: str, **limits: float) -> ToolCall:
    return ToolCall(["sh", "-c", script], limits=Limits(**{"timeout_s": 20.0, **limits}))  # type: ignore[arg-type]


def _alive(marker: str) -> list[int]:
    """Find the processes that carry a marker in their command line."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(marker in part for part in process.info["cmdline"] or ())
    ]


async def _appear(marker: str, count: int) -> None:
    while len(_alive(marker)) < count:  # noqa: ASYNC110  another process tells nobody that it started
        await asyncio.sleep(0.02)


async def test_run_gives_output_and_code(backend: Sandbox) -> None:
    result = await backend.run(
        ToolCall(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in", ok_codes=(3,))
    )

    assert (result.exit_code, result.stdout, result.stderr) == (3, b"in", b"err\n")
    assert result.duration_s > 0


async def test_run_failure_tells_code_and_masked_end_of_stderr(backend: Sandbox) -> None:
    with pytest.raises(ToolFailed, match=r"sh ended with exit code 4: token=\*\*\*"):
        await backend.run(_sh("echo token=abcdefgh >&2; exit 4"))


async def test_run_missing_path_is_tool_missing(bubblewrap: Sandbox) -> None:
    with pytest.raises(ToolMissing, match="could not be started"):
        await bubblewrap.run(ToolCall(["/src/tool"]))


@pytest.mark.parametrize(
    ("script", "limits", "limit"),
    [
        ("sleep 60", {"timeout_s": 0.2}, "time"),
        ("yes", {"output_mb": 1}, "output"),
        ("yes >&2", {"output_mb": 1}, "output"),
        (
            'python3 -c "x = bytearray(400 * 2**20); import time; time.sleep(60)"',
            {"memory_mb": 100},
            "memory",
        ),
        ("for i in $(seq 40); do sleep 60 & done; wait", {"processes": 20}, "processes"),
        ("head -c 3000000 /dev/zero > $HOME/f", {"file_mb": 1}, "file"),
        ("while :; do :; done", {"cpu_s": 1}, "cpu"),
    ],
)
async def test_limits_kill(script: str, limits: dict[str, float], limit: str, backend: Sandbox) -> None:
    with pytest.raises(ToolKilled) as caught:
        await backend.run(_sh(script, **limits))

    assert caught.value.details["limit"] == limit


async def test_memory_limit_counts_the_whole_tree(backend: Sandbox) -> None:
    one = "x = bytearray(60 * 2**20); import time; time.sleep(60)"
    script = f"for i in 1 2 3; do {_PYTHON} -c '{one}' & done; wait"

    with pytest.raises(ToolKilled, match="memory"):
        await backend.run(_sh(script, memory_mb=120))


async def test_end_of_the_tool_ends_what_it_left_behind(backend: Sandbox) -> None:
    marker = f"7{os.getpid()}.1"

    await backend.run(_sh(f"setsid sleep {marker} >/dev/null 2>&1 & echo started"))

    assert _alive(marker) == []


async def test_cancel_kills_the_tree_within_a_second(backend: Sandbox) -> None:
    marker = f"7{os.getpid()}.2"
    task = asyncio.create_task(backend.run(_sh(f"setsid sleep {marker} & sleep {marker}")))
    await _appear(marker, 2)

    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert time.monotonic() - started < 1
    assert _alive(marker) == []


async def test_cancelling_twice_still_leaves_nothing(backend: Sandbox) -> None:
    marker = f"7{os.getpid()}.4"
    task = asyncio.create_task(backend.run(_sh(f"sleep {marker}")))
    await _appear(marker, 1)

    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    assert _alive(marker) == []


@pytest.mark.parametrize("setting", ["bubblewrap", "none"])
async def test_killed_worker_takes_its_tools_with_it(setting: str) -> None:
    marker = f"7{os.getpid()}.5"
    code = (
        "import asyncio; from penstock.sandbox import select; from penstock.settings import Settings;"
        "from penstock.contracts import ToolCall;"
        f"call = ToolCall(['sh', '-c', 'setsid sleep {marker} & sleep {marker}']);"
        "asyncio.run(select(Settings()).run(call))"
    )
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env={**os.environ, "PENSTOCK_SANDBOX": setting}
    )
    await _appear(f"sleep {marker}" if setting == "none" else marker, 1)

    worker.kill()
    await worker.wait()

    async with asyncio.timeout(2):
        while _alive(marker):  # noqa: ASYNC110  another process tells nobody that it ended
            await asyncio.sleep(0.02)


async def test_sandbox_has_no_host_files(bubblewrap: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    paths = [
        "/etc/passwd",
        "/etc/shadow",
        "/home",
        "/var",
        "/run",
        "/sys",
        "/var/run/docker.sock",
        str(tmp_path),
    ]

    result = await bubblewrap.run(
        _sh("; ".join(f"test -e {path} && echo {path}" for path in paths) + "; true")
    )

    assert result.stdout == b""


async def test_sandbox_is_nobody_with_a_private_view(bubblewrap: Sandbox) -> None:
    script = "id -u; hostname; ls /proc | grep -c '^[0-9]'; grep CapEff /proc/self/status; env | sort"

    result = await bubblewrap.run(_sh(script))

    uid, host, count, capabilities, *env = result.stdout.decode().split("\n")
    assert (uid, host) == ("65534", "sandbox")
    assert int(count) < 10
    assert capabilities.split()[1].strip("0") == ""
    assert not any(line.startswith("PENSTOCK") for line in env)


async def test_sandbox_writes_nowhere_but_its_scratch(bubblewrap: Sandbox) -> None:
    places = "/ /usr /etc /dev /proc"
    script = f"for p in {places}; do touch $p/x 2>/dev/null && echo $p; done; touch /tmp/x /dev/shm/x"

    assert (await bubblewrap.run(_sh(script))).stdout == b""


async def test_sandbox_network_is_off_unless_declared(bubblewrap: Sandbox) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"

    async with server:
        allowed = await bubblewrap.run(ToolCall([_PYTHON, "-c", code], network=True))
        with pytest.raises(ToolFailed, match=r"refused|unreachable"):
            await bubblewrap.run(ToolCall([_PYTHON, "-c", code]))

    assert allowed.exit_code == 0


async def test_sandbox_mounts_are_read_only_unless_writable(bubblewrap: Sandbox, tmp_path: Path) -> None:
    source, out = tmp_path / "a b", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "f").write_text("content")
    script = "cat /src/f > /out/copy; touch /src/x 2>/dev/null || echo refused"

    result = await bubblewrap.run(
        ToolCall(["sh", "-c", script], readonly={source: "/src"}, writable={out: "/out"}, cwd="/src")
    )

    assert result.stdout == b"refused\n"
    assert (out / "copy").read_text() == "content"


async def test_sandbox_hides_the_environment_from_the_command_line(bubblewrap: Sandbox) -> None:
    marker = f"7{os.getpid()}.3"
    task = asyncio.create_task(bubblewrap.run(ToolCall(["sleep", marker], env={"TOKEN": "s3cret-value"})))
    await _appear(marker, 1)

    assert _alive("s3cret-value") == []

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_probe_finds_a_working_sandbox() -> None:
    demand(shutil.which("bwrap"), "bubblewrap")

    found = await sandbox.probe(Settings())

    assert (found.backend, found.ok, found.message) == ("bubblewrap", True, "ready")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_sandbox_works_for_an_ordinary_user() -> None:
    demand(shutil.which("bwrap"), "bubblewrap")
    call = "bwrap --unshare-user --unshare-pid --unshare-net --ro-bind /usr /usr --symlink usr/lib /lib"

    process = await asyncio.create_subprocess_exec(
        *f"{call} --symlink usr/lib64 /lib64 /usr/bin/true".split(), user=65534, group=65534, cwd="/"
    )

    assert await process.wait() == 0


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
async def test_cancelling_while_a_tool_starts_leaves_nothing(backend: Sandbox, turns: int) -> None:
    marker = f"7{os.getpid()}.6{turns}"
    task = asyncio.create_task(backend.run(_sh(f"sleep {marker}")))
    for _ in range(turns):
        await asyncio.sleep(0)

    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    assert _alive(marker) == []
