"""Workflows, their revisions, runs, nodes and events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "penstock"
RUN_STATES = (
    "'pending', 'running', 'suspended', 'completed', 'simulated', 'failed', 'rejected',"
    " 'cancelled', 'withdrawn', 'crashed'"
)
NODE_STATES = (
    "'pending', 'running', 'waiting_approval', 'succeeded', 'failed', 'skipped', 'rejected',"
    " 'withdrawn', 'undone', 'cancelled'"
)
TRUST = "'operator', 'authenticated', 'untrusted'"


def upgrade() -> None:
    _create_workflows()
    _create_runs()
    _create_nodes_and_events()
    for statement in (ENDED_RUNS, *IMMUTABLE_REVISIONS, *ANNOUNCED_EVENTS):
        op.execute(statement)


def _at(name: str, *, required: bool = False) -> sa.Column[object]:
    default = sa.text("now()") if required else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=not required, server_default=default)


def _document(name: str) -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=False, server_default=sa.text("'{}'::jsonb"))


def _create_workflows() -> None:
    op.create_table(
        "workflow",
        sa.Column("name", sa.Text),
        sa.Column("deployment_id", sa.Uuid),
        sa.Column("revision_id", sa.Uuid),
        _at("created_at", required=True),
        _at("updated_at", required=True),
        _at("deleted_at"),
        sa.PrimaryKeyConstraint("name", name="workflow_pkey"),
        sa.UniqueConstraint("deployment_id", name="workflow_deployment_id_key"),
        schema=SCHEMA,
    )
    op.create_table(
        "workflow_revision",
        sa.Column("id", sa.Uuid),
        sa.Column("workflow", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("agents", JSONB, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        _at("created_at", required=True),
        sa.PrimaryKeyConstraint("id", name="workflow_revision_pkey"),
        sa.ForeignKeyConstraint(
            ["workflow"], [f"{SCHEMA}.workflow.name"], name="workflow_revision_workflow_fkey"
        ),
        sa.UniqueConstraint("workflow", "number", name="workflow_revision_workflow_number_key"),
        sa.UniqueConstraint("workflow", "digest", name="workflow_revision_workflow_digest_key"),
        sa.UniqueConstraint("workflow", "id", name="workflow_revision_workflow_id_key"),
        sa.CheckConstraint("number > 0", name="workflow_revision_number_check"),
        schema=SCHEMA,
    )
    op.create_foreign_key(
        "workflow_revision_id_fkey",
        "workflow",
        "workflow_revision",
        ["name", "revision_id"],
        ["workflow", "id"],
        source_schema=SCHEMA,
        referent_schema=SCHEMA,
    )


def _create_runs() -> None:
    op.create_table(
        "run",
        sa.Column("id", sa.Uuid),
        sa.Column("workflow", sa.Text, nullable=False),
        sa.Column("revision_id", sa.Uuid, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        _document("inputs"),
        _document("trigger"),
        sa.Column("trust", sa.Text, nullable=False),
        _document("agents"),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("outputs", JSONB),
        sa.Column("error", JSONB),
        _at("created_at", required=True),
        _at("started_at"),
        _at("ended_at"),
        sa.Column("claimed_by", sa.Text),
        _at("updated_at", required=True),
        sa.PrimaryKeyConstraint("id", name="run_pkey"),
        sa.ForeignKeyConstraint(
            ["workflow", "revision_id"],
            [f"{SCHEMA}.workflow_revision.workflow", f"{SCHEMA}.workflow_revision.id"],
            name="run_revision_id_fkey",
        ),
        sa.CheckConstraint(f"state IN ({RUN_STATES})", name="run_state_check"),
        sa.CheckConstraint(f"trust IN ({TRUST})", name="run_trust_check"),
        schema=SCHEMA,
    )
    for first in ((), ("workflow",), ("state",)):
        columns = [*first, "created_at", "id"]
        op.create_index(f"run_{'_'.join(columns[:-1])}_idx", "run", columns, schema=SCHEMA)


def _create_nodes_and_events() -> None:
    op.create_table(
        "node",
        sa.Column("run_id", sa.Uuid),
        sa.Column("node_id", sa.Text),
        sa.Column("item", sa.Text, server_default=sa.text("''")),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("output", JSONB),
        sa.Column("output_ref", sa.Text),
        sa.Column("error", JSONB),
        sa.Column("reason", sa.Text),
        sa.Column("task_run_id", sa.Uuid),
        _at("started_at"),
        _at("ended_at"),
        sa.PrimaryKeyConstraint("run_id", "node_id", "item", name="node_pkey"),
        sa.ForeignKeyConstraint(
            ["run_id"], [f"{SCHEMA}.run.id"], name="node_run_id_fkey", ondelete="CASCADE"
        ),
        sa.CheckConstraint(f"state IN ({NODE_STATES})", name="node_state_check"),
        sa.CheckConstraint("attempt >= 0", name="node_attempt_check"),
        schema=SCHEMA,
    )
    op.create_table(
        "run_event",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True)),
        sa.Column("run_id", sa.Uuid, nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
        ),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("node_id", sa.Text),
        _document("data"),
        sa.PrimaryKeyConstraint("id", name="run_event_pkey"),
        sa.ForeignKeyConstraint(
            ["run_id"], [f"{SCHEMA}.run.id"], name="run_event_run_id_fkey", ondelete="CASCADE"
        ),
        schema=SCHEMA,
    )
    op.create_index("run_event_run_id_id_idx", "run_event", ["run_id", "id"], schema=SCHEMA)


ENDED_RUNS = """
    CREATE FUNCTION penstock.run_ended(state text) RETURNS boolean LANGUAGE sql IMMUTABLE
    RETURN state NOT IN ('pending', 'running', 'suspended')
"""

IMMUTABLE_REVISIONS = (
    """
    CREATE FUNCTION penstock.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'rows of % never change', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END
    $$
    """,
    """
    CREATE TRIGGER workflow_revision_is_immutable BEFORE UPDATE OR DELETE
    ON penstock.workflow_revision FOR EACH ROW EXECUTE FUNCTION penstock.refuse_change()
    """,
    """
    CREATE TRIGGER workflow_revision_is_not_truncated BEFORE TRUNCATE
    ON penstock.workflow_revision FOR EACH STATEMENT EXECUTE FUNCTION penstock.refuse_change()
    """,
)

# PostgreSQL sends equal notifications of one transaction once.
ANNOUNCED_EVENTS = (
    """
    CREATE FUNCTION penstock.announce_events() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('penstock_run', run_id::text) FROM (SELECT DISTINCT run_id FROM added) AS runs;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER run_event_is_announced AFTER INSERT ON penstock.run_event
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION penstock.announce_events()
    """,
)
