"""The backend `none`: tools run on the host itself, with the same limits. For development only."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import structlog

from penstock.contracts import ToolCall, ToolResult
from penstock.sandbox import calls
from penstock.sandbox.process import supervise

_log = structlog.get_logger(__name__)


class DirectSandbox:
    """Runs tools with limits but without walls; a path inside stands for its host path."""

    name = "none"

    def __init__(self, tools: Path) -> None:
        self.tools = tools

    async def run(self, call: ToolCall) -> ToolResult:
        """Run one tool to its end; see `penstock.contracts.Sandbox`."""
        calls.check(call)
        _log.warning("sandbox_disabled", tool=call.argv[0], setting="PENSTOCK_SANDBOX=none")
        program = calls.program(call, self.tools)
        with tempfile.TemporaryDirectory(prefix="penstock-tool-") as home:
            env = calls.environment(call, self.tools, home)
            outcome = await supervise(
                [program, *(on_host(call, part) for part in call.argv[1:])],
                env={name: on_host(call, value) for name, value in env.items()},
                cwd=on_host(call, call.cwd),
                stdin=call.stdin,
                limits=call.limits,
            )
        return calls.judge(call, outcome)


def on_host(call: ToolCall, text: str) -> str:
    """Replace the paths inside by the host paths that are mounted there."""
    mounts = {inside: source.resolve() for source, inside in {**call.readonly, **call.writable}.items()}
    if not mounts:
        return text
    longest_first = sorted(mounts, key=len, reverse=True)
    places = re.compile(rf"(?<![\w./-])({'|'.join(map(re.escape, longest_first))})(?![\w.-])")
    return places.sub(lambda found: str(mounts[found[1]]), text)
