"""Runs and their nodes in JSON types, as every place shows them."""

from __future__ import annotations

from typing import Any

from penstock.engine.outputs import OutputStore
from penstock.store.nodes import Node
from penstock.store.runs import Run

__all__ = ["label_of", "node_data", "run_data"]


def run_data(run: Run) -> dict[str, Any]:
    """Give what is known of a run."""
    return {
        "run_id": str(run.id),
        "name": run.name,
        "workflow": run.workflow,
        "state": run.state.value,
        "message": run.message,
        "inputs": dict(run.inputs),
        "outputs": None if run.outputs is None else dict(run.outputs),
        "error": None if run.error is None else dict(run.error),
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
    }


def label_of(node: Node) -> str:
    """Give what people see of a node: `scan`, or `scan[3]`."""
    return f"{node.node_id}[{node.item}]" if node.item else node.node_id


async def node_data(node: Node, outputs: OutputStore) -> dict[str, Any]:
    """Give what is known of a node, with its output."""
    return {
        "state": node.state.value,
        "output": await outputs.get(node.output_ref) if node.output_ref else node.output,
        "error": None if node.error is None else dict(node.error),
        "reason": node.reason,
        "attempts": node.attempt,
        "started_at": node.started_at.isoformat() if node.started_at else None,
        "ended_at": node.ended_at.isoformat() if node.ended_at else None,
    }
