"""What stands behind an agent's context when the engine runs it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

from penstock.contracts import Sandbox
from penstock.engine.blocks import load_block
from penstock.telemetry.redaction import Redactor

__all__ = ["EngineServices", "RunLogger", "agent_workspace", "run_logger"]

_LARGEST_ARTIFACT = 2 * 1024 * 1024


class RunLogger:
    """Writes an agent's log to the run's log in Prefect, with secrets masked.

    Args:
        sink: A standard logger; messages keep the form `event key=value`.
    """

    def __init__(self, sink: Any, redactor: Redactor) -> None:
        self._sink = sink
        self._redactor = redactor

    def _write(self, level: int, event: str, facts: Mapping[str, Any]) -> None:
        words = [event, *(f"{key}={_brief(value)}" for key, value in facts.items())]
        self._sink.log(level, "%s", self._redactor.text(" ".join(words)))

    def debug(self, event: str, **facts: Any) -> None:
        """Log what helps a developer."""
        self._write(logging.DEBUG, event, facts)

    def info(self, event: str, **facts: Any) -> None:
        """Log what happened."""
        self._write(logging.INFO, event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Log what may need a look."""
        self._write(logging.WARNING, event, facts)

    def error(self, event: str, **facts: Any) -> None:
        """Log what went wrong."""
        self._write(logging.ERROR, event, facts)


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def run_logger(redactor: Redactor) -> RunLogger:
    """Give the logger of the current Prefect task run."""
    return RunLogger(get_run_logger(), redactor)


class EngineServices:
    """Blocks, sandbox and artifacts of the current Prefect run.

    Args:
        blocks: Name the agent uses -> name of the block in Prefect.
        make_sandbox: Gives the sandbox, made when an agent first asks for it.
    """

    def __init__(
        self, blocks: Mapping[str, str], make_sandbox: Callable[[], Sandbox], redactor: Redactor
    ) -> None:
        self.blocks = blocks
        self._make_sandbox = make_sandbox
        self._redactor = redactor

    async def load_block(self, name: str) -> Any:
        """Load the block that the workflow file names for this node."""
        return await load_block(self.blocks, name)

    def sandbox(self) -> Sandbox:
        """Give the sandbox for tools."""
        return self._make_sandbox()

    async def save_artifact(self, name: str, data: str, media_type: str, description: str) -> None:
        """Keep a document as a Prefect artifact of the current task run."""
        task, flow = TaskRunContext.get(), FlowRunContext.get()
        text = _as_markdown(self._redactor.text(data), media_type)
        async with get_client() as client:
            await client.create_artifact(
                ArtifactCreate(
                    key=name,
                    type="markdown",
                    description=description or None,
                    data=text,
                    metadata_={"media_type": media_type},
                    task_run_id=task.task_run.id if task else None,
                    flow_run_id=flow.flow_run.id if flow and flow.flow_run else None,
                )
            )


def _as_markdown(text: str, media_type: str) -> str:
    """Write a document so that Prefect's UI shows it as it is; one that is too large is not cut."""
    if len(text) > _LARGEST_ARTIFACT:
        return f"This document has {len(text):,} characters; the limit is {_LARGEST_ARTIFACT:,}."
    if media_type == "text/markdown":
        return text
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{'json' if media_type.endswith('json') else ''}\n{text}\n{fence}"


@asynccontextmanager
async def agent_workspace(label: str) -> AsyncGenerator[Path, None]:
    """Make an empty folder for one attempt and remove it afterwards, come what may."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=f"penstock-{label[:40]}-"))
    try:
        yield folder
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))
