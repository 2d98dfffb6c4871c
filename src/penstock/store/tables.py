"""The tables, as the newest migration leaves them; a test compares the two."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
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
SIGNAL_CHANNEL = "penstock_signal"
"""Notified with a run's id when it has something to go on with: a cancel, a decision, a child's end."""

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    },
)

NOW = text("now()")
EMPTY = text("'{}'::jsonb")


def one_of(table: str, column: str, values: type[StrEnum]) -> CheckConstraint:
    """Make the check that a column holds one of the values."""
    listed = ", ".join(f"'{value.value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{table}_{column}_check")


workflow = Table(
    "workflow",
    metadata,
    Column("name", Text, primary_key=True),
    Column("deployment_id", Uuid, unique=True),
    Column("revision_id", Uuid),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=NOW),
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
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    UniqueConstraint("workflow", "number"),
    UniqueConstraint("workflow", "digest"),
    UniqueConstraint("workflow", "id"),
    CheckConstraint("number > 0", name="workflow_revision_number_check"),
)

worker = Table(
    "worker",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("pool", Text, nullable=False),
    Column("process", Text, nullable=False),
    Column("ttl_s", Double, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("held_since", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

run_request = Table(
    "run_request",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workflow", Text, nullable=False),
    Column("key", Text),
    Column("inputs", JSONB, nullable=False, server_default=EMPTY),
    Column("trigger", JSONB, nullable=False, server_default=EMPTY),
    Column("trigger_type", Text, nullable=False, server_default=text("'manual'")),
    Column("trust", Text, nullable=False),
    Column("requester", Text, nullable=False, server_default=text("'unknown'")),
    Column("parent_run_id", Uuid),
    Column("parent_node_id", Text),
    Column("parent_item", Text),
    Column("concurrency_key", Text),
    Column("queue", Text),
    Column("run_id", Uuid, unique=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("closed_at", DateTime(timezone=True)),
    UniqueConstraint("workflow", "key"),
    one_of("run_request", "trust", Trust),
    Index("run_request_parent_run_id_idx", "parent_run_id"),
    Index(
        "run_request_open_idx",
        "workflow",
        "concurrency_key",
        "created_at",
        postgresql_where=text("closed_at IS NULL"),
    ),
)

run = Table(
    "run",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("workflow", Text, nullable=False),
    Column("revision_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("inputs", JSONB, nullable=False, server_default=EMPTY),
    Column("trigger", JSONB, nullable=False, server_default=EMPTY),
    Column("trust", Text, nullable=False),
    Column("agents", JSONB, nullable=False, server_default=EMPTY),
    Column("state", Text, nullable=False),
    Column("message", Text),
    Column("outputs", JSONB),
    Column("error", JSONB),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("started_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    Column("claimed_by", Text),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("worker_id", Uuid, ForeignKey(worker.c.id, ondelete="SET NULL")),
    Column("token", BigInteger, nullable=False, server_default=text("0")),
    Column("epoch", Integer, nullable=False, server_default=text("1")),
    Column("round", Integer, nullable=False, server_default=text("0")),
    Column("entered_at", DateTime(timezone=True)),
    Column("active_s", Double, nullable=False, server_default=text("0")),
    Column("crashes", Integer, nullable=False, server_default=text("0")),
    Column("reaped_at", DateTime(timezone=True)),
    Column("request_id", Uuid, ForeignKey(run_request.c.id)),
    Column("requester", Text, nullable=False, server_default=text("'unknown'")),
    Column("trigger_type", Text, nullable=False, server_default=text("'manual'")),
    Column("parent_run_id", Uuid),
    Column("parent_node_id", Text),
    Column("parent_item", Text),
    Column("concurrency_key", Text),
    Column("slot_round", Integer),
    Column("cancel_requested_at", DateTime(timezone=True)),
    Column("cancelled_by", Text),
    ForeignKeyConstraint(
        ["workflow", "revision_id"],
        [workflow_revision.c.workflow, workflow_revision.c.id],
        name="run_revision_id_fkey",
    ),
    one_of("run", "state", RunState),
    one_of("run", "trust", Trust),
    Index("run_created_at_idx", "created_at", "id"),
    Index("run_workflow_created_at_idx", "workflow", "created_at", "id"),
    Index("run_state_created_at_idx", "state", "created_at", "id"),
    Index("run_worker_id_idx", "worker_id"),
    Index("run_parent_run_id_idx", "parent_run_id"),
    Index(
        "run_workflow_concurrency_key_idx",
        "workflow",
        "concurrency_key",
        postgresql_where=text("concurrency_key IS NOT NULL AND ended_at IS NULL"),
    ),
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
    one_of("node", "state", NodeState),
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
    Column("data", JSONB, nullable=False, server_default=EMPTY),
    Index("run_event_run_id_id_idx", "run_id", "id"),
)

mutation = Table(
    "mutation",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("node_id", Text, primary_key=True),
    Column("item", Text, primary_key=True, server_default=text("''")),
    Column("epoch", Integer, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("workflow", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Index("mutation_workflow_target_at_idx", "workflow", "target", "at"),
)

cached_output = Table(
    "cached_output",
    metadata,
    Column("key", Text, primary_key=True),
    Column("agent", Text, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("output", JSONB),
    Column("output_ref", Text),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Index("cached_output_expires_at_idx", "expires_at"),
)
