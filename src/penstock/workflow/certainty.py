"""Which nodes have an output for sure, seen from a node or from the end of the run.

A node with `run: on_success` starts only when everything it needs has succeeded; so what it
needs, and what that needed, has an output. A reference with `| default(…)` is no need: it
only waits. A node with `run: always` or `on_failure` can count on nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.workflow.compiled import Compiled
from penstock.workflow.graph import Graph, Link

CONTINUES = "may fail and the run goes on (on_error: continue)"


def link_of(node: Compiled, known: Mapping[str, Compiled]) -> Link:
    """Join explicit needs with those that follow from references.

    Args:
        known: Nodes of the same branch, or of the main part.
    """
    hard = dict.fromkeys(need for need in node.spec.needs if need in known and need != node.spec.id)
    soft: dict[str, None] = {}
    for reference in node.reads():
        name = str(reference.path[1]) if len(reference.path) > 1 else ""
        if name not in known:
            continue
        is_soft = reference.guarded or reference.path[2:3] == ("status",)
        (soft if is_soft else hard)[name] = None
    return Link(tuple(hard), tuple(name for name in soft if name not in hard), node.spec.run)


def certain_nodes(
    graph: Graph, nodes: Mapping[str, Compiled], *, base: frozenset[str] = frozenset()
) -> dict[str, frozenset[str]]:
    """Give for each node those that have an output when it starts.

    Args:
        base: Nodes that have one when the graph starts.
    """
    found: dict[str, frozenset[str]] = {}
    for name in graph.order:
        link = graph.links[name]
        certain = base
        if link.run == "on_success":
            for need in link.hard:
                certain |= found[need] | _if_it_passed(nodes[need])
        found[name] = certain
    return found


def certain_at_end(graph: Graph, nodes: Mapping[str, Compiled]) -> frozenset[str]:
    """Give the nodes that have an output whenever the run completes."""
    sure: set[str] = set()
    for name in graph.order:
        spec, link = nodes[name].spec, graph.links[name]
        steady = spec.when is None and spec.on_error == "fail" and spec.run != "on_failure"
        if steady and (spec.run == "always" or all(need in sure for need in link.hard)):
            sure.add(name)
    return frozenset(sure)


def never_runs(name: str, graph: Graph, certain: Mapping[str, frozenset[str]]) -> str:
    """Say why a node can never run; empty when it can."""
    link = graph.links[name]
    if link.run == "on_failure" and not link.all:
        return "it runs on a failure but needs no node that could fail"
    if link.run != "on_success":
        return ""
    for need in sorted(certain[name]):
        other = graph.links.get(need)
        if other and other.run == "on_failure" and set(other.all) <= certain[name]:
            return f"it needs {need!r}, which runs only when a node fails that it needs as well"
    return ""


def _if_it_passed(node: Compiled) -> frozenset[str]:
    """Give the node itself when having passed means having an output."""
    return frozenset() if node.spec.on_error == "continue" else frozenset({node.spec.id})
