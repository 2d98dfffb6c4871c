"""The workflow file as models; durations are seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from penstock.workflow.fields import (
    AgentName,
    Document,
    Duration,
    FieldName,
    Id,
    Model,
    Principal,
    SecretRef,
    Text,
    Word,
    WorkflowName,
)
from penstock.workflow.triggers import Trigger

MAX_NODES = 500
"""Most nodes of one workflow, error branches included."""

Small = Annotated[int, Field(ge=1, le=1000)]


class Metadata(Model):
    """What the workflow is called and for."""

    name: WorkflowName = Field(description="Name, lower-case words joined by dashes.")
    description: str = Field(default="", max_length=2000, description="What it does, in a sentence.")
    owner: str = Field(default="", max_length=200, description="Team that answers for it.")


class InputSpec(Model):
    """One input: a JSON Schema, and who may fill it with what."""

    type: Literal["string", "integer", "number", "boolean", "array", "object"] = Field(
        description="Type of the value."
    )
    title: str | None = Field(
        default=None, max_length=200, description="Label in forms; unset means the name."
    )
    description: str = Field(default="", max_length=2000, description="Help text in forms.")
    default: JsonValue = Field(default=None, description="Value when none is given; unset makes it required.")
    enum: Sequence[JsonValue] | None = Field(
        default=None, min_length=1, description="The only values allowed."
    )
    allow: Word | None = Field(default=None, description="Name of the operator's list of allowed values.")
    format: Literal["date", "date-time", "email", "ipv4", "ipv6", "uuid"] | None = Field(
        default=None, description="Form of a text."
    )
    pattern: str | None = Field(
        default=None, max_length=500, description="Regular expression a text must hold."
    )
    min_length: int | None = Field(default=None, ge=0, alias="minLength", description="Fewest characters.")
    max_length: int | None = Field(default=None, ge=0, alias="maxLength", description="Most characters.")
    minimum: float | int | None = Field(default=None, description="Smallest number.")
    maximum: float | int | None = Field(default=None, description="Largest number.")
    items: Mapping[str, JsonValue] | None = Field(default=None, description="JSON Schema of a list's items.")
    min_items: int | None = Field(default=None, ge=0, alias="minItems", description="Fewest items.")
    max_items: int | None = Field(default=None, ge=0, alias="maxItems", description="Most items.")
    unique_items: bool = Field(default=False, alias="uniqueItems", description="Whether items must differ.")
    properties: Mapping[str, Mapping[str, JsonValue]] | None = Field(
        default=None, description="JSON Schema of each key of a mapping."
    )
    required: Sequence[str] | None = Field(default=None, description="Keys a mapping must have.")
    additional_properties: bool = Field(
        default=True, alias="additionalProperties", description="Whether a mapping may have other keys."
    )

    @property
    def is_required(self) -> bool:
        """Whether a value must be given."""
        return self.default is None


class Retry(Model):
    """When and how often a failed node is tried again."""

    max: int = Field(default=3, ge=1, le=20, description="Tries in all.")
    base: Duration = Field(default=2.0, description="Wait before the second try; it doubles each time.")
    cap: Duration = Field(default=60.0, description="Longest wait.")
    jitter: float = Field(default=0.2, ge=0, le=1, description="Random part of a wait, 0 to 1.")

    def delay_s(self, tries: int, chance: float) -> float:
        """Give the wait after so many failed tries.

        Args:
            tries: From 1.
            chance: A random number, 0 to 1.
        Returns:
            Seconds, at most `cap` plus its jitter.
        """
        wait = min(self.cap, self.base * 2.0 ** min(tries - 1, 30))
        return wait * (1 + self.jitter * (2 * chance - 1))


class Require(Model):
    """How many approvals are needed, and from whom."""

    count: Small = Field(default=1, description="Distinct people.")
    from_: Sequence[Principal] = Field(
        default=(),
        alias="from",
        description="Who may approve, as user:name or group:name; empty: any approver.",
    )
    distinct_groups: bool = Field(
        default=False, description="Whether those who approve must stand for different entries of from."
    )

    @model_validator(mode="after")
    def _of_what(self) -> Self:
        if self.distinct_groups and not self.from_:
            raise PydanticCustomError("distinct_groups", "distinct_groups needs from: [group:…]")
        return self


class Escalate(Model):
    """Whom to ask as well when nobody answers."""

    after: Duration | None = Field(
        default=None,
        description="How long nobody answered; unset means the timeout, with on_timeout: escalate.",
    )
    to: Sequence[Principal] = Field(min_length=1, description="Who may approve from then on.")


class Approval(Model):
    """The gate before a node."""

    title: Text | None = Field(default=None, description="Headline of the request.")
    require: Require = Field(default=Require(), description="Quorum.")
    forbid: Sequence[Literal["requester", "last_editor"]] = Field(
        default=(), description="Who may not approve."
    )
    timeout: Duration | None = Field(default=None, description="How long the gate waits.")
    on_timeout: Literal["reject", "fail", "escalate"] = Field(
        default="reject", description="What happens then."
    )
    remind: Sequence[Duration] = Field(
        default=(), max_length=10, description="When to remind, from the request."
    )
    escalate: Escalate | None = Field(default=None, description="Whom to ask as well, and when.")
    editable: Mapping[FieldName, Mapping[str, JsonValue]] = Field(
        default_factory=dict[str, Mapping[str, JsonValue]],
        description="Inputs that an approver may change, each with the JSON Schema of its value.",
    )
    valid: Duration = Field(
        default=86_400.0, description="How long an approval may be used once it is given."
    )
    per: Literal["item", "node"] = Field(
        default="item", description="With foreach: one request per item, or one for all of them."
    )

    @model_validator(mode="after")
    def _whom(self) -> Self:
        at_timeout = self.on_timeout == "escalate"
        if at_timeout and self.escalate is None:
            raise PydanticCustomError("escalate", "on_timeout: escalate needs escalate: {to}")
        if self.escalate and self.escalate.after is None and not at_timeout:
            raise PydanticCustomError("escalate", "escalate needs after, or on_timeout: escalate")
        return self

    @model_validator(mode="after")
    def _on_time(self) -> Self:
        if self.on_timeout != "reject" and self.timeout is None:
            raise PydanticCustomError(
                "timeout", "on_timeout: {value} needs timeout", {"value": self.on_timeout}
            )
        return self

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        after = self.escalate.after if self.escalate else None
        if after is not None and self.timeout is not None and after >= self.timeout:
            raise PydanticCustomError("escalate", "escalate.after must be shorter than timeout")
        return self


def _list_or_text(value: object) -> object:
    if type(value) not in (str, list):
        raise PydanticCustomError("list_or_text", "must be a list, or an expression that gives one")
    return value


class Foreach(Model):
    """Run the node once per item of a list."""

    in_: Annotated[Text | Sequence[JsonValue], BeforeValidator(_list_or_text)] = Field(
        alias="in", description="A list, or an expression that gives one."
    )
    as_: Id = Field(alias="as", description="Name of the item in the node's expressions.")
    concurrency: Small = Field(default=1, description="Items at a time.")
    max_items: Annotated[int, Field(ge=1, le=10_000)] = Field(default=100, description="Longest list.")
    stop_after_failures: Small | None = Field(
        default=None, description="Start no more items after so many failed; unset means go through all."
    )


class Verify(Model):
    """A check by another agent after the node has changed something."""

    agent: AgentName = Field(description="Agent that checks.")
    with_: Mapping[str, JsonValue] = Field(
        default_factory=dict[str, JsonValue], alias="with", description="Its inputs."
    )
    within: Duration | None = Field(default=None, description="How long it may try until it succeeds.")


class Cache(Model):
    """Reuse an output for the same agent version and inputs."""

    ttl: Duration = Field(description="How long an output may be reused.")


class Node(Model):
    """One step: an agent, or another workflow."""

    id: Id = Field(description="Name of the node; lower-case letters, digits and underscores.")
    agent: AgentName | None = Field(default=None, description="Agent to run.")
    workflow: WorkflowName | None = Field(default=None, description="Workflow to run, in place of an agent.")
    with_: Mapping[str, JsonValue] = Field(
        default_factory=dict[str, JsonValue], alias="with", description="Inputs; texts may hold {{ }}."
    )
    needs: Sequence[Id] = Field(default=(), description="Nodes that end before this one starts.")
    when: Text | None = Field(default=None, description="Condition; when false the node is skipped.")
    run: Literal["on_success", "always", "on_failure"] = Field(
        default="on_success", description="Run after needs that succeeded, ended anyhow, or failed."
    )
    on_error: str = Field(
        default="fail",
        pattern=r"^[a-z][a-z0-9_]*$",
        description="What a failure does: fail, continue, or the name of an error branch.",
    )
    retry: Retry = Field(default=Retry(), description="Tries.")
    timeout: Duration | None = Field(default=None, description="Limit of one try; unset means the agent's.")
    foreach: Foreach | None = Field(default=None, description="Run once per item.")
    approval: Approval | None = Field(default=None, description="Gate before the node.")
    undo: Literal["automatic", "never"] = Field(
        default="never", description="Whether the agent's undo runs when the run fails later."
    )
    verify: Verify | None = Field(default=None, description="Check afterwards.")
    blocks: Mapping[Word, Word] = Field(
        default_factory=dict[str, str],
        description="Credentials: the agent's name for a block, and the block.",
    )
    secrets: Mapping[FieldName, SecretRef] = Field(
        default_factory=dict[str, str], description="Single secrets, each as block/field."
    )
    cache: Cache | None = Field(default=None, description="Reuse of outputs.")
    pool: Word | None = Field(default=None, description="Work pool to run in.")
    requires: Sequence[Word] = Field(default=(), description="Capabilities a worker must have.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.agent is None) == (self.workflow is None):
            raise PydanticCustomError("one_of", "give either agent or workflow")
        return self


class Concurrency(Model):
    """How many runs with one key there may be."""

    key: Text = Field(description="Text that tells runs apart; may hold {{ }}.")
    limit: Small = Field(default=1, description="Runs at a time.")
    on_conflict: Literal["queue", "reject", "attach", "cancel_running"] = Field(
        default="queue", description="What a run too many does."
    )
    release_while_waiting: bool = Field(
        default=False, description="Whether a run that waits for an approval frees its place."
    )


class Budget(Model):
    """How many changes are allowed in a time."""

    max_mutations: Small = Field(description="Changes.")
    per: Literal["target", "workflow"] = Field(default="target", description="What is counted.")
    window: Duration = Field(description="Time that is looked back.")


Branch = Annotated[Sequence[Node], Field(min_length=1)]


class Workflow(Document):
    """A whole workflow file."""

    api_version: Literal["penstock/v1"] = Field(alias="apiVersion", description="Version of the format.")
    kind: Literal["Workflow"] = Field(description="What the file holds.")
    metadata: Metadata = Field(description="Name and purpose.")
    inputs: Mapping[FieldName, InputSpec] = Field(
        default_factory=dict[str, InputSpec], description="Inputs; the form in the Prefect UI."
    )
    triggers: Sequence[Trigger] = Field(default=(), max_length=50, description="What starts it.")
    concurrency: Concurrency | None = Field(default=None, description="Limit of runs at a time.")
    timeout: Duration | None = Field(
        default=None, description="Limit of a run, waiting for approval not counted."
    )
    budget: Budget | None = Field(default=None, description="Limit of changes.")
    nodes: Annotated[Sequence[Node], Field(min_length=1, max_length=MAX_NODES)] = Field(
        description="The steps."
    )
    error_branches: Mapping[Id, Branch] = Field(
        default_factory=dict[str, Sequence[Node]], description="Steps that run when a node fails, by name."
    )
    outputs: Mapping[FieldName, JsonValue] = Field(
        default_factory=dict[str, JsonValue], description="What a completed run gives back."
    )

    @property
    def name(self) -> str:
        """The name in the metadata."""
        return self.metadata.name
