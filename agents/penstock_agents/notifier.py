"""Tell people: Slack, e-mail, webhooks and everything else that Apprise speaks, the log, or a file.

Addresses hold credentials: they come from blocks and never reach a log, a result or an error.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import PurePosixPath
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from penstock.contracts import (
    AgentContext,
    AgentFailed,
    AgentRetry,
    AgentType,
    Change,
    Plan,
    Risk,
    agent,
)
from penstock.errors import PenstockError
from penstock_blocks.sending import BODY_LENGTH, Addresses, Level, Message, line, plain, send_all

_TRANSIENT = re.compile(r"(?i)connection error|timed? ?out|error=(429|5\d\d)\b")
Target = Annotated[
    str,
    Field(
        pattern=r"^(log|block:[A-Za-z0-9][A-Za-z0-9_-]{0,99}|file:[^\x00-\x1f]{1,200})$",
        description="log, block:<name> or file:<path>.",
    ),
]


class NotifyInput(BaseModel):
    """What to say, and to whom."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"title": "Disk full", "body": "db-1 has 2 % left.", "targets": ["log"]},
                {"title": "Deployed", "level": "success", "targets": ["block:on-call", "file:notes.txt"]},
            ]
        },
    )

    targets: list[Target] = Field(
        default_factory=lambda: ["log"],
        min_length=1,
        max_length=20,
        description="log, block:<name under blocks:>, or file:<path in the notifications folder>.",
    )
    title: str = Field(default="", max_length=2000, description="One line; cut at 250 characters.")
    body: str = Field(default="", max_length=200_000, description="Plain text; cut at 10,000 characters.")
    level: Level = Field(default=Level.INFO, description="How much it matters.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.title.strip() or self.body.strip()):
            raise ValueError("a notification needs a title or a body")
        return self


class Failure(BaseModel):
    """A target that did not get the message."""

    target: str = Field(description="The target as it was named in the inputs.")
    reason: str = Field(description="Why, without addresses or credentials.")


class NotifyOutput(BaseModel):
    """Who got the message."""

    delivered: list[str] = Field(description="Targets that got it.")
    failed: list[Failure] = Field(description="Targets that did not get it.")


class _Undelivered(Exception):  # noqa: N818  it names what happened to one target
    def __init__(self, reason: str, *, transient: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient


@agent(
    name="notifier",
    type=AgentType.EXECUTION,
    risk=Risk.AUTO,
    capabilities=("notification",),
    timeout_s=120,
    egress=("*",),
    # A message that comes twice does less harm than one that never comes.
    idempotent=True,
)
async def notify(ctx: AgentContext, params: NotifyInput) -> NotifyOutput:
    """Send a message to people.

    Targets that fail are listed and do not stop the others; only when all of them fail does the
    node fail, and it is tried again when that may help. A dry run sends nothing.
    """
    message = Message(line(params.title), plain(params.body, BODY_LENGTH), params.level)
    targets = list(dict.fromkeys(params.targets))
    if ctx.dry_run:
        ctx.logger.info("notification_not_sent", targets=targets, reason="dry run")
        return NotifyOutput(delivered=[], failed=[])
    results = await asyncio.gather(*(_attempt(ctx, target, message) for target in targets))
    delivered = [target for target, error in zip(targets, results, strict=True) if error is None]
    lost = [(target, error) for target, error in zip(targets, results, strict=True) if error is not None]
    failed = [Failure(target=target, reason=str(error)) for target, error in lost]
    for item in failed:
        ctx.logger.warning("notification_failed", target=item.target, reason=item.reason)
    if not delivered:
        reasons = "; ".join(f"{item.target}: {item.reason}" for item in failed)
        kind = AgentRetry if any(error.transient for _, error in lost) else AgentFailed
        raise kind(f"nobody got the message: {reasons}")
    return NotifyOutput(delivered=delivered, failed=failed)


@notify.plan
async def plan(ctx: AgentContext, params: NotifyInput) -> Plan:
    """Tell what would be sent to whom."""
    ctx.logger.debug("notification_planned", targets=params.targets)
    targets = tuple(dict.fromkeys(params.targets))
    title = line(params.title)
    return Plan(
        summary=f"Send {title!r} to {', '.join(targets)}",
        targets=targets,
        changes=tuple(Change(target, "send", title) for target in targets),
        data={"title": title, "body": plain(params.body, BODY_LENGTH), "level": params.level.value},
    )


async def _attempt(ctx: AgentContext, target: str, message: Message) -> _Undelivered | None:
    kind, _, name = target.partition(":")
    try:
        if kind == "log":
            ctx.logger.info("notification", title=message.title, body=message.body, level=message.level.value)
        elif kind == "file":
            await _to_file(ctx, name, message)
        else:
            await _to_block(ctx, name, message)
    except _Undelivered as error:
        return error
    return None


async def _to_file(ctx: AgentContext, name: str, message: Message) -> None:
    """Write below the attempt's folder and keep a copy with the run, which outlives the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise _Undelivered("the path leads out of the notifications folder")
    file = ctx.workspace / "notifications" / path
    text = f"[{message.level.value}] {message.title}\n\n{message.body}\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _Undelivered(f"the file cannot be written: {error.strerror}") from None
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or "file"
    await ctx.artifact(f"notification-{slug}", text, media_type="text/plain", description="A notification.")


async def _to_block(ctx: AgentContext, name: str, message: Message) -> None:
    try:
        block = await ctx.block(name)
    except PenstockError as error:
        raise _Undelivered(error.message) from None
    if not isinstance(block, Addresses):
        raise _Undelivered("the block holds no notification addresses")
    outcomes = await asyncio.to_thread(send_all, block.addresses(), message)
    reasons = [reason for reason in outcomes if reason]
    if reasons:
        transient = any(_TRANSIENT.search(reason) for reason in reasons)
        what = "the service did not answer or is busy" if transient else "the service refused it"
        count = f"{len(reasons)} of {len(outcomes)} addresses"
        raise _Undelivered(f"{count} failed: {what}", transient=transient)
