"""The tables, as the newest migration leaves them; a test compares the two."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from penstock.store.states import NodeState, RunState, Trust

SCHEMA = "penstock"
RUN_CHANNEL = "penstock_run"
"""Notified with a run's id whenever events of it are committed."""

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    },
)

_NOW = text("now()")
_EMPTY = text("'{}'::jsonb")


def _one_of(table: str, column: str, values: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{value.value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{table}_{column}_check")


workflow = Table(
    "workflow",
    metadata,
    Column("name", Text, primary_key=True),
    Column("deployment_id", Uuid, unique=True),
    Column("revision_id", Uuid),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("deleted_at", DateTime(timezone=True)),
    ForeignKeyConstraint(
        ["name", "revision_id"],
        [f"{SCHEMA}.workflow_revision.workflow", f"{SCHEMA}.workflow_revision.id"],
        name="workflow_revision_id_fkey",
        use_alter=True,
    ),
)

workflow_revision = Table(
    "workflow_revision",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workflow", Text, ForeignKey("penstock.workflow.name"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("agents", JSONB, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    UniqueConstraint("workflow", "number"),
    UniqueConstraint("workflow", "digest"),
    UniqueConstraint("workflow", "id"),
    CheckConstraint("number > 0", name="workflow_revision_number_check"),
)

run = Table(
    "run",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workflow", Text, nullable=False),
    Column("revision_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("inputs", JSONB, nullable=False, server_default=_EMPTY),
    Column("trigger", JSONB, nullable=False, server_default=_EMPTY),
    Column("trust", Text, nullable=False),
    Column("agents", JSONB, nullable=False, server_default=_EMPTY),
    Column("state", Text, nullable=False),
    Column("message", Text),
    Column("outputs", JSONB),
    Column("error", JSONB),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("started_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    Column("claimed_by", Text),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    ForeignKeyConstraint(
        ["workflow", "revision_id"],
        [workflow_revision.c.workflow, workflow_revision.c.id],
        name="run_revision_id_fkey",
    ),
    _one_of("run", "state", RunState),
    _one_of("run", "trust", Trust),
    Index("run_created_at_idx", "created_at", "id"),
    Index("run_workflow_created_at_idx", "workflow", "created_at", "id"),
    Index("run_state_created_at_idx", "state", "created_at", "id"),
)

node = Table(
    "node",
    metadata,
    Column("run_id", Uuid, ForeignKey(run.c.id, ondelete="CASCADE"), primary_key=True),
    Column("node_id", Text, primary_key=True),
    Column("item", Text, primary_key=True, server_default=text("''")),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("output", JSONB),
    Column("output_ref", Text),
    Column("error", JSONB),
    Column("reason", Text),
    Column("task_run_id", Uuid),
    Column("started_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    _one_of("node", "state", NodeState),
    CheckConstraint("attempt >= 0", name="node_attempt_check"),
)

run_event = Table(
    "run_event",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("run_id", Uuid, ForeignKey(run.c.id, ondelete="CASCADE"), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    Column("type", Text, nullable=False),
    Column("node_id", Text),
    Column("data", JSONB, nullable=False, server_default=_EMPTY),
    Index("run_event_run_id_id_idx", "run_id", "id"),
)
