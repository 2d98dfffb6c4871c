"""The table of nodes that every run leaves in Prefect as an artifact."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.engine.scheduler import NodeResult
from penstock.store.states import NodeState, RunState
from penstock.workflow import CheckedWorkflow

__all__ = ["headline", "run_report"]

_MARKS = {
    NodeState.SUCCEEDED: "✓",
    NodeState.FAILED: "✗",
    NodeState.SKIPPED: "-",
    NodeState.REJECTED: "⊘",
    NodeState.INTERRUPTED: "⚠",
    NodeState.CANCELLED: "⊘",
    NodeState.UNDONE: "↶",
}
_LONGEST_CELL = 300


def headline(results: Mapping[str, NodeResult]) -> str:
    """Say in one line how the nodes of a run ended: what failed and why, or how many succeeded."""
    for node_id, result in results.items():
        if result.error is not None and not result.tolerated:
            return f"node {node_id!r} {result.state.value}: {(result.error or {}).get('message', '')}"
    counts: dict[str, int] = {}
    for result in results.values():
        counts[result.state.value] = counts.get(result.state.value, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def run_report(
    workflow: CheckedWorkflow, state: RunState, message: str, results: Mapping[str, NodeResult]
) -> str:
    """Write the report as markdown."""
    rows = [
        _row(
            node_id,
            workflow.nodes[node_id].spec.agent or "",
            f"{_MARKS.get(result.state, '')} {result.state.value}",
            str(result.attempts or ""),
            result.reason or str((result.error or {}).get("message", "")),
        )
        for node_id, result in results.items()
    ]
    head = [_row("Node", "Agent", "State", "Attempts", "Why"), _row(*["---"] * 5)]
    title = f"### {workflow.workflow.name}: {state.value}"
    return "\n".join([title, "", _plain(message), "", *head, *rows, ""])


def _row(*cells: str) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Keep text from outside from becoming markdown or a new row of the table."""
    short = text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"
    flat = " ".join(short.split())
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("[", "&#91;"), ("`", "&#96;")):
        flat = flat.replace(character, entity)
    return flat
