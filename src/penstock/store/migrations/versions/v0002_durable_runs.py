"""Workers and their leases, requests for runs, approvals, slots, budgets and cached outputs."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "penstock"
RUN_STATES = (
    "'pending', 'queued', 'running', 'suspended', 'completed', 'simulated', 'failed', 'rejected',"
    " 'cancelled', 'withdrawn', 'crashed', 'interrupted'"
)
NODE_STATES = (
    "'pending', 'running', 'waiting_approval', 'waiting', 'verifying', 'succeeded', 'failed', 'skipped',"
    " 'rejected', 'withdrawn', 'undone', 'cancelled', 'interrupted'"
)
TRUST = "'operator', 'authenticated', 'untrusted'"
APPROVAL_STATES = "'open', 'approved', 'rejected', 'withdrawn', 'expired', 'void'"


def upgrade() -> None:
    _widen_states()
    _create_workers()
    _create_requests()
    _extend_runs()
    _create_approvals()
    _create_budgets_and_cache()
    for statement in (ENDED_RUNS, SIGNAL):
        op.execute(statement)


def _at(name: str, *, default: bool = False, required: bool = False) -> sa.Column[object]:
    now = sa.text("now()") if default else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=not (required or default), server_default=now)


def _text(name: str, *, default: str | None = None, required: bool = False) -> sa.Column[object]:
    fallback = None if default is None else sa.text(f"'{default}'")
    nullable = not required and default is None
    return sa.Column(name, sa.Text, nullable=nullable, server_default=fallback)


def _number(name: str, default: int, kind: sa.types.TypeEngine[Any] | None = None) -> sa.Column[Any]:
    return sa.Column(name, kind or sa.Integer(), nullable=False, server_default=sa.text(str(default)))


def _document(name: str) -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=False, server_default=sa.text("'{}'::jsonb"))


def _run_key(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["run_id"], [f"{SCHEMA}.run.id"], name=f"{table}_run_id_fkey", ondelete="CASCADE"
    )


def _widen_states() -> None:
    for table, states in (("run", RUN_STATES), ("node", NODE_STATES)):
        name = f"{table}_state_check"
        op.drop_constraint(name, table, schema=SCHEMA, type_="check")
        op.create_check_constraint(name, table, f"state IN ({states})", schema=SCHEMA)


def _create_workers() -> None:
    op.create_table(
        "worker",
        sa.Column("id", sa.Uuid),
        _text("name", required=True),
        _text("pool", required=True),
        _text("process", required=True),
        sa.Column("ttl_s", sa.Double, nullable=False),
        _at("started_at", default=True),
        _at("held_since", default=True),
        _at("expires_at", required=True),
        sa.PrimaryKeyConstraint("id", name="worker_pkey"),
        schema=SCHEMA,
    )


def _create_requests() -> None:
    op.create_table(
        "run_request",
        sa.Column("id", sa.Uuid),
        _text("workflow", required=True),
        _text("key"),
        _document("inputs"),
        _document("trigger"),
        _text("trigger_type", default="manual"),
        _text("trust", required=True),
        _text("requester", default="unknown"),
        sa.Column("parent_run_id", sa.Uuid),
        _text("parent_node_id"),
        _text("parent_item"),
        _text("concurrency_key"),
        _text("queue"),
        sa.Column("run_id", sa.Uuid),
        _at("created_at", default=True),
        _at("closed_at"),
        sa.PrimaryKeyConstraint("id", name="run_request_pkey"),
        sa.UniqueConstraint("workflow", "key", name="run_request_workflow_key_key"),
        sa.UniqueConstraint("run_id", name="run_request_run_id_key"),
        sa.CheckConstraint(f"trust IN ({TRUST})", name="run_request_trust_check"),
        schema=SCHEMA,
    )
    op.create_index("run_request_parent_run_id_idx", "run_request", ["parent_run_id"], schema=SCHEMA)
    op.create_index(
        "run_request_open_idx",
        "run_request",
        ["workflow", "concurrency_key", "created_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("closed_at IS NULL"),
    )


def _extend_runs() -> None:
    for column in (
        sa.Column("worker_id", sa.Uuid),
        _number("token", 0, sa.BigInteger()),
        _number("epoch", 1),
        _number("round", 0),
        _at("entered_at"),
        _number("active_s", 0, sa.Double()),
        _number("crashes", 0),
        _at("reaped_at"),
        sa.Column("request_id", sa.Uuid),
        _text("requester", default="unknown"),
        _text("trigger_type", default="manual"),
        sa.Column("parent_run_id", sa.Uuid),
        _text("parent_node_id"),
        _text("parent_item"),
        _text("concurrency_key"),
        sa.Column("slot_round", sa.Integer),
        _at("cancel_requested_at"),
        _text("cancelled_by"),
    ):
        op.add_column("run", column, schema=SCHEMA)
    _refer("worker", on_delete="SET NULL")
    _refer("run_request", on_delete=None)
    for column in ("worker_id", "parent_run_id"):
        op.create_index(f"run_{column}_idx", "run", [column], schema=SCHEMA)
    op.create_index(
        "run_workflow_concurrency_key_idx",
        "run",
        ["workflow", "concurrency_key"],
        schema=SCHEMA,
        postgresql_where=sa.text("concurrency_key IS NOT NULL AND ended_at IS NULL"),
    )


def _refer(table: str, *, on_delete: str | None) -> None:
    column = f"{table.removeprefix('run_')}_id"
    op.create_foreign_key(
        f"run_{column}_fkey",
        "run",
        table,
        [column],
        ["id"],
        source_schema=SCHEMA,
        referent_schema=SCHEMA,
        ondelete=on_delete,
    )


def _create_approvals() -> None:
    op.create_table(
        "approval_request",
        sa.Column("id", sa.Uuid),
        sa.Column("run_id", sa.Uuid, nullable=False),
        _text("node_id", required=True),
        _text("item", default=""),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        _text("state", required=True),
        _text("digest", required=True),
        _text("title", required=True),
        _document("card"),
        sa.Column("required", sa.Integer, nullable=False),
        _at("opened_at", default=True),
        _at("expires_at"),
        _at("decided_at"),
        _at("used_at"),
        _text("reason"),
        _text("code_hash"),
        _text("code_person"),
        sa.PrimaryKeyConstraint("id", name="approval_request_pkey"),
        _run_key("approval_request"),
        sa.UniqueConstraint(
            "run_id", "node_id", "item", "round", name="approval_request_run_id_node_id_item_round_key"
        ),
        sa.CheckConstraint(f"state IN ({APPROVAL_STATES})", name="approval_request_state_check"),
        sa.CheckConstraint("required > 0", name="approval_request_required_check"),
        schema=SCHEMA,
    )
    op.create_index(
        "approval_request_open_key",
        "approval_request",
        ["run_id", "node_id", "item"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("state = 'open'"),
    )
    columns = ["state", "opened_at", "id"]
    op.create_index("approval_request_state_opened_at_idx", "approval_request", columns, schema=SCHEMA)
    _create_decisions()


def _create_decisions() -> None:
    op.create_table(
        "approval_decision",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True)),
        sa.Column("request_id", sa.Uuid, nullable=False),
        _text("person", required=True),
        _text("decision", required=True),
        _text("comment", default=""),
        _text("via", required=True),
        _at("at", default=True),
        sa.PrimaryKeyConstraint("id", name="approval_decision_pkey"),
        sa.ForeignKeyConstraint(
            ["request_id"],
            [f"{SCHEMA}.approval_request.id"],
            name="approval_decision_request_id_fkey",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("request_id", "person", name="approval_decision_request_id_person_key"),
        sa.CheckConstraint("decision IN ('approve', 'reject')", name="approval_decision_decision_check"),
        schema=SCHEMA,
    )


def _create_budgets_and_cache() -> None:
    op.create_table(
        "mutation",
        sa.Column("run_id", sa.Uuid),
        sa.Column("node_id", sa.Text),
        sa.Column("item", sa.Text, server_default=sa.text("''")),
        sa.Column("epoch", sa.Integer),
        sa.Column("target", sa.Text),
        _text("workflow", required=True),
        _at("at", default=True),
        sa.PrimaryKeyConstraint("run_id", "node_id", "item", "epoch", "target", name="mutation_pkey"),
        schema=SCHEMA,
    )
    columns = ["workflow", "target", "at"]
    op.create_index("mutation_workflow_target_at_idx", "mutation", columns, schema=SCHEMA)
    op.create_table(
        "cached_output",
        sa.Column("key", sa.Text),
        _text("agent", required=True),
        sa.Column("run_id", sa.Uuid, nullable=False),
        sa.Column("output", JSONB),
        _text("output_ref"),
        _at("expires_at", required=True),
        sa.PrimaryKeyConstraint("key", name="cached_output_pkey"),
        schema=SCHEMA,
    )
    op.create_index("cached_output_expires_at_idx", "cached_output", ["expires_at"], schema=SCHEMA)


ENDED_RUNS = """
    CREATE OR REPLACE FUNCTION penstock.run_ended(state text) RETURNS boolean LANGUAGE sql IMMUTABLE
    RETURN state NOT IN ('pending', 'queued', 'running', 'suspended')
"""

SIGNAL = """
    CREATE FUNCTION penstock.signal(run_id uuid) RETURNS void LANGUAGE sql
    RETURN pg_notify('penstock_signal', run_id::text)
"""
