"""A stack with people and policies whose files a test rewrites, and looks behind its scenes."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
from sqlalchemy import text

from engine.test_gates import eventually, requests
from penstock.approvals.people import Person
from penstock.engine.approving import Approvals
from penstock.engine.auditing import history
from penstock.engine.closing import Closing
from penstock.engine.judging import RuleJudge
from penstock.engine.links import Links
from penstock.engine.notices import Notifier
from penstock.engine.noting import RulesNoter
from penstock.engine.starting import RunStarter
from penstock.engine.upkeep import Upkeep
from penstock.store.database import Database
from support.stack import StackUnderTest

USERS: Mapping[str, Mapping[str, Any]] = {
    "ada": {"groups": ["sre"], "role": "approver"},
    "bob": {"groups": ["sre"], "role": "approver"},
    "cy": {"groups": ["security"], "role": "approver"},
    "dan": {"groups": ["sre", "security"], "role": "approver"},
    "tess": {"groups": ["sre", "security"], "role": "approver"},
    "edna": {"groups": ["sre", "security"], "role": "approver"},
    "vic": {"groups": ["sre"]},
}
"""Approvers, of whom tess asks and edna applies workflows, and one who may only look."""


def person_of(services: Any, name: str) -> Person:
    """Give a person as the gateway does; one whom nobody knows has no rights of his own."""
    return services.rules.current().people.find(name) or Person(name)


@dataclass
class Ruled:
    """The services of a stack, and the files of its people and policies."""

    services: Any
    stack: StackUnderTest
    folder: Path
    _written: set[Path] = field(default_factory=set[Path])

    def people(self, **changes: Mapping[str, Any] | None) -> None:
        """Write the people file; None leaves somebody out."""
        write_people(self.folder, **changes)

    def policy(self, name: str = "test", **spec: Any) -> None:
        """Write a policy."""
        path = self.folder / "policies" / f"{name}.yaml"
        _write(path, {**_HEAD, "kind": "Policy", "metadata": {"name": name}, **spec})
        self._written.add(path)

    def rule(self, match: Mapping[str, Any], require: Mapping[str, Any] | None = None, **rest: Any) -> None:
        """Write a policy of one rule."""
        given = {} if require is None else {"require": require}
        self.policy(rules=[{"name": "more", "match": match, **given, **rest}])

    def frozen(self, match: Mapping[str, Any], *, end: str = "2126-01-01T00:00:00Z", **rest: Any) -> None:
        """Write a policy with a freeze that is on."""
        freeze = {"name": "holidays", "match": match, "from": "2026-01-01T00:00:00Z", "to": end, **rest}
        self.policy("calm", freezes=[freeze])

    def clear(self) -> None:
        """Take every policy away and have all people back."""
        for path in self._written:
            path.unlink(missing_ok=True)
        self.people()

    async def approve(self, request: Mapping[str, Any], *names: str, **more: Any) -> Any:
        """Approve for several people, one after the other; gives what the last one got."""
        return [await say(self.services, request, name, **more) for name in names][-1]

    @contextmanager
    def worker_held(self) -> Generator[None]:
        """Hold the worker still, for less than its lease takes."""
        with held(self.stack):
            yield


_HEAD = {"apiVersion": "penstock/v1"}


def write_people(folder: Path, **changes: Mapping[str, Any] | None) -> None:
    """Write a people file; None leaves somebody out."""
    users = {name: spec for name, spec in {**USERS, **changes}.items() if spec is not None}
    groups: Mapping[str, Any] = {"sre": {}, "security": {}}
    _write(folder / "people.yaml", {**_HEAD, "kind": "People", "users": users, "groups": groups})


def _write(path: Path, content: Any) -> None:
    """Write JSON, which is YAML, so that nobody ever reads half of it."""
    path.parent.mkdir(exist_ok=True)
    made = path.with_name(f".{path.name}.{uuid4().hex}")
    made.write_text(json.dumps(content))
    made.replace(path)


@contextmanager
def held(stack: StackUnderTest) -> Generator[None]:
    """Hold a stack's worker still, for less than its lease takes."""
    children = psutil.Process(stack.pid).children(recursive=True)
    worker = next(process for process in children if process.cmdline()[-1:] == ["worker"])
    worker.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.send_signal(signal.SIGCONT)


async def say(
    services: Any, request: Mapping[str, Any], name: str, decision: str = "approve", **more: Any
) -> Any:
    """Decide as anybody, known or not."""
    approvals: Approvals = services.approvals
    person = person_of(services, name)
    return await approvals.decide(UUID(request["id"]), decision, person=person, via="api", **more)


async def shown(services: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Look at a request again."""
    return await services.approvals.show(UUID(request["id"]))


async def next_request(services: Any, run_id: UUID, *earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Wait for an open request that follows earlier ones."""
    known = {one["id"] for one in earlier}

    async def found() -> dict[str, Any] | None:
        asked = await requests(services, run_id)
        return next((one for one in asked if one["id"] not in known), None)

    return await eventually(found)


async def all_of(services: Any, run_id: UUID) -> list[dict[str, Any]]:
    """List all requests of a run, oldest first."""
    states = ("open", "approved", "rejected", "sent_back", "edited", "withdrawn", "expired", "void")
    listed = (await services.approvals.list(states=states, limit=200))["approvals"]
    return [one for one in reversed(listed) if one["run_id"] == str(run_id)]


async def audit(
    services: Any, kind: str, request: Mapping[str, Any] | None = None, run_id: UUID | None = None
) -> list[dict[str, Any]]:
    """List the entries of a kind in the audit chain, each its facts with the `person`, oldest first."""
    about = None if request is None else UUID(request["id"])
    found = await history(services.database, request_id=about, run_id=run_id, kind=kind)
    return [{**entry["facts"], "person": entry["person"]} for entry in found]


async def change(services: Any, request: Mapping[str, Any], columns: str, **values: Any) -> None:
    """Write into the row of a request, past all that guards it."""
    statement = text(f"UPDATE penstock.approval_request SET {columns} WHERE id = :id")  # noqa: S608
    await services.database.fetch(statement, {"id": UUID(request["id"]), **values})


async def age(services: Any, request: Mapping[str, Any], seconds: float) -> None:
    """Let time go by for a request."""
    times = ("opened_at", "timed_until", "expires_at", "next_at", "usable_until")
    moved = ", ".join(f"{name} = {name} - make_interval(secs => :seconds)" for name in times)
    await change(services, request, moved, seconds=seconds)


def upkeep_of(services: Any) -> Upkeep:
    """Give the upkeep of a worker that has no runs and tells nobody."""
    database: Database = services.database
    starter = RunStarter(database, services.client, services.settings.prefect.pool)
    judge = RuleJudge(services.rules)
    return Upkeep(
        database,
        services.client,
        starter,
        Closing(database, services.client, starter),
        judge,
        Notifier(database, judge, Links(services.settings), ()),
        RulesNoter(database, services.rules, "test"),
        uuid4(),
        tuple,
    )


async def sweep(services: Any) -> None:
    """Do what every worker does now and then."""
    await upkeep_of(services).sweep()


async def notices(services: Any, request: Mapping[str, Any]) -> list[str]:
    """List what people were to be told of a request, oldest first."""
    statement = text("SELECT kind FROM penstock.approval_notice WHERE request_id = :id ORDER BY id")
    return [row["kind"] for row in await services.database.fetch(statement, {"id": UUID(request["id"])})]


def names(people: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give the people of decisions."""
    return [one["person"] for one in people]
