"""The tables of approvals, sessions and the audit chain, as the newest migration leaves them."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from penstock.store.states import ApprovalState, Verdict
from penstock.store.tables import EMPTY, NOW, metadata, one_of, run

_NO_TEXTS = text("'{}'")


def _at(name: str, *, default: bool = False, required: bool = False) -> Column[object]:
    fallback = NOW if default else None
    return Column(name, DateTime(timezone=True), nullable=not (default or required), server_default=fallback)


def _texts(name: str, *, default: bool = True) -> Column[object]:
    return Column(name, ARRAY(Text), nullable=False, server_default=_NO_TEXTS if default else None)


approval_request = Table(
    "approval_request",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("run_id", Uuid, ForeignKey(run.c.id, ondelete="CASCADE"), nullable=False),
    Column("node_id", Text, nullable=False),
    Column("item", Text, nullable=False, server_default=text("''")),
    Column("epoch", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("card", JSONB, nullable=False, server_default=EMPTY),
    _at("opened_at", default=True),
    _at("expires_at"),
    _at("decided_at"),
    _at("used_at"),
    Column("reason", Text),
    Column("agent", Text, nullable=False, server_default=text("''")),
    _texts("targets"),
    Column("terms", JSONB, nullable=False, server_default=EMPTY),
    Column("edits", JSONB),
    _at("usable_until"),
    _at("escalated_at"),
    _at("timed_until", default=True),
    _at("next_at"),
    UniqueConstraint("run_id", "node_id", "item", "round"),
    one_of("approval_request", "state", ApprovalState),
    Index(
        "approval_request_open_key",
        "run_id",
        "node_id",
        "item",
        unique=True,
        postgresql_where=text("state = 'open'"),
    ),
    Index("approval_request_state_opened_at_idx", "state", "opened_at", "id"),
    Index("approval_request_next_at_idx", "next_at", postgresql_where=text("state = 'open'")),
    Index("approval_request_digest_idx", "digest", postgresql_where=text("state = 'open'")),
    Index("approval_request_targets_idx", "targets", postgresql_using="gin"),
)

approval_decision = Table(
    "approval_decision",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("request_id", Uuid, ForeignKey(approval_request.c.id, ondelete="CASCADE"), nullable=False),
    Column("person", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("comment", Text, nullable=False, server_default=text("''")),
    Column("via", Text, nullable=False),
    _at("at", default=True),
    _texts("groups"),
    _texts("claims"),
    Column("edits", JSONB),
    Column("break_glass", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("request_id", "person"),
    one_of("approval_decision", "decision", Verdict),
)

approval_pass = Table(
    "approval_pass",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("request_id", Uuid, ForeignKey(approval_request.c.id, ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("person", Text),
    _texts("claims"),
    _at("created_at", default=True),
    _at("used_at"),
    CheckConstraint("kind IN ('code', 'link')", name="approval_pass_kind_check"),
    CheckConstraint("kind <> 'code' OR person IS NOT NULL", name="approval_pass_person_check"),
    Index("approval_pass_request_id_idx", "request_id"),
)

standing_grant = Table(
    "standing_grant",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("agent", Text, nullable=False),
    _texts("targets", default=False),
    Column("workflow", Text),
    Column("person", Text, nullable=False),
    _texts("claims"),
    Column("comment", Text, nullable=False, server_default=text("''")),
    _at("created_at", default=True),
    _at("expires_at", required=True),
    Column("max_uses", Integer, nullable=False),
    Column("uses", Integer, nullable=False, server_default=text("0")),
    _at("revoked_at"),
    Column("revoked_by", Text),
    CheckConstraint("uses BETWEEN 0 AND max_uses", name="standing_grant_uses_check"),
    CheckConstraint("cardinality(targets) > 0", name="standing_grant_targets_check"),
    Index("standing_grant_agent_expires_at_idx", "agent", "expires_at"),
)

approval_notice = Table(
    "approval_notice",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("request_id", Uuid, ForeignKey(approval_request.c.id, ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),
    _at("created_at", default=True),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    _at("next_try_at", default=True),
    _at("done_at"),
    Column("error", Text),
    CheckConstraint("kind IN ('asked', 'reminder', 'escalated')", name="approval_notice_kind_check"),
    Index("approval_notice_next_try_at_idx", "next_try_at", postgresql_where=text("done_at IS NULL")),
    Index("approval_notice_request_id_idx", "request_id"),
)

web_session = Table(
    "web_session",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("person", Text, nullable=False),
    _texts("groups"),
    Column("via", Text, nullable=False),
    _at("created_at", default=True),
    _at("expires_at", required=True),
    CheckConstraint("via IN ('link', 'password', 'oidc')", name="web_session_via_check"),
    Index("web_session_expires_at_idx", "expires_at"),
)

login_link = Table(
    "login_link",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("person", Text, nullable=False),
    _at("created_at", default=True),
    _at("expires_at", required=True),
)

audit_entry = Table(
    "audit_entry",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("entry", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    _at("at", required=True),
    Column("kind", Text, nullable=False),
    Column("run_id", Uuid),
    Column("request_id", Uuid),
    Column("person", Text),
    Index("audit_entry_request_id_idx", "request_id"),
    Index("audit_entry_run_id_idx", "run_id"),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("single", Boolean, primary_key=True, server_default=text("true")),
    Column("seq", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
    CheckConstraint("single", name="audit_head_single_check"),
)
