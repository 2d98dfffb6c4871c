"""What tests of the console's pages share: requests in JSON types, and services that only have these."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles

from penstock.approvals.people import Person
from penstock.errors import ApprovalClosed, NotFound, PenstockError
from penstock.gateway import approvals, console
from penstock.gateway.headers import SecurityHeaders
from penstock.gateway.pages import STATIC
from penstock.gateway.problems import install_problem_handlers

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


def ago(**delta: float) -> str:
    return (datetime.now(UTC) - timedelta(**delta)).isoformat()


def clause(**changes: Any) -> dict[str, Any]:
    return {
        "source": "risk",
        "why": "patcher changes things and always needs an approval",
        "count": 1,
        "of": [],
        "distinct_groups": False,
        "forbid": [],
        "break_glass": False,
        "until": None,
        "given": [],
        "missing": 1,
        **changes,
    }


def card(**changes: Any) -> dict[str, Any]:
    return {
        "title": "Read payments as JSON, not as pickle",
        "workflow": "fix-payments",
        "revision": 3,
        "run": "crimson-otter",
        "run_id": str(uuid4()),
        "node": "fix",
        "requester": "tess",
        "why": "patcher changes things and always needs an approval",
        "agent": {"name": "patcher", "version": "1.2.0", "does": "Apply a patch to a repository."},
        "inputs": dict(INPUTS),
        "plan": {
            "summary": "Patch 2 files on branch main",
            "targets": ["/srv/repositories/payments"],
            "changes": [
                {"target": "pay.py", "action": "change", "detail": "4 lines added, 3 removed"},
                {"target": "tests/test_pay.py", "action": "create", "detail": "3 lines"},
            ],
            "diff": DIFF,
        },
        "undo": "Reset branch main to 4be1c2d.",
        "history": [],
        "changed": [],
        "note": None,
        "edited": None,
        **changes,
    }


def request(**changes: Any) -> dict[str, Any]:
    """Give a request for approval as the services do."""
    shown = card(**changes.pop("card", {}))
    made: dict[str, Any] = {
        "id": str(uuid4()),
        "run_id": shown["run_id"],
        "run": shown["run"],
        "workflow": shown["workflow"],
        "revision": shown["revision"],
        "node": shown["node"],
        "agent": "patcher",
        "state": "open",
        "title": shown["title"],
        "digest": uuid4().hex * 2,
        "round": 1,
        "requester": shown["requester"],
        "opened_at": ago(minutes=12),
        "expires_at": None,
        "decided_at": None,
        "used_at": None,
        "usable_until": None,
        "escalated_at": None,
        "reason": None,
        "needs": "1 more approval",
        "alike": 1,
        "clauses": [clause()],
        "editable": {},
        "edits": None,
        "on_timeout": "reject",
        "decisions": [],
        "may_decide": "",
        "card": shown,
        **changes,
    }
    made["url"] = f"http://127.0.0.1/approvals/{made['id']}"
    made["run_url"] = f"http://127.0.0.1:1/runs/flow-run/{made['run_id']}"
    return made


def decision(person: str = "ada", **changes: Any) -> dict[str, Any]:
    return {
        "person": person,
        "decision": "approve",
        "comment": "",
        "via": "console",
        "at": ago(minutes=1),
        "groups": [],
        "edits": None,
        "break_glass": False,
        **changes,
    }


@dataclass
class SomeApprovals:
    """The approvals of the services, kept in a list."""

    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The decisions that came, as keyword arguments."""
    refuses: PenstockError | None = None

    async def list(
        self, *, states: tuple[str, ...], limit: int, cursor: str | None = None, person: Person | None = None
    ) -> dict[str, Any]:
        del person
        found = [one for one in self.requests if one["state"] in states]
        start = int(cursor or 0)
        more = str(start + limit) if len(found) > start + limit else None
        return {"approvals": copy.deepcopy(found[start : start + limit]), "cursor": more}

    async def show(self, request_id: UUID, *, person: Person | None = None) -> dict[str, Any]:
        del person
        return copy.deepcopy(self.one(request_id))

    async def decide(
        self, request_id: UUID, decision: str, *, person: Person, **more: Any
    ) -> dict[str, Any]:
        found = self.one(request_id)
        self.calls.append({"decision": decision, "person": person.name, **more})
        if self.refuses is not None:
            raise self.refuses
        if found["state"] != "open":
            raise ApprovalClosed(f"{found['title']!r} is {found['state']}")
        states = {"approve": "edited" if more["edits"] else "approved", "reject": "rejected"}
        found |= {"state": states.get(decision, "sent_back"), "decided_at": ago(), "may_decide": "it is closed"}
        found["decisions"].append(
            _said(person.name, decision=decision, at=ago(), comment=more["comment"], edits=more["edits"])
        )
        return copy.deepcopy(found)

    async def code(self, request_id: UUID, *, person: Person) -> str:
        del person
        self.one(request_id)
        return "1234-5678-9abc-def0"

    def one(self, request_id: UUID) -> dict[str, Any]:
        found = next((one for one in self.requests if one["id"] == str(request_id)), None)
        if found is None:
            raise NotFound(f"there is no request for approval {str(request_id)!r}")
        return found


_said = decision


@dataclass
class SomeServices:
    """Services that have approvals and nothing else."""

    approvals: SomeApprovals
    database: Any = None


def app_with(*requests: dict[str, Any], person: Person | None = None) -> tuple[FastAPI, SomeApprovals]:
    """Make the pages and routes of approvals over some requests, for one who has signed in."""
    app, kept = FastAPI(), SomeApprovals(list(requests))
    app.state.services = SomeServices(kept, _NoRows())

    @app.middleware("http")
    async def sign_in(request: Request, answer: Any) -> Any:
        request.state.signed = _Signed(person or Person("ada", full_name="Ada Adams"))
        return await answer(request)

    install_problem_handlers(app)
    app.add_middleware(SecurityHeaders)
    app.include_router(console.router)
    app.include_router(approvals.router)
    app.mount("/static", StaticFiles(directory=STATIC))
    return app, kept


@dataclass(frozen=True)
class _Signed:
    person: Person
    via: str = "console"

    @property
    def name(self) -> str:
        return self.person.name


class _NoRows:
    async def fetch(self, *_: Any) -> list[Any]:
        return []
