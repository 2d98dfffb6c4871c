"""Runs as they come out of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping

from penstock.store.states import RunState, Trust

DOCUMENTS = frozenset({"inputs", "trigger", "agents", "outputs", "error"})
"""The columns that a summary leaves out."""


@dataclass(frozen=True)
class Parent:
    """The node of another run that waits for a run."""

    run_id: UUID
    node_id: str
    item: str = ""
    """Key of the item; empty for a node without `foreach`."""


@dataclass(frozen=True)
class RunSummary:
    """A run without its documents, as listings show it."""

    id: UUID
    """Prefect's flow run id."""
    workflow: str
    revision_id: UUID
    name: str
    trust: Trust
    state: RunState
    message: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    claimed_by: str | None
    """The worker that entered it last, by its name."""
    updated_at: datetime
    worker_id: UUID | None
    """The worker that holds it; None while nobody does."""
    token: int
    """Grows whenever the run changes hands; writes with an older one are refused."""
    epoch: int
    """Counts from 1; one more each time the run was reopened."""
    round: int
    """How often it was suspended."""
    entered_at: datetime | None
    """When the worker that holds it began."""
    active_s: float
    """Seconds that workers held it in this epoch, up to `entered_at`."""
    crashes: int
    """Workers lost in a row, without a node ending in between."""
    reaped_at: datetime | None
    request_id: UUID | None
    requester: str
    trigger_type: str
    parent: Parent | None
    concurrency_key: str | None
    slot_round: int | None
    """The round in which it took its concurrency slot; None without one."""
    cancel_requested_at: datetime | None
    cancelled_by: str | None

    @property
    def holds_slot(self) -> bool:
        """Whether it holds a concurrency slot."""
        return self.slot_round is not None


@dataclass(frozen=True)
class Run(RunSummary):
    """A run with its documents."""

    inputs: Mapping[str, Any]
    trigger: Mapping[str, Any]
    agents: Mapping[str, str]
    """Versions of the agents, pinned at the first entry, {name: version}."""
    outputs: Mapping[str, Any] | None
    error: Mapping[str, Any] | None


def summary_of(row: RowMapping) -> RunSummary:
    """Make a summary of a row; columns that it does not know are left out."""
    return RunSummary(**_values(row, RunSummary))


def run_of(row: RowMapping) -> Run:
    """Make a run of a row; columns that it does not know are left out."""
    return Run(**_values(row, Run))


def parent_of(row: RowMapping) -> Parent | None:
    """Make the parent that a row of a run, or of a request for one, names."""
    if row["parent_run_id"] is None:
        return None
    return Parent(row["parent_run_id"], row["parent_node_id"], row["parent_item"] or "")


def _values(row: RowMapping, kind: type[RunSummary]) -> dict[str, Any]:
    made = {"state": RunState(row["state"]), "trust": Trust(row["trust"]), "parent": parent_of(row)}
    return made | {field.name: row[field.name] for field in fields(kind) if field.name not in made}
