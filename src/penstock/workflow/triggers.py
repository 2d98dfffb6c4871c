"""What starts a workflow, as the file says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from penstock.workflow.fields import Duration, FieldName, Model, SecretRef, Text, Word

Cron = Annotated[
    str, StringConstraints(pattern=r"^[0-9A-Za-z*/,?#L-]+( [0-9A-Za-z*/,?#L-]+){4}$", max_length=100)
]
Subject = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_:*>-]+([./][A-Za-z0-9_:*>-]+)*$", max_length=200)
]


class _Trigger(Model):
    """What every trigger has."""

    inputs: Mapping[FieldName, JsonValue] = Field(
        default_factory=dict[str, JsonValue], description="Value of each input, out of `trigger`."
    )
    key: Text | None = Field(
        default=None, description="Runs with the same key that have not ended are the same run."
    )
    cooldown: Duration | None = Field(
        default=None, description="After a run, how long the same key starts no other."
    )


class _EventTrigger(_Trigger):
    """What every trigger with a payload has."""

    filter: Text | None = Field(default=None, description="Condition on `trigger`; unset means every event.")


class AlertmanagerTrigger(_EventTrigger):
    """Start when Alertmanager sends a group of alerts."""

    type: Literal["alertmanager"] = Field(description="Alertmanager's webhook, version 4.")
    on_resolved: Literal["ignore", "withdraw"] = Field(
        default="ignore", description="What a resolved alert does to a run that has changed nothing yet."
    )


class WebhookTrigger(_EventTrigger):
    """Start when a signed webhook comes in."""

    type: Literal["webhook"] = Field(description="A webhook.")
    name: Word = Field(description="Last part of the webhook's address.")
    signature: Literal["github", "gitlab", "hmac"] = Field(description="How the sender signs.")
    secret: SecretRef = Field(description="Block and field that hold the shared secret.")


class ScheduleTrigger(_Trigger):
    """Start by the clock."""

    type: Literal["schedule"] = Field(description="A schedule; give `cron` or `every`.")
    cron: Cron | None = Field(default=None, description="Five fields: minute hour day month weekday.")
    every: Duration | None = Field(default=None, description="Time between two starts.")
    timezone: str = Field(
        default="UTC",
        pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$",
        max_length=60,
        description="Name of a time zone, like Europe/Berlin.",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.cron is None) == (self.every is None):
            raise PydanticCustomError("one_of", "give either cron or every")
        return self


class KafkaTrigger(_EventTrigger):
    """Start when a message arrives on a Kafka topic."""

    type: Literal["kafka"] = Field(description="A Kafka topic.")
    topic: Word = Field(description="Name of the topic.")
    group: Word = Field(default="penstock", description="Consumer group.")


class NatsTrigger(_EventTrigger):
    """Start when a message arrives on a NATS subject."""

    type: Literal["nats"] = Field(description="A NATS JetStream subject.")
    subject: Subject = Field(description="Subject; may hold wildcards.")
    stream: Word | None = Field(default=None, description="Stream; unset means the one that has the subject.")
    durable: Word = Field(default="penstock", description="Name of the durable consumer.")


class RedisTrigger(_EventTrigger):
    """Start when an item arrives in a Redis list or on a channel."""

    type: Literal["redis"] = Field(description="Redis; give `list` or `channel`.")
    list_: Subject | None = Field(default=None, alias="list", description="List to take items from.")
    channel: Subject | None = Field(default=None, description="Channel to listen on.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.list_ is None) == (self.channel is None):
            raise PydanticCustomError("one_of", "give either list or channel")
        return self


Trigger = Annotated[
    AlertmanagerTrigger | WebhookTrigger | ScheduleTrigger | KafkaTrigger | NatsTrigger | RedisTrigger,
    Field(discriminator="type"),
]
"""Any trigger, told apart by `type`."""
