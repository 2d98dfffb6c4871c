"""A real stack for tests: `penstock up` as a process of its own, with the test agents."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.settings import GatewaySettings, PrefectSettings, Settings

MASKED = "canary-of-the-worker-4711"
"""What the worker's environment holds as a token, so that nobody may ever see it."""
PLUGIN = Path(__file__).parents[1] / "plugin"
_READY_S = 120


@dataclass(frozen=True)
class StackUnderTest:
    """A running stack and how to reach it."""

    pid: int
    environment: Mapping[str, str]
    settings: Settings

    def cli(self, *arguments: str, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
        """Run a `penstock` command against the stack."""
        return subprocess.run(
            [sys.executable, "-m", "penstock.cli.main", *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @asynccontextmanager
    async def services(self) -> AsyncGenerator[Any]:
        """Open the services of the stack inside this process."""
        from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: PLC0415

        from penstock.engine.environment import api_url  # noqa: PLC0415
        from penstock.engine.services import open_services  # noqa: PLC0415

        with temporary_settings({PREFECT_API_URL: api_url(self.settings)}):
            async with open_services(self.settings) as opened:
                yield opened


@contextmanager
def running(home: Path, **variables: str) -> Generator[StackUnderTest]:
    """Run `penstock up` on a home of its own.

    Args:
        variables: Further environment variables.
    """
    prefect, gateway = free_port(), free_port()
    environment = {
        **os.environ,
        "PENSTOCK_HOME": str(home),
        "PENSTOCK_PORT": str(gateway),
        "PENSTOCK_PREFECT__PORT": str(prefect),
        "PENSTOCK_WORKER__POLL_SECONDS": "1",
        "PENSTOCK_WORKER__DRAIN_SECONDS": "2",
        "PYTHONPATH": str(PLUGIN),
        "SOME_SERVICE_TOKEN": MASKED,
        **variables,
    }
    log = home.with_suffix(".log")
    command = [sys.executable, "-m", "penstock.cli.main", "up", "--no-library"]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
    try:
        _await_ready(process, log)
        yield StackUnderTest(process.pid, environment, _settings(home, gateway, prefect))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def free_port() -> int:
    """Give a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _settings(home: Path, gateway: int, prefect: int) -> Settings:
    return Settings.model_validate(
        {
            "home": home,
            "PENSTOCK_PORT": gateway,
            "gateway": GatewaySettings(),
            "prefect": PrefectSettings(port=prefect),
        }
    )


def _await_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while b"ready in" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the stack did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)
