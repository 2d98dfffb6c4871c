"""Frozen revisions, parsed and checked once per process."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from penstock.engine.support import refuse_unsupported
from penstock.errors import NotFound, RunError
from penstock.registry import Registry
from penstock.store.database import Database
from penstock.store.workflows import (
    Revision,
    current_revision,
    current_revision_for_deployment,
    get_revision,
)
from penstock.workflow import (
    AgentInfo,
    Catalog,
    CheckedWorkflow,
    Workflow,
    digest,
    load_workflow,
    parse_workflow,
    sub_workflows,
)

__all__ = [
    "Pinned",
    "Revisions",
    "agent_versions",
    "catalog_for",
    "catalog_of",
    "check_text",
    "revision_digest",
]

_KEPT = 256


def catalog_of(registry: Registry) -> Catalog:
    """Describe the registered agents to the checks."""
    return Catalog(agents={agent.name: AgentInfo.of(agent) for agent in registry})


def check_text(text: str | bytes, *, file: str, catalog: Catalog) -> CheckedWorkflow:
    """Parse and check a workflow file, and refuse what the engine does not run yet.

    Raises:
        SpecError: With every mistake and its place.
    """
    checked = load_workflow(text, file=file, catalog=catalog)
    refuse_unsupported(checked.workflow)
    return checked


def agent_versions(checked: CheckedWorkflow, agents: Catalog) -> dict[str, str]:
    """Give the versions of the agents that a workflow uses, those that only verify included."""
    specs = [node.spec for node in checked.nodes.values()]
    names = [spec.agent for spec in specs] + [spec.verify.agent for spec in specs if spec.verify]
    return {name: agents.agents[name].version for name in names if name is not None}


def revision_digest(checked: CheckedWorkflow, agents: Catalog) -> str:
    """Digest all that makes a revision what it is: the file's meaning and the agents' versions."""
    versions = sorted(agent_versions(checked, agents).items())
    return hashlib.sha256(f"{digest(checked.workflow)} {versions}".encode()).hexdigest()


async def catalog_for(database: Database, agents: Catalog, names: Iterable[str]) -> Catalog:
    """Add the current form of other workflows to a catalog, and of those that they run in turn."""
    found: dict[str, Workflow] = {}
    wanted = list(names)
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        try:
            revision = await current_revision(database, name)
        except NotFound:  # the check says so, with its place
            continue
        found[name] = parse_workflow(revision.source, file=f"{name}@{revision.number}")
        wanted += sub_workflows(found[name])
    return replace(agents, workflows=found)


@dataclass(frozen=True)
class Pinned:
    """A revision, ready to run."""

    number: int
    workflow: CheckedWorkflow
    editor: str = ""
    """Who applied it."""


class Revisions:
    """The revisions that a worker has met, the latest used kept.

    Args:
        allow: The operator's allow-lists.
    """

    def __init__(self, database: Database, registry: Registry, allow: Mapping[str, Sequence[str]]) -> None:
        self.allow = allow
        self._database = database
        self._registry = registry
        self._catalog = catalog_of(registry)
        self._checked: OrderedDict[tuple[UUID, ...], Pinned] = OrderedDict()

    async def of_deployment(self, deployment_id: UUID | None) -> Revision:
        """Give the current revision of the workflow that a deployment stands for.

        Raises:
            NotFound: The deployment is none of ours.
        """
        if deployment_id is None:
            raise NotFound("the flow run belongs to no deployment, so there is no workflow to run")
        return await current_revision_for_deployment(self._database, deployment_id)

    async def get(self, revision_id: UUID) -> Pinned:
        """Give a revision, ready to run.

        Raises:
            SpecError: It does not fit the agents of this worker.
        """
        if (revision_id,) not in self._checked:
            await self._check((revision_id,))
        return self._kept((revision_id,))

    async def child(self, revision_id: UUID, name: str) -> Pinned:
        """Give the current revision of a workflow that another one runs.

        Raises:
            SpecError: The other one does not fit it, as it is now.
        """
        current = await current_revision(self._database, name)
        pair = (revision_id, current.id)
        if pair not in self._checked:
            await self._check(pair)
        return await self.get(current.id)

    async def _check(self, key: tuple[UUID, ...]) -> None:
        revision = await get_revision(self._database, key[0])
        file = f"{revision.workflow}@{revision.number}"
        others = sub_workflows(parse_workflow(revision.source, file=file))
        catalog = await catalog_for(self._database, self._catalog, others) if others else self._catalog
        checked = check_text(revision.source, file=file, catalog=catalog)
        self._checked[key] = Pinned(revision.number, checked, revision.created_by)

    def _kept(self, key: tuple[UUID, ...]) -> Pinned:
        self._checked.move_to_end(key)
        while len(self._checked) > _KEPT:
            self._checked.popitem(last=False)
        return self._checked[key]

    def check_agents(self, pinned: Mapping[str, str]) -> None:
        """Check that this worker has the agents in the versions that a run is pinned to.

        Raises:
            RunError: It has others.
        """
        for name, version in pinned.items():
            found = self._registry.get(name).version
            if found != version:
                raise RunError(
                    f"the run is pinned to agent {name!r} version {version}, this worker has {found};"
                    " apply the workflow again to run it with the new one"
                )
