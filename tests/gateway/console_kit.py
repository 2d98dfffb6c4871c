"""A gateway with its login over a real store, where requests for approval are asked without an engine."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
from fastapi import FastAPI

from penstock.approvals.rules import RuleBook
from penstock.approvals.terms import Clause, Terms, terms_to
from penstock.engine.approving import Approvals
from penstock.engine.judging import RuleJudge
from penstock.engine.links import Links
from penstock.engine.starting import RunStarter
from penstock.gateway.app import create_app
from penstock.settings import Settings
from penstock.store.approvals import ApprovalRequest, Ask, Said, decide, open_request
from penstock.store.database import Database
from penstock.store.runs import Entry
from penstock.store.sessions import open_session
from penstock.store.states import Verdict
from penstock.store.tokens import token_hash
from penstock.store.workflows import Revision, save_revision
from store.entering import enter

RISK = Clause("risk", "patcher changes things and always needs an approval")
DIFF = """\
diff --git a/pay.py b/pay.py
index 1f3c2aa..9bd0c1e 100644
--- a/pay.py
+++ b/pay.py
@@ -1,5 +1,6 @@
-import pickle
+import json
+from typing import Any


-def load(raw):
-    return pickle.loads(raw)
+def load(raw: bytes) -> Any:
+    return json.loads(raw)
diff --git a/tests/test_pay.py b/tests/test_pay.py
new file mode 100644
--- /dev/null
+++ b/tests/test_pay.py
@@ -0,0 +1,3 @@
+from pay import load
+
+assert load(b"[]") == []
"""
EDITABLE: Mapping[str, Mapping[str, Any]] = {
    "branch": {"type": "string", "title": "Branch", "description": "Where the commit goes."},
    "mode": {"enum": ["fast", "careful"], "title": "Mode"},
    "batch": {"type": "integer", "minimum": 1, "maximum": 50},
    "share": {"type": "number", "maximum": 1},
    "notify": {"type": "boolean", "title": "Tell the team"},
    "labels": {"type": "array", "items": {"type": "string"}},
    "message": {"type": "string"},
}
INPUTS: Mapping[str, Any] = {
    "branch": "main",
    "mode": "careful",
    "batch": 5,
    "share": 0.5,
    "notify": True,
    "labels": ["security"],
    "message": "Read payments as JSON\n\nPickle runs what it reads.",
}
PEOPLE = """\
apiVersion: penstock/v1
kind: People
users:
  ada: {name: Ada Adams, groups: [sre], role: approver}
  bob: {groups: [finance], role: approver}
  tess: {role: approver}
  vera: {role: viewer}
groups: {sre: {role: viewer}, finance: {role: viewer}}
"""


class NoEngine:
    """Stands where runs are woken; there is no engine to go on with them."""

    def __init__(self) -> None:
        self.woken: list[UUID] = []

    async def wake_for_news(self, run_id: UUID) -> bool:
        self.woken.append(run_id)
        return True


@dataclass(frozen=True)
class DeskServices:
    """What the gateway asks of the services on these pages."""

    settings: Settings
    database: Database
    rules: RuleBook
    approvals: Approvals
    registry: tuple[Any, ...] = ()


@dataclass
class Desk:
    """The gateway and what stands behind it."""

    app: FastAPI
    database: Database
    services: DeskServices
    engine: NoEngine
    revision: Revision
    runs: dict[UUID, Entry] = field(default_factory=dict[UUID, Entry])

    async def ask(
        self,
        title: str = "Read payments as JSON, not as pickle",
        *,
        clauses: Sequence[Clause] = (RISK,),
        terms: Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
        run_id: UUID | None = None,
        **changes: Any,
    ) -> ApprovalRequest:
        """Ask for an approval in a new run, or in a known one.

        Args:
            terms: Further terms, as keyword arguments of `Terms`.
            card: Parts of the card that are different.
            changes: Further keyword arguments of `Ask`.
        """
        entry = (
            self.runs[run_id] if run_id else await enter(self.database, self.revision, name="crimson-otter")
        )
        self.runs[entry.run.id] = entry
        said = Terms(tuple(clauses), requester="tess", **(terms or {}))
        values: dict[str, Any] = {
            "node_id": "fix",
            "digest": uuid4().hex,
            "title": title,
            "card": {**make_card(title, entry.run.id), **(card or {})},
            "agent": "patcher",
            "terms": terms_to(said),
            "valid_s": said.valid_s,
            **changes,
        }
        judge = self.services.approvals.judge
        run = entry.run
        return await open_request(
            self.database, Ask(**values), run_id=run.id, token=run.token, epoch=run.epoch, judge=judge
        )

    async def say(
        self, request: ApprovalRequest, person: str, decision: str = "approve", **more: Any
    ) -> None:
        """Have somebody else decide."""
        said = Said(person, Verdict(decision), "cli", **more)
        await decide(self.database, request.id, said, judge=self.services.approvals.judge)

    async def session(self, person: str = "ada") -> str:
        """Sign somebody in and give the token."""
        token = secrets.token_urlsafe(32)
        await open_session(self.database, token_hash(token), person=person, via="link", lifetime_s=600)
        return token

    @asynccontextmanager
    async def client(self, person: str | None = "ada") -> AsyncGenerator[httpx.AsyncClient]:
        """Open a browser that has signed in, or None: that has not."""
        cookies = {"penstock_session": await self.session(person)} if person else {}
        transport = httpx.ASGITransport(self.app)
        base = "http://127.0.0.1:8080"
        async with httpx.AsyncClient(transport=transport, base_url=base, cookies=cookies) as client:
            yield client


async def open_desk(database: Database, folder: Path, **settings: Any) -> Desk:
    """Make a gateway whose people are those of `PEOPLE`."""
    people = folder / "people.yaml"
    people.write_text(PEOPLE)
    chosen = Settings.model_validate({"people": people, **settings})
    rules, engine = RuleBook(people, None), NoEngine()
    approvals = Approvals(database, cast("RunStarter", engine), RuleJudge(rules), Links(chosen))
    services = DeskServices(chosen, database, rules, approvals)
    app = create_app(chosen)
    app.state.services = services
    revision = await save_revision(
        database,
        workflow="fix-payments",
        digest="d1",
        source="kind: Workflow",
        spec={"nodes": []},
        agents={"patcher": "1"},
        created_by="ann",
    )
    return Desk(app, database, services, engine, revision)


def make_card(title: str, run_id: UUID) -> dict[str, Any]:
    """Make a card as the engine does."""
    return {
        "title": title,
        "workflow": "fix-payments",
        "revision": 3,
        "run": "crimson-otter",
        "run_id": str(run_id),
        "node": "fix",
        "requester": "tess",
        "why": RISK.why,
        "agent": {"name": "patcher", "version": "1.2.0", "does": "Apply a patch to a repository."},
        "inputs": dict(INPUTS),
        "plan": make_plan(),
        "undo": "Reset branch main to 4be1c2d.",
        "history": [],
        "changed": [],
        "note": None,
        "edited": None,
    }


def make_plan(**changes: Any) -> dict[str, Any]:
    """Make a plan as cards have it."""
    return {
        "summary": "Patch 2 files on branch main",
        "targets": ["/srv/repositories/payments"],
        "changes": [
            {"target": "pay.py", "action": "change", "detail": "4 lines added, 3 removed"},
            {"target": "tests/test_pay.py", "action": "create", "detail": "3 lines"},
        ],
        "diff": DIFF,
        **changes,
    }
