"""Call an agent: inputs checked, run where its manifest says, output checked.

Nodes of a workflow and agents in Python flows are called alike, with the same words when
something is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from penstock.contracts import Agent, AgentContext, Isolation
from penstock.engine import failures, isolation
from penstock.errors import InputInvalid, OutputInvalid
from penstock.settings import Settings

__all__ = ["call_agent", "checked_output", "parse_inputs"]


def parse_inputs(agent: Agent, inputs: Mapping[str, Any]) -> BaseModel:
    """Validate rendered inputs with the agent's model.

    Raises:
        InputInvalid: They do not fit; the message names the fields, never the values.
    """
    try:
        return agent.input_model.model_validate(dict(inputs))
    except ValidationError as error:
        raise InputInvalid(f"inputs of agent {agent.name!r}: {failures.validation_message(error)}") from None


async def call_agent(agent: Agent, ctx: AgentContext, params: BaseModel, settings: Settings) -> Any:
    """Run the agent where its manifest says."""
    if agent.isolation is Isolation.PROCESS:
        return await isolation.run_in_process(agent, ctx, params, settings)
    return await agent.run(ctx, params)


def checked_output(agent: Agent, output: Any, limit_bytes: int) -> BaseModel:
    """Check an agent's output and return it as the agent's output model.

    Raises:
        OutputInvalid: It does not match the agent's output model, or is too large.
    """
    try:
        # Dumped and parsed again: a model changed after it was made may no longer be valid.
        raw = output.model_dump_json() if isinstance(output, BaseModel) else json.dumps(output)
    except (TypeError, ValueError) as error:
        raise OutputInvalid(f"agent {agent.name!r} returned {type(output).__name__}: {error}") from None
    if len(raw) > limit_bytes:
        raise OutputInvalid(
            f"agent {agent.name!r} returned {len(raw):,} bytes; the limit is {limit_bytes:,}"
            " (PENSTOCK_LIMITS__OUTPUT_BYTES)"
        )
    try:
        return agent.output_model.model_validate_json(raw)
    except ValidationError as error:
        raise OutputInvalid(f"output of agent {agent.name!r}: {failures.validation_message(error)}") from None
