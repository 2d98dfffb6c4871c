"""In what order things run: the nodes of a workflow with its error branches, the items of a `foreach`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from penstock.engine.scheduler import NodeResult
from penstock.store.states import NodeState
from penstock.workflow import CheckedWorkflow, Ready

__all__ = ["ItemCourse", "NodeCourse"]

_BY_FAILURE = {NodeState.FAILED, NodeState.UNDONE}
"""States of nodes that may have entered an error branch; what a failed one had done may be undone."""


@dataclass(frozen=True)
class NodeCourse:
    """The nodes of a workflow; an error branch joins when a node has failed into it."""

    workflow: CheckedWorkflow

    def ready(
        self, ended: Mapping[str, NodeResult], *, running: Collection[str], waiting: Collection[str]
    ) -> Ready:
        """Give the nodes that may start now and those to be skipped."""
        outcomes = {name: result.outcome for name, result in ended.items()}
        busy = {*running, *waiting}
        found = self.workflow.graph.ready(outcomes, running=busy)
        start, skip = [*found.start], dict(found.skip)
        for branch in self.causes(ended):
            more = self.workflow.branches[branch].ready(outcomes, running=busy)
            start += more.start
            skip |= more.skip
        return Ready(tuple(start), skip)

    def causes(self, ended: Mapping[str, NodeResult]) -> dict[str, str]:
        """Give the error branches that were entered, each with the first node that failed into it."""
        found: dict[str, str] = {}
        for name, result in ended.items():
            branch = self.workflow.nodes[name].spec.on_error
            failed = result.outcome.failed and result.state in _BY_FAILURE
            if branch in self.workflow.branches and failed:
                found.setdefault(branch, name)
        return found

    def error(self, node_id: str, ended: Mapping[str, NodeResult]) -> dict[str, str] | None:
        """Give what expressions of an error branch's node see as `error`; None outside of branches."""
        branch = self.workflow.nodes[node_id].compiled.branch
        if branch is None:
            return None
        cause = self.causes(ended)[branch]
        told = ended[cause].error or {}
        return {
            "node": cause,
            "message": str(told.get("message", "")),
            "code": str(told.get("code", "")),
        }

    def in_order(self, results: Mapping[str, NodeResult]) -> dict[str, NodeResult]:
        """Sort results as the file has the nodes."""
        graphs = (self.workflow.graph, *self.workflow.branches.values())
        return {name: results[name] for graph in graphs for name in graph.order if name in results}


@dataclass(frozen=True)
class ItemCourse:
    """The items of a `foreach`."""

    keys: Sequence[str]
    concurrency: int
    stop_after_failures: int | None
    begun: Collection[str] = ()
    """Items that an earlier worker or another run has begun: they are never left out."""

    def ready(
        self, ended: Mapping[str, NodeResult], *, running: Collection[str], waiting: Collection[str]
    ) -> Ready:
        """Give the items that may start now; an item that waits for people takes no place.

        When enough have failed, those that wait for people are left out too: nobody need decide.
        """
        left = [key for key in self.keys if key not in ended and key not in running]
        failures = sum(1 for result in ended.values() if result.outcome.failed)
        skip: dict[str, str] = {}
        if self.stop_after_failures is not None and failures >= self.stop_after_failures:
            skip = {key: f"{failures} items have failed" for key in left if key not in self.begun}
        places = self.concurrency - len(running) - sum(1 for key in waiting if key in self.begun)
        start = [key for key in left if key not in waiting and key not in skip]
        return Ready(tuple(start[: max(0, places)]), skip)
