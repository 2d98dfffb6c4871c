"""Approvals with terms, timers and notices; passes, standing grants, sessions and the audit chain."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in (*EXTEND, *PASSES, *STANDING, *NOTICES, *SESSIONS, *AUDIT):
        op.execute(statement)


# A request from before knows no terms, so nobody could say who may decide it: it is asked again.
EXTEND = (
    """
    ALTER TABLE penstock.approval_request
        DROP CONSTRAINT approval_request_required_check,
        DROP CONSTRAINT approval_request_state_check,
        DROP COLUMN required,
        DROP COLUMN code_hash,
        DROP COLUMN code_person,
        ADD COLUMN agent text NOT NULL DEFAULT '',
        ADD COLUMN targets text[] NOT NULL DEFAULT '{}',
        ADD COLUMN terms jsonb NOT NULL DEFAULT '{}'::jsonb,
        ADD COLUMN edits jsonb,
        ADD COLUMN usable_until timestamptz,
        ADD COLUMN escalated_at timestamptz,
        ADD COLUMN timed_until timestamptz NOT NULL DEFAULT now(),
        ADD COLUMN next_at timestamptz,
        ADD CONSTRAINT approval_request_state_check CHECK (state IN ('open', 'approved', 'rejected',
            'sent_back', 'edited', 'withdrawn', 'expired', 'void'))
    """,
    """
    UPDATE penstock.approval_request SET
        state = 'void', decided_at = coalesce(decided_at, now()), reason = 'Penstock was upgraded'
    WHERE state IN ('open', 'approved') AND used_at IS NULL
    """,
    """
    CREATE INDEX approval_request_next_at_idx ON penstock.approval_request (next_at) WHERE state = 'open'
    """,
    "CREATE INDEX approval_request_digest_idx ON penstock.approval_request (digest) WHERE state = 'open'",
    "CREATE INDEX approval_request_targets_idx ON penstock.approval_request USING gin (targets)",
    """
    ALTER TABLE penstock.approval_decision
        DROP CONSTRAINT approval_decision_decision_check,
        ADD COLUMN groups text[] NOT NULL DEFAULT '{}',
        ADD COLUMN claims text[] NOT NULL DEFAULT '{}',
        ADD COLUMN edits jsonb,
        ADD COLUMN break_glass boolean NOT NULL DEFAULT false,
        ADD CONSTRAINT approval_decision_decision_check
            CHECK (decision IN ('approve', 'reject', 'send_back'))
    """,
)

PASSES = (
    """
    CREATE TABLE penstock.approval_pass (
        hash text CONSTRAINT approval_pass_pkey PRIMARY KEY,
        request_id uuid NOT NULL,
        kind text NOT NULL,
        person text,
        claims text[] NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        used_at timestamptz,
        CONSTRAINT approval_pass_request_id_fkey FOREIGN KEY (request_id)
            REFERENCES penstock.approval_request (id) ON DELETE CASCADE,
        CONSTRAINT approval_pass_kind_check CHECK (kind IN ('code', 'link')),
        CONSTRAINT approval_pass_person_check CHECK (kind <> 'code' OR person IS NOT NULL)
    )
    """,
    "CREATE INDEX approval_pass_request_id_idx ON penstock.approval_pass (request_id)",
)

STANDING = (
    """
    CREATE TABLE penstock.standing_grant (
        id uuid CONSTRAINT standing_grant_pkey PRIMARY KEY,
        agent text NOT NULL,
        targets text[] NOT NULL,
        workflow text,
        person text NOT NULL,
        claims text[] NOT NULL DEFAULT '{}',
        comment text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        max_uses integer NOT NULL,
        uses integer NOT NULL DEFAULT 0,
        revoked_at timestamptz,
        revoked_by text,
        CONSTRAINT standing_grant_uses_check CHECK (uses BETWEEN 0 AND max_uses),
        CONSTRAINT standing_grant_targets_check CHECK (cardinality(targets) > 0)
    )
    """,
    "CREATE INDEX standing_grant_agent_expires_at_idx ON penstock.standing_grant (agent, expires_at)",
)

NOTICES = (
    """
    CREATE TABLE penstock.approval_notice (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT approval_notice_pkey PRIMARY KEY,
        request_id uuid NOT NULL,
        kind text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        tries integer NOT NULL DEFAULT 0,
        next_try_at timestamptz NOT NULL DEFAULT now(),
        done_at timestamptz,
        error text,
        CONSTRAINT approval_notice_request_id_fkey FOREIGN KEY (request_id)
            REFERENCES penstock.approval_request (id) ON DELETE CASCADE,
        CONSTRAINT approval_notice_kind_check CHECK (kind IN ('asked', 'reminder', 'escalated'))
    )
    """,
    """
    CREATE INDEX approval_notice_next_try_at_idx ON penstock.approval_notice (next_try_at)
        WHERE done_at IS NULL
    """,
    "CREATE INDEX approval_notice_request_id_idx ON penstock.approval_notice (request_id)",
)

# Both tables hold only hashes of what a person carries.
SESSIONS = (
    """
    CREATE TABLE penstock.web_session (
        hash text CONSTRAINT web_session_pkey PRIMARY KEY,
        person text NOT NULL,
        groups text[] NOT NULL DEFAULT '{}',
        via text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        CONSTRAINT web_session_via_check CHECK (via IN ('link', 'password', 'oidc'))
    )
    """,
    "CREATE INDEX web_session_expires_at_idx ON penstock.web_session (expires_at)",
    """
    CREATE TABLE penstock.login_link (
        hash text CONSTRAINT login_link_pkey PRIMARY KEY,
        person text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL
    )
    """,
)

# The hash covers the text of the entry as it stands here, so that a copy can be checked anywhere.
# Whoever writes an entry holds the head until the end of its transaction: call it last.
AUDIT = (
    """
    CREATE TABLE penstock.audit_entry (
        seq bigint CONSTRAINT audit_entry_pkey PRIMARY KEY,
        entry text NOT NULL,
        previous text NOT NULL,
        hash text NOT NULL,
        at timestamptz NOT NULL,
        kind text NOT NULL,
        run_id uuid,
        request_id uuid,
        person text,
        CONSTRAINT audit_entry_hash_key UNIQUE (hash)
    )
    """,
    "CREATE INDEX audit_entry_request_id_idx ON penstock.audit_entry (request_id)",
    "CREATE INDEX audit_entry_run_id_idx ON penstock.audit_entry (run_id)",
    """
    CREATE TABLE penstock.audit_head (
        single boolean DEFAULT true CONSTRAINT audit_head_pkey PRIMARY KEY,
        seq bigint NOT NULL,
        hash text NOT NULL,
        CONSTRAINT audit_head_single_check CHECK (single)
    )
    """,
    "INSERT INTO penstock.audit_head (seq, hash) VALUES (0, repeat('0', 64))",
    """
    CREATE FUNCTION penstock.audit(kind text, run_id uuid, request_id uuid, person text, facts jsonb)
    RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE
        head penstock.audit_head;
        written timestamptz;
        line text;
        digest text;
    BEGIN
        SELECT * INTO head FROM penstock.audit_head FOR UPDATE;
        written := clock_timestamp();
        line := jsonb_build_object(
            'seq', head.seq + 1,
            'at', to_char(written AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'kind', kind, 'run_id', run_id, 'request_id', request_id, 'person', person,
            'facts', coalesce(facts, '{}'::jsonb))::text;
        digest := encode(sha256(convert_to(head.hash || E'\\n' || line, 'UTF8')), 'hex');
        INSERT INTO penstock.audit_entry (seq, entry, previous, hash, at, kind, run_id, request_id, person)
        VALUES (head.seq + 1, line, head.hash, digest, written, kind, run_id, request_id, person);
        UPDATE penstock.audit_head SET seq = head.seq + 1, hash = digest;
        RETURN head.seq + 1;
    END
    $$
    """,
    """
    CREATE FUNCTION penstock.refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the audit table is append-only' USING ERRCODE = 'restrict_violation';
    END
    $$
    """,
    """
    CREATE TRIGGER audit_entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON penstock.audit_entry
        FOR EACH STATEMENT EXECUTE FUNCTION penstock.refuse_audit_change()
    """,
)
