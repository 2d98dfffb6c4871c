"""Agents for tests: one for each way in which an agent can behave."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, Field

from penstock.contracts import (
    AgentContext,
    AgentFailed,
    AgentRetry,
    AgentType,
    Isolation,
    Plan,
    Risk,
    ToolCall,
    agent,
)


class EchoInput(BaseModel):
    """What to say."""

    text: str = Field(default="", description="Any text.")
    number: int = Field(default=0, description="Any number.")


class EchoOutput(BaseModel):
    """What was said."""

    text: str = Field(description="The text.")
    number: int = Field(description="The number.")
    attempt: int = Field(description="The attempt.")


@agent(name="echo", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def echo(ctx: AgentContext, params: EchoInput) -> EchoOutput:
    """Give back what it was given."""
    ctx.logger.info("echoed", text=params.text)
    return EchoOutput(text=params.text, number=params.number, attempt=ctx.attempt)


@agent(name="fail", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def fail(ctx: AgentContext, params: EchoInput) -> EchoOutput:
    """Fail for good."""
    raise AgentFailed(params.text or "it failed", details={"node": ctx.node_id})


class FlakyInput(BaseModel):
    """How often to fail."""

    failures: int = Field(description="Attempts that fail.")


@agent(name="flaky", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def flaky(ctx: AgentContext, params: FlakyInput) -> EchoOutput:
    """Fail some times, then succeed."""
    if ctx.attempt <= params.failures:
        raise AgentRetry(f"attempt {ctx.attempt} failed")
    return EchoOutput(text="at last", number=0, attempt=ctx.attempt)


class HangInput(BaseModel):
    """How long to hang."""

    seconds: float = Field(default=3600, description="Seconds.")


@agent(name="hang", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def hang(ctx: AgentContext, params: HangInput) -> EchoOutput:
    """Wait for a long time."""
    await asyncio.sleep(params.seconds)
    return EchoOutput(text="", number=0, attempt=ctx.attempt)


class MisbehaveInput(BaseModel):
    """What to do wrong."""

    how: Literal["wrong_output", "large_output", "unpicklable", "mute"] = Field(description="The way.")


class Unpicklable(Exception):  # noqa: N818
    """An error that cannot be pickled and cannot be printed."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot be pickled")

    def __str__(self) -> str:
        raise ValueError("cannot be printed")


@agent(name="misbehave", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def misbehave(ctx: AgentContext, params: MisbehaveInput) -> EchoOutput:
    """Break the contract in one of many ways."""
    if params.how == "unpicklable":
        raise Unpicklable
    if params.how == "large_output":
        return EchoOutput(text="x" * 50_000_000, number=0, attempt=ctx.attempt)
    wrong: Any = {"wrong": True} if params.how == "wrong_output" else None
    return wrong


class TraceInput(BaseModel):
    """Where to leave a trace."""

    file: str = Field(description="File that gets a line per run.")
    seconds: float = Field(default=0, description="Seconds to take.")


@agent(name="trace", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def trace(ctx: AgentContext, params: TraceInput) -> EchoOutput:
    """Append a line to a file, then take some time."""
    with Path(params.file).open("a") as file:  # noqa: ASYNC230
        file.write(f"{ctx.run_id} {ctx.node_id} {ctx.attempt}\n")
    await asyncio.sleep(params.seconds)
    return EchoOutput(text=ctx.node_id, number=0, attempt=ctx.attempt)


@agent(name="mutate", type=AgentType.MODIFICATION, risk=Risk.APPROVAL_REQUIRED)
async def mutate(ctx: AgentContext, params: TraceInput) -> EchoOutput:
    """Change something, which wants an approval."""
    with Path(params.file).open("a") as file:  # noqa: ASYNC230
        file.write("changed\n")
    return EchoOutput(text="", number=0, attempt=ctx.attempt)


@mutate.plan
async def plan_mutation(ctx: AgentContext, params: TraceInput) -> Plan:
    """Say what would change."""
    del ctx
    return Plan(summary=f"Append to {params.file}", targets=[params.file])


@agent(name="block-in-process", type=AgentType.ANALYSIS, risk=Risk.AUTO, isolation=Isolation.PROCESS)
async def block_in_process(ctx: AgentContext, params: HangInput) -> EchoOutput:
    """Block its interpreter, as a careless agent does; prints and forks as well."""
    print("printed by the agent")  # noqa: T201
    sys.stdout.flush()
    if os.fork() == 0:
        time.sleep(params.seconds)  # noqa: ASYNC251
        os._exit(0)
    time.sleep(params.seconds)  # noqa: ASYNC251
    ctx.logger.info("slept", seconds=params.seconds)
    return EchoOutput(text=str(os.getpid()), number=0, attempt=ctx.attempt)


class ChangeInput(BaseModel):
    """What to change."""

    file: str = Field(description="File that gets a line per change and per undo.")
    word: str = Field(default="", description="What the line says.")
    fail: bool = Field(default=False, description="Whether to fail after the change.")
    seconds: float = Field(default=0, description="Seconds between the change and the end.")


def note(file: str, *words: object) -> None:
    """Append a line in one write."""
    with Path(file).open("a") as opened:
        opened.write(" ".join(str(word) for word in words) + "\n")


@agent(name="change", type=AgentType.MODIFICATION, risk=Risk.AUTO)
async def change(ctx: AgentContext, params: ChangeInput) -> EchoOutput:
    """Change something without asking."""
    note(params.file, "do", params.word or ctx.node_id)
    await asyncio.sleep(params.seconds)
    if params.fail:
        raise AgentFailed("it failed after the change")
    return EchoOutput(text=params.word, number=0, attempt=ctx.attempt)


@change.plan
async def plan_change(ctx: AgentContext, params: ChangeInput) -> Plan:
    """Say what would change."""
    del ctx
    return Plan(summary=f"Append to {params.file}", targets=[params.word or params.file])


@change.undo
async def undo_change(ctx: AgentContext, params: ChangeInput, output: EchoOutput) -> None:
    """Say that it was undone."""
    del output
    if params.word == "stubborn":
        raise AgentFailed("it cannot be undone")
    note(params.file, "undo", params.word or ctx.node_id)


class NeedsFileInput(BaseModel):
    """What must be there."""

    file: str = Field(description="File that must exist.")
    trace: str = Field(default="", description="File that gets a line per call; empty for none.")
    text: str = Field(default="", description="Given back.")


@agent(name="needs-file", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def needs_file(ctx: AgentContext, params: NeedsFileInput) -> EchoOutput:
    """Fail for good while a file is missing."""
    if params.trace:
        note(params.trace, ctx.node_id)
    if not Path(params.file).exists():  # noqa: ASYNC240
        raise AgentFailed(f"{Path(params.file).name} is missing")
    return EchoOutput(text=params.text, number=0, attempt=ctx.attempt)


@agent(name="tool", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def tool(ctx: AgentContext, params: HangInput) -> EchoOutput:
    """Run a tool in the sandbox that takes its time and writes a file first."""
    call = ToolCall(
        argv=["/bin/sh", "-c", f"touch /out/started; exec sleep {params.seconds}"],
        writable={ctx.workspace: "/out"},
    )
    await ctx.sandbox().run(call)
    return EchoOutput(text="", number=0, attempt=ctx.attempt)


@agent(name="drifting", type=AgentType.MODIFICATION, risk=Risk.APPROVAL_REQUIRED)
async def drifting(ctx: AgentContext, params: NeedsFileInput) -> EchoOutput:
    """Change something by a plan that depends on a file."""
    note(params.file, "changed")
    return EchoOutput(text="", number=0, attempt=ctx.attempt)


@drifting.plan
async def plan_drifting(ctx: AgentContext, params: NeedsFileInput) -> Plan:
    """Say what the file named in `text` says."""
    del ctx
    return Plan(summary=Path(params.text).read_text())  # noqa: ASYNC240


@agent(
    name="versioned",
    type=AgentType.MODIFICATION,
    risk=Risk.APPROVAL_REQUIRED,
    version=os.environ.get("PENSTOCK_TEST_AGENT_VERSION", "1"),
)
async def versioned(ctx: AgentContext, params: TraceInput) -> EchoOutput:
    """Change something, in the version that the environment names."""
    note(params.file, "changed")
    return EchoOutput(text="", number=0, attempt=ctx.attempt)


@agent(name="linger", type=AgentType.ANALYSIS, risk=Risk.AUTO)
async def linger(ctx: AgentContext, params: NeedsFileInput) -> EchoOutput:
    """Hang, and when cancelled take a long time to clean up: until a file is there."""
    try:
        await asyncio.sleep(3600)
    finally:
        deadline = time.monotonic() + 60
        while not Path(params.file).exists() and time.monotonic() < deadline:  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)
    return EchoOutput(text="", number=0, attempt=ctx.attempt)
