"""Commands against a stack, as the account of this process gives them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any
from unittest.mock import patch
from uuid import UUID

from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from engine.flows import node
from engine.test_gates import eventually
from penstock.cli.main import app
from penstock.cli.session import person
from penstock.engine.environment import api_url
from support.stack import StackUnderTest

ME = person()
"""Who gives the commands."""


def begin(stack: StackUnderTest, *arguments: str) -> subprocess.Popen[str]:
    """Begin a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "penstock.cli.main", *arguments],
        env=dict(stack.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def penstock(stack: StackUnderTest, *arguments: str) -> tuple[int, str, str]:
    """Give a command's exit code, output and messages; in this process, where Prefect is loaded."""

    def run() -> tuple[int, str, str]:
        api = temporary_settings({PREFECT_API_URL: api_url(stack.settings)})
        with api, patch.dict(os.environ, stack.environment):
            result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        return result.exit_code, result.stdout, result.stderr

    return await asyncio.to_thread(run)


def gated(file: object, **approval: Any) -> dict[str, Any]:
    """Write a node that changes a file when people have approved it."""
    return node("apply", "mutate", {"file": str(file)}, approval={"title": "Change the file", **approval})


async def asked(services: Any, run_id: UUID, *, but: str = "") -> dict[str, Any]:
    """Wait until a run is suspended, and give its one request for approval.

    Args:
        but: Id of an earlier request, which is not meant.
    """

    async def found() -> dict[str, Any] | None:
        if (await services.show(run_id))["state"] != "suspended":
            return None
        listed = (await services.approvals.list(limit=200))["approvals"]
        mine = (item for item in listed if item["run_id"] == str(run_id) and item["id"] != but)
        return next(mine, None)

    return await eventually(found)
