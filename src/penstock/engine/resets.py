"""Which nodes run again when somebody has a run tried again."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from penstock.errors import InputInvalid
from penstock.store.nodes import Node
from penstock.store.states import NodeState
from penstock.workflow import CheckedWorkflow

__all__ = ["to_reset"]


def to_reset(
    workflow: CheckedWorkflow, nodes: Sequence[Node], *, start: str | None = None
) -> frozenset[tuple[str, str]]:
    """Give the nodes, and items of nodes, that run again; what succeeded before them stays.

    Whatever comes after a node that runs again does so too, for it may find other outputs.

    Args:
        nodes: As earlier runs left them.
        start: The node to begin with; None means everything that did not succeed.
    Raises:
        InputInvalid: There is no such node.
    """
    if start is not None and start not in workflow.nodes:
        known = ", ".join(workflow.nodes)
        raise InputInvalid(f"the workflow has no node {start!r}; its nodes are {known}")
    first = {start} if start else {node.node_id for node in nodes if node.state is not NodeState.SUCCEEDED}
    later = _after(workflow, first)
    return frozenset(
        (node.node_id, node.item)
        for node in nodes
        if node.node_id in later
        or node.node_id == start
        # A node runs again with any of its items, as when they were undone; what else succeeded stays.
        or (node.node_id in first and (not node.item or node.state is not NodeState.SUCCEEDED))
    )


def _after(workflow: CheckedWorkflow, first: Collection[str]) -> set[str]:
    """Give what comes after some nodes; an error branch comes after the nodes that fail into it."""
    found: set[str] = set()
    again = set(first)
    for graph in (workflow.graph, *workflow.branches.values()):
        for name in graph.order:
            node = workflow.nodes[name]
            causes = {
                other for other, one in workflow.nodes.items() if one.spec.on_error == node.compiled.branch
            }
            if again.intersection(node.link.all) or again & causes:
                found.add(name)
                again.add(name)
    return found
