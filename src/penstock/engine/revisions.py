"""Frozen revisions, parsed and checked once per process."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from penstock.engine.support import refuse_unsupported
from penstock.errors import NotFound, RunError
from penstock.registry import Registry
from penstock.store.database import Database
from penstock.store.workflows import Revision, current_revision_for_deployment, get_revision
from penstock.workflow import AgentInfo, Catalog, CheckedWorkflow, digest, load_workflow

__all__ = ["Pinned", "Revisions", "agent_versions", "catalog_of", "check_text", "revision_digest"]

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


def agent_versions(checked: CheckedWorkflow) -> dict[str, str]:
    """Give the versions of the agents that a workflow uses."""
    return {node.agent.name: node.agent.version for node in checked.nodes.values() if node.agent}


def revision_digest(checked: CheckedWorkflow) -> str:
    """Digest all that makes a revision what it is: the file's meaning and the agents' versions."""
    versions = sorted(agent_versions(checked).items())
    return hashlib.sha256(f"{digest(checked.workflow)} {versions}".encode()).hexdigest()


@dataclass(frozen=True)
class Pinned:
    """A revision, ready to run."""

    number: int
    workflow: CheckedWorkflow


class Revisions:
    """The revisions that a worker has met, the latest used kept."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database = database
        self._registry = registry
        self._catalog = catalog_of(registry)
        self._checked: OrderedDict[UUID, Pinned] = OrderedDict()

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
        if revision_id not in self._checked:
            revision = await get_revision(self._database, revision_id)
            checked = check_text(
                revision.source, file=f"{revision.workflow}@{revision.number}", catalog=self._catalog
            )
            self._checked[revision_id] = Pinned(revision.number, checked)
        self._checked.move_to_end(revision_id)
        while len(self._checked) > _KEPT:
            self._checked.popitem(last=False)
        return self._checked[revision_id]

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
