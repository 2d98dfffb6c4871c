"""The child side of an agent's own process: `python -m penstock.engine.child`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

from penstock import registry
from penstock.contracts import Agent, AgentContext, Sandbox
from penstock.engine import failures
from penstock.lifeline import die_with_parent
from penstock.sandbox import select
from penstock.settings import Settings, load_settings
from penstock.telemetry.redaction import Redactor, secrets_of_environment

__all__ = ["main"]


class _Pipe:
    """Writes messages to the parent; also the agent's logger."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def send(self, **message: Any) -> None:
        self._stream.write(json.dumps(message, default=str).encode() + b"\n")
        self._stream.flush()

    def debug(self, event: str, **facts: Any) -> None:
        self.send(log={"level": "debug", "event": event, "facts": facts})

    def info(self, event: str, **facts: Any) -> None:
        self.send(log={"level": "info", "event": event, "facts": facts})

    def warning(self, event: str, **facts: Any) -> None:
        self.send(log={"level": "warning", "event": event, "facts": facts})

    def error(self, event: str, **facts: Any) -> None:
        self.send(log={"level": "error", "event": event, "facts": facts})


class _Services:
    def __init__(self, pipe: _Pipe, settings: Settings, blocks: dict[str, str]) -> None:
        self._pipe = pipe
        self._settings = settings
        self._blocks = blocks

    async def load_block(self, name: str) -> Any:
        from penstock.engine.blocks import load_block  # noqa: PLC0415  Prefect is slow to import

        return await load_block(self._blocks, name)

    def sandbox(self) -> Sandbox:
        return select(self._settings)

    async def save_artifact(self, name: str, data: str, media_type: str, description: str) -> None:
        self._pipe.send(
            artifact={"name": name, "data": data, "media_type": media_type, "description": description}
        )


async def _work(job: dict[str, Any], pipe: _Pipe, settings: Settings) -> None:
    agent: Agent | None = None
    try:
        agent = registry.build(settings.plugins).get(job["agent"])
        ctx = _context(job, pipe, settings)
        output = await agent.run(ctx, agent.input_model.model_validate(job["params"]))
        pipe.send(output=output.model_dump(mode="json"))
    except Exception as error:  # noqa: BLE001  it travels to the parent as data
        redactor = Redactor(secrets_of_environment())
        pipe.send(error=failures.describe(error, agent, redactor))


def _context(job: dict[str, Any], pipe: _Pipe, settings: Settings) -> AgentContext:
    return AgentContext(
        run_id=job["run_id"],
        node_id=job["node_id"],
        attempt=job["attempt"],
        dry_run=job["dry_run"],
        workspace=Path(job["workspace"]),
        logger=pipe,
        services=_Services(pipe, settings, job["blocks"]),
    )


def main() -> None:
    """Read a job from standard input, run it, write messages to standard output."""
    die_with_parent()
    # The protocol keeps the real standard output; whatever an agent prints goes to standard error.
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    settings = load_settings()
    asyncio.run(_work(json.loads(sys.stdin.readline()), _Pipe(stream), settings))


if __name__ == "__main__":
    main()
