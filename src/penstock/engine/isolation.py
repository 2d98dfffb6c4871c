"""Run an agent in a process of its own: for code that blocks, burns CPU or may not end.

Parent and child speak JSON lines. The child's first line in is the job; its lines out are
`{"log": ...}`, `{"artifact": ...}` and at the end `{"output": ...}` or `{"error": ...}`.
What the agent prints goes to standard error, so it cannot forge a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from prefect.settings import get_current_settings
from pydantic import BaseModel

from penstock.contracts import Agent, AgentContext
from penstock.engine import failures
from penstock.errors import AgentFailed, OutputInvalid, RunError
from penstock.lifeline import PARENT_PID
from penstock.settings import Settings

__all__ = ["run_in_process"]

_STDERR_KEPT = 4096


async def run_in_process(agent: Agent, ctx: AgentContext, params: BaseModel, settings: Settings) -> Any:
    """Run one attempt in a child process and return its output as JSON data.

    The whole process group is killed when the caller is cancelled or its time is over.
    """
    # The same Prefect as here, also where a profile or a test names it.
    prefect = get_current_settings().to_environment_variables(exclude_unset=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "penstock.engine.child",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=settings.limits.output_bytes + 65_536,
        cwd=ctx.workspace,
        env={**os.environ, **prefect, PARENT_PID: str(os.getpid())},
    )
    try:
        return await _converse(process, agent, ctx, params)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _converse(
    process: asyncio.subprocess.Process, agent: Agent, ctx: AgentContext, params: BaseModel
) -> Any:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise RunError("the agent's process has no pipes")
    errors = asyncio.create_task(_keep_tail(process.stderr))
    process.stdin.write(json.dumps(_job(agent, ctx, params)).encode() + b"\n")
    process.stdin.close()
    try:
        async for message in _messages(process.stdout, agent):
            if "output" in message:
                return message["output"]
            if "error" in message:
                raise failures.from_description(message["error"])
            await _relay(message, ctx)
        code = await process.wait()
        said = " | ".join((await errors).decode(errors="replace").strip().splitlines()[-5:])
        raise AgentFailed(
            f"the process of agent {agent.name!r} ended with exit code {code} and no result: {said}"
        )
    finally:
        errors.cancel()


def _job(agent: Agent, ctx: AgentContext, params: BaseModel) -> dict[str, Any]:
    return {
        "agent": agent.name,
        "params": params.model_dump(mode="json"),
        "run_id": ctx.run_id,
        "node_id": ctx.node_id,
        "attempt": ctx.attempt,
        "dry_run": ctx.dry_run,
        "workspace": str(ctx.workspace),
        "blocks": dict(getattr(ctx.services, "blocks", {})),
    }


async def _messages(stream: asyncio.StreamReader, agent: Agent):  # noqa: ANN202  an async generator of JSON
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            raise OutputInvalid(f"agent {agent.name!r} returned more than the output limit") from None
        if not line:
            return
        yield json.loads(line)


async def _relay(message: Mapping[str, Any], ctx: AgentContext) -> None:
    if log := message.get("log"):
        write = {"debug": ctx.logger.debug, "warning": ctx.logger.warning, "error": ctx.logger.error}
        write.get(log["level"], ctx.logger.info)(log["event"], **log["facts"])
    elif artifact := message.get("artifact"):
        await ctx.services.save_artifact(
            artifact["name"], artifact["data"], artifact["media_type"], artifact["description"]
        )


async def _keep_tail(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while chunk := await stream.read(65_536):
        kept = (kept + chunk)[-_STDERR_KEPT:]
    return kept
