"""What a workflow may use: agents, other workflows and groups, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from penstock.contracts import Agent, AgentType, Risk
from penstock.workflow.shapes import Schema
from penstock.workflow.spec import Workflow


@dataclass(frozen=True)
class AgentInfo:
    """What the checks need to know of an agent."""

    name: str
    version: str
    risk: Risk
    type: AgentType
    input_schema: Schema
    output_schema: Schema
    timeout_s: float = 300.0
    secrets: tuple[str, ...] = ()
    """Names of the blocks it expects under `blocks:`."""
    has_undo: bool | None = None
    """Whether it can undo what it did; None when that is not known."""

    @classmethod
    def of(cls, agent: Agent) -> AgentInfo:
        """Describe a registered agent."""
        return cls(
            name=agent.name,
            version=agent.version,
            risk=agent.risk,
            type=agent.type,
            input_schema=agent.input_model.model_json_schema(),
            output_schema=agent.output_model.model_json_schema(mode="serialization"),
            timeout_s=agent.timeout_s,
            secrets=agent.secrets,
            has_undo=agent.undoer is not None,
        )


@dataclass(frozen=True)
class Catalog:
    """Everything that a workflow file may name."""

    agents: Mapping[str, AgentInfo] = field(default_factory=dict[str, AgentInfo])
    workflows: Mapping[str, Workflow] = field(default_factory=dict[str, Workflow])
    """Other workflows, for nodes with `workflow:`."""
    groups: frozenset[str] | None = None
    """Known groups of approvers; None when that is not known, and then none is refused."""
    trusted_topics: frozenset[str] = frozenset()
    """Kafka topics, NATS subjects, Redis lists and channels that the operator marked trusted."""

    def agent_inputs(self, name: str) -> Schema:
        """Give an agent's input schema; an unknown agent takes anything."""
        info = self.agents.get(name)
        return info.input_schema if info else _ANYTHING


_ANYTHING: dict[str, JsonValue] = {}
