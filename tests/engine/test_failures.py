from __future__ import annotations

import httpx
import pytest
from pydantic import BaseModel, Field

from penstock.contracts import Agent, AgentContext, AgentFailed, AgentRetry, AgentType, Risk, agent
from penstock.engine.failures import describe, is_retryable
from penstock.errors import NodeTimedOut, Unreachable
from penstock.telemetry.redaction import Redactor


class Nothing(BaseModel):
    """No fields."""

    value: int = Field(default=0, description="A number.")


def make(type_: AgentType, *, idempotent: bool = False) -> Agent:
    @agent(name="made", type=type_, risk=Risk.AUTO, idempotent=idempotent)
    async def made(ctx: AgentContext, params: Nothing) -> Nothing:
        """Do nothing."""
        del ctx
        return params

    return made


READS = make(AgentType.ANALYSIS)
CHANGES = make(AgentType.MODIFICATION)
CHANGES_SAFELY = make(AgentType.EXECUTION, idempotent=True)


@pytest.mark.parametrize(
    ("error", "who", "expected"),
    [
        (AgentRetry("again"), READS, True),
        (AgentRetry("again"), CHANGES, True),
        (AgentFailed("no"), READS, False),
        (Unreachable("away"), READS, True),
        (Unreachable("away"), CHANGES, False),
        (Unreachable("away"), CHANGES_SAFELY, True),
        (NodeTimedOut("slow"), READS, True),
        (NodeTimedOut("slow"), CHANGES, False),
        (httpx.ConnectError("away"), READS, True),
        (ConnectionResetError(), READS, True),
        (ValueError("bug"), READS, False),
        (KeyError("bug"), CHANGES_SAFELY, False),
    ],
)
def test_is_retryable(error: Exception, who: Agent, expected: bool) -> None:
    assert is_retryable(error, who) is expected


def test_describe_tells_where_an_agent_crashed_and_hides_secrets() -> None:
    def crash() -> None:
        raise ValueError("cannot reach postgresql://user:hunter2@host/db")

    with pytest.raises(ValueError, match="cannot reach") as caught:
        crash()

    told = describe(caught.value, READS, Redactor())

    assert told["code"] == "agent_crashed"
    assert "hunter2" not in told["message"]
    assert told["message"].startswith(
        "ValueError: cannot reach postgresql://user:[redacted]@host/db (test_failures.py:"
    )


def test_describe_cuts_what_is_endless() -> None:
    told = describe(AgentFailed("x" * 100_000, details={"token": "a b"}), READS, Redactor())

    assert len(told["message"]) == 4000
    assert told["details"] == {"token": "a b"}
