"""What is known of every node of a file: its links, its neighbours, and what it may read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from penstock.workflow.catalog import Catalog
from penstock.workflow.certainty import CONTINUES, certain_at_end, certain_nodes, link_of
from penstock.workflow.compiled import Compiled
from penstock.workflow.graph import Graph, Link, find_cycle
from penstock.workflow.scopes import APPROVAL, ERROR, RUN, Place, inputs_shape, node_shape
from penstock.workflow.shapes import Shape
from penstock.workflow.spec import Workflow


class Surroundings:
    """The nodes of a file as they stand to each other."""

    def __init__(self, workflow: Workflow, catalog: Catalog, nodes: Sequence[Compiled]) -> None:
        self.workflow = workflow
        self.catalog = catalog
        self.main = {node.spec.id: node for node in nodes if node.branch is None}
        self.all = {node.spec.id: node for node in nodes}

    @cached_property
    def links(self) -> dict[str, Link]:
        """What each node waits for."""
        groups: dict[str | None, dict[str, Compiled]] = {}
        for name, node in self.all.items():
            groups.setdefault(node.branch, {})[name] = node
        return {name: link_of(node, groups[node.branch]) for name, node in self.all.items()}

    @cached_property
    def cycle(self) -> tuple[str, ...]:
        """Nodes that wait for each other, if there are any."""
        return find_cycle({name: link.all for name, link in self.links.items()})

    @cached_property
    def graph(self) -> Graph:
        """The graph of the main part."""
        return self._graph(None)

    @cached_property
    def branches(self) -> dict[str, Graph]:
        """The graph of each error branch."""
        return {branch: self._graph(branch) for branch in self.workflow.error_branches}

    def _graph(self, branch: str | None) -> Graph:
        return Graph({name: self.links[name] for name, node in self.all.items() if node.branch == branch})

    def graph_of(self, node: Compiled) -> Graph:
        """Give the graph that a node is part of."""
        return self.branches[node.branch] if node.branch else self.graph

    @cached_property
    def certain(self) -> dict[str, frozenset[str]]:
        """For each node, the nodes that have an output when it starts."""
        certain = certain_nodes(self.graph, self.all)
        for branch, graph in self.branches.items():
            entries = [certain[name] for name, node in self.main.items() if node.spec.on_error == branch]
            base = frozenset[str].intersection(*entries) if entries else frozenset[str]()
            certain |= certain_nodes(graph, self.all, base=base)
        return certain

    @cached_property
    def _base_shapes(self) -> dict[str, Shape]:
        return {"inputs": inputs_shape(self.workflow), "run": RUN, "trigger": Shape()}

    @cached_property
    def _outputs(self) -> dict[str, Shape]:
        return {name: self._output(node) for name, node in self.all.items()}

    def _output(self, node: Compiled) -> Shape:
        if node.spec.agent is not None:
            info = self.catalog.agents.get(node.spec.agent)
            return Shape.of(info.output_schema) if info else Shape()
        workflow = self.catalog.workflows.get(node.spec.workflow or "")
        return Shape.mapping({name: Shape() for name in workflow.outputs}) if workflow else Shape()

    def _others(self, node: Compiled | None) -> dict[str, Shape]:
        branches = (None, node.branch) if node else (None, *self.workflow.error_branches)
        return {
            name: node_shape(self._outputs[name], is_list=other.spec.foreach is not None)
            for name, other in self.all.items()
            if other.branch in branches and other is not node
        }

    def start(self) -> Place:
        """Give the place before any node."""
        return Place(Shape.mapping(self._base_shapes))

    def end(self) -> Place:
        """Give the place after all nodes of a run that completed."""
        shapes = {**self._base_shapes, "nodes": Shape.mapping(self._others(None))}
        return Place(Shape.mapping(shapes), certain_at_end(self.graph, self.all))

    def before(self, node: Compiled) -> Place:
        """Give the place of a node as a whole: its `when` and the list of its `foreach`."""
        return self._place(node, {})

    def inside(self, node: Compiled) -> Place:
        """Give the place of a node's inputs and title: the foreach item and what approvers said are known.

        A policy may put a gate before any agent, so what they said is known to all agents' nodes.
        """
        gate = {"approval": APPROVAL} if node.spec.agent is not None else {}
        return self._place(node, {**self._item(node), **gate})

    def after(self, node: Compiled) -> Place:
        """Give the place of a node's `verify`, where its own output is known as well."""
        name = node.spec.id
        return self._place(node, self._item(node), {name: node_shape(self._outputs[name], is_list=False)})

    def _place(self, node: Compiled, extra: dict[str, Shape], own: dict[str, Shape] | None = None) -> Place:
        nodes = Shape.mapping(self._others(node) | (own or {}))
        shapes = {**self._base_shapes, "nodes": nodes, **extra}
        if node.branch:
            shapes["error"] = ERROR
        certain = self.certain[node.spec.id] | frozenset(own or ())
        return Place(Shape.mapping(shapes), certain, why=_why(node), own=node.spec.id)

    def _item(self, node: Compiled) -> dict[str, Shape]:
        if node.spec.foreach is None or node.items is None:
            return {}
        template = node.items.templates.get(())
        shape = self.before(node).shape_of(None, (), template) if template else None
        return {node.spec.foreach.as_: shape.items if shape else Shape()}


def _why(node: Compiled) -> str:
    if node.branch:
        return "may have no output when this branch starts"
    if node.spec.run != "on_success":
        return "may have failed or been skipped when this node runs"
    return CONTINUES
