"""Turn whatever an agent raises into a plain description, and say whether to try again."""

from __future__ import annotations

import asyncio
import copy
import traceback
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from pydantic import ValidationError

from penstock.contracts import Agent, AgentType
from penstock.errors import AgentFailed, AgentRetry, NodeTimedOut, PenstockError
from penstock.telemetry.redaction import Redactor

__all__ = [
    "as_error",
    "describe",
    "from_description",
    "is_harmless",
    "is_retryable",
    "time_limit",
    "timed_out",
    "validation_message",
]

_LONGEST_MESSAGE = 4000
_TRANSIENT = (ConnectionError, httpx.TransportError)


def is_retryable(error: BaseException, agent: Agent) -> bool:
    """Say whether another attempt may succeed and may be made.

    What changes something and is not idempotent is tried again only when the agent itself
    says so: nobody else knows how far the failed attempt came.
    """
    if isinstance(error, AgentRetry):
        return True
    if isinstance(error, PenstockError):
        return is_harmless(agent) and error.retryable
    return is_harmless(agent) and isinstance(error, _TRANSIENT)


def is_harmless(agent: Agent) -> bool:
    """Say whether an agent may be run again although nobody knows how far it came."""
    return agent.type is AgentType.ANALYSIS or agent.idempotent


def describe(error: BaseException, agent: Agent | None, redactor: Redactor) -> dict[str, Any]:
    """Describe an error in JSON types: `{"code", "message", "details", "retryable"}`.

    Exceptions themselves are never stored or sent: many cannot be pickled, and their
    arguments may hold anything.
    """
    if isinstance(error, PenstockError):
        code, message, details = error.code, error.message, error.details
    else:
        code, message, details = "agent_crashed", _crash_message(error), {}
    return {
        "code": code,
        "message": redactor.text(message)[:_LONGEST_MESSAGE],
        "details": redactor.data(details),
        "retryable": agent is not None and is_retryable(error, agent),
    }


def as_error(error: Exception, agent: Agent, redactor: Redactor) -> PenstockError:
    """Give an error that says the same as `describe`, fit to be raised and shown to people."""
    told = describe(error, agent, redactor)
    if not isinstance(error, PenstockError):
        return from_description(told)
    clean = copy.copy(error)
    clean.message, clean.args, clean.details = told["message"], (told["message"],), told["details"]
    return clean


def from_description(told: Mapping[str, Any]) -> AgentFailed | AgentRetry:
    """Make an error of a description that came from another process or a foreign exception."""
    kind = AgentRetry if told["retryable"] else AgentFailed
    return kind(told["message"], details=told["details"])


def validation_message(error: ValidationError) -> str:
    """List what is wrong with a model's fields, without their values."""
    lines = [
        f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False, include_context=False)[:20]
    ]
    return "; ".join(lines)


def _crash_message(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno})" if frames else ""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  a broken __str__ must not hide which error it was
        text = "its message cannot be read"
    return f"{type(error).__name__}: {text}{place}"


def timed_out(seconds: float) -> NodeTimedOut:
    """Make the error of a node that ran out of time."""
    return NodeTimedOut(f"took longer than its timeout of {seconds:g} s")


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncGenerator[None]:
    """End what is inside after some time.

    Raises:
        NodeTimedOut: Time was up.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise timed_out(seconds) from None
        raise
