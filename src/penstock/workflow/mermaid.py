"""A workflow as a Mermaid graph."""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.contracts import Risk
from penstock.workflow.compiled import CheckedNode, CheckedWorkflow
from penstock.workflow.graph import Graph

_UNSAFE = re.compile(r"[^A-Za-z0-9 _./:,()!?+*=%@'-]")


def to_mermaid(checked: CheckedWorkflow) -> str:
    """Draw the nodes, their gates and what they wait for.

    A gate is a diamond before its node. A dotted arrow only waits, whatever the end.
    """
    lines = ["flowchart TD", *_graph(checked, checked.graph, "  ")]
    for name, graph in checked.branches.items():
        lines.append(f'  subgraph branch_{name}["on error: {name}"]')
        lines += [*_graph(checked, graph, "    "), "  end"]
        lines += [
            f"  node_{node.id} -. fails .-> branch_{name}"
            for node in checked.nodes.values()
            if node.spec.on_error == name
        ]
    return "\n".join(lines) + "\n"


def has_gate(node: CheckedNode) -> bool:
    """Tell whether a node waits for an approval."""
    needs_one = node.agent is not None and node.agent.risk == Risk.APPROVAL_REQUIRED
    return needs_one or node.spec.approval is not None


def _graph(checked: CheckedWorkflow, graph: Graph, indent: str) -> Iterator[str]:
    for name in graph.order:
        node = checked.nodes[name]
        yield f'{indent}node_{name}["{_text(node)}"]'
        if has_gate(node):
            yield f'{indent}gate_{name}{{"approval"}} --> node_{name}'
    for name in graph.order:
        node = checked.nodes[name]
        end = f"gate_{name}" if has_gate(node) else f"node_{name}"
        arrow = "-->" if node.run == "on_success" else f"-. {node.run.replace('_', ' ')} .->"
        yield from (f"{indent}node_{need} {arrow} {end}" for need in node.link.hard)
        yield from (f"{indent}node_{need} -.-> {end}" for need in node.link.soft)


def _text(node: CheckedNode) -> str:
    spec = node.spec
    lines = [spec.id, spec.agent or f"workflow {spec.workflow}"]
    if spec.when:
        lines.append(f"when {_short(spec.when)}")
    if spec.foreach:
        lines.append(f"for each {spec.foreach.as_}")
    return "<br/>".join(_label(line) for line in lines)


def _short(text: str) -> str:
    plain = " ".join(text.strip().removeprefix("{{").removesuffix("}}").split())
    return plain if len(plain) <= 60 else f"{plain[:59]}…"


def _label(text: str) -> str:
    return _UNSAFE.sub(lambda found: f"#{ord(found[0])};", text)
