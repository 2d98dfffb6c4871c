"""Requests for approval, the people who decide and the judge, for tests of the store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from penstock.errors import ApprovalDenied, PenstockError
from penstock.store import audit
from penstock.store.approvals import ApprovalRequest, Ask, Said, decide, open_request, use_grant
from penstock.store.database import Database
from penstock.store.documents import decode
from penstock.store.runs import Entry
from penstock.store.states import Verdict

WAITERS = text("""
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
""")
DEADLOCKS = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


@dataclass(frozen=True)
class Judge:
    """Wants so many approvals and hears everybody but a few."""

    enough: int = 1
    refuses: frozenset[str] = field(default_factory=frozenset[str])
    frozen: bool = False
    """Only approvals that break the glass count."""

    def refusal(self, request: ApprovalRequest, said: Said) -> PenstockError | None:
        del request
        return ApprovalDenied(f"{said.person} may not") if said.person in self.refuses else None

    def met(self, request: ApprovalRequest) -> bool:
        counting = [
            said
            for said in request.decisions
            if said.decision is Verdict.APPROVE and (said.break_glass or not self.frozen)
        ]
        return len(counting) >= self.enough


ONE, TWO = Judge(), Judge(2)


def asked_for(**changes: Any) -> Ask:
    """Say what is asked for."""
    values: dict[str, Any] = {
        "node_id": "apply",
        "digest": "d1",
        "title": "Patch the host",
        "card": {"plan": {"summary": "a\x00b", "diff": "+x"}},
        "agent": "patcher",
        "targets": ["host-a"],
        "terms": {"policy": "p1"},
        **changes,
    }
    return Ask(**values)


async def ask(
    database: Database,
    entry: Entry,
    *,
    judge: Judge = ONE,
    given: tuple[Said, ...] = (),
    standing: tuple[UUID, ...] = (),
    **changes: Any,
) -> ApprovalRequest:
    """Ask for approval of the node `apply` of a run."""
    run = entry.run
    return await open_request(
        database,
        asked_for(**changes),
        run_id=run.id,
        token=run.token,
        epoch=run.epoch,
        judge=judge,
        given=given,
        standing=standing,
    )


def words(person: str = "ann", decision: str = "approve", **more: Any) -> Said:
    """Say something."""
    values: dict[str, Any] = {"via": "cli", "comment": "ok", **more}
    return Said(person, Verdict(decision), **values)


async def say(
    database: Database,
    request: ApprovalRequest,
    person: str = "ann",
    decision: str = "approve",
    *,
    judge: Judge = ONE,
    digest: str | None = None,
    valid_s: float = 3600.0,
    **more: Any,
) -> ApprovalRequest:
    """Decide a request."""
    said = words(person, decision, **more)
    return await decide(database, request.id, said, judge=judge, digest=digest, valid_s=valid_s)


async def use(database: Database, entry: Entry, request: ApprovalRequest, **changes: Any) -> bool:
    """Use a grant."""
    values: dict[str, Any] = {
        "digest": "d1",
        "epoch": entry.run.epoch,
        "token": entry.run.token,
        **changes,
    }
    return await use_grant(database, request.id, **values)


async def noted(database: Database, request: ApprovalRequest | None = None) -> list[str]:
    """List what the audit chain holds, of one request or of all, oldest first: kinds."""
    rows = await audit.entries(database, request_id=request.id if request else None)
    return [row.kind for row in rows]


async def facts_of(database: Database, kind: str) -> list[dict[str, Any]]:
    """List the facts of a kind in the audit chain, oldest first, each with the `person`."""
    entries = [decode(row.entry) for row in await audit.entries(database) if row.kind == kind]
    return [{**entry["facts"], "person": entry["person"]} for entry in entries]


async def notices_of(database: Database, request: ApprovalRequest) -> list[str]:
    """List the notices of a request, oldest first: kinds."""
    statement = text("SELECT kind FROM penstock.approval_notice WHERE request_id = :id ORDER BY id")
    return [row["kind"] for row in await database.fetch(statement, {"id": request.id})]


async def all_wait(database: Database, number: int) -> None:
    """Wait until so many statements wait for a lock; they may hold every connection but one."""
    async with Database(database.url) as other:
        for _ in range(1000):
            if (await other.fetch(WAITERS))[0]["count"] >= number:
                return
            await asyncio.sleep(0.01)
    pytest.fail(f"{number} statements should wait for a lock")
