"""What the nodes of a run know of it, and what one of them is about to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import JsonValue

from penstock.approvals.gate import SaidBefore
from penstock.approvals.rules import RuleBook
from penstock.contracts import AgentContext, Logger, Sandbox
from penstock.engine.context import EngineServices, agent_workspace, run_logger
from penstock.engine.courses import NodeCourse
from penstock.engine.outputs import OutputStore
from penstock.engine.scheduler import NodeResult
from penstock.registry import Registry
from penstock.settings import Settings
from penstock.telemetry.redaction import Redactor
from penstock.workflow import CheckedNode, CheckedWorkflow

__all__ = ["Engine", "RunFacts", "Unit"]


@dataclass(frozen=True)
class Engine:
    """What every run of a worker shares."""

    settings: Settings
    registry: Registry
    redactor: Redactor
    outputs: OutputStore
    make_sandbox: Callable[[], Sandbox]
    workspace: Callable[[str], AbstractAsyncContextManager[Path]] = agent_workspace
    make_logger: Callable[[Redactor], Logger] = run_logger
    """Gives the logger of one attempt."""
    rules: RuleBook = field(default_factory=lambda: RuleBook(None, None))
    """Who may approve, and what policies ask for."""


@dataclass(frozen=True)
class Unit:
    """What runs as one task: a node, or one item of a `foreach` node."""

    node: CheckedNode
    item: str = ""
    """Key of the item; empty for a whole node."""
    value: JsonValue = None
    """The item."""

    @property
    def key(self) -> tuple[str, str]:
        """Node and item."""
        return self.node.id, self.item

    @property
    def label(self) -> str:
        """What people see: `scan`, or `scan[3]`."""
        return f"{self.node.id}[{self.item}]" if self.item else self.node.id


@dataclass(frozen=True)
class RunFacts:
    """What the nodes of a run know of it; also the names that expressions see."""

    id: UUID
    name: str
    workflow: CheckedWorkflow
    revision: int
    inputs: Mapping[str, Any]
    requester: str
    started_at: str
    """ISO 8601."""
    trigger: Mapping[str, Any] | None = None
    """Payload of the event that started the run; None when nobody but a person did."""
    trigger_type: str = "manual"
    epoch: int = 1
    """Grows when somebody has the run tried again."""
    editor: str = ""
    """Who applied the workflow's revision."""

    @property
    def course(self) -> NodeCourse:
        """In what order the nodes run."""
        return NodeCourse(self.workflow)

    def scope(
        self,
        results: Mapping[str, NodeResult],
        unit: Unit | None = None,
        before: SaidBefore | None = None,
    ) -> dict[str, Any]:
        """Give the data that expressions may refer to, as far as the run has come.

        Args:
            unit: Whose expressions; its item and, in an error branch, the error are known to them.
            before: What people have said at the unit's gate.
        """
        run = {
            "id": str(self.id),
            "name": self.name,
            "workflow": self.workflow.workflow.name,
            "revision": str(self.revision),
            "requester": self.requester,
            "trigger": self.trigger_type,
            "started_at": self.started_at,
        }
        nodes = {node_id: _seen(result) for node_id, result in results.items()}
        scope = {"inputs": dict(self.inputs), "trigger": self.trigger, "run": run, "nodes": nodes}
        if before is not None:
            scope["approval"] = before.scope
        return scope if unit is None else scope | self._own(unit, results)

    def _own(self, unit: Unit, results: Mapping[str, NodeResult]) -> dict[str, Any]:
        own: dict[str, Any] = {}
        if unit.item and unit.node.spec.foreach:
            own[unit.node.spec.foreach.as_] = unit.value
        error = self.course.error(unit.node.id, results)
        return own if error is None else own | {"error": error}

    def context(self, engine: Engine, unit: Unit, workspace: Path, *, attempt: int) -> AgentContext:
        """Give an agent the context of one attempt."""
        return AgentContext(
            run_id=str(self.id),
            node_id="-".join(unit.key) if unit.item else unit.node.id,
            attempt=attempt,
            dry_run=False,
            workspace=workspace,
            logger=engine.make_logger(engine.redactor),
            services=EngineServices(unit.node.spec.blocks, engine.make_sandbox, engine.redactor),
        )


def _seen(result: NodeResult) -> dict[str, Any]:
    """Give what expressions see of a node that has ended."""
    status = {"status": result.outcome.value}
    return status if result.output is None else {**status, "output": result.output}
