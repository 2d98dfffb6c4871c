"""A workflow with its templates parsed: what the engine runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from penstock.errors import ExpressionError, Problem
from penstock.workflow.catalog import AgentInfo
from penstock.workflow.evaluation import Scope
from penstock.workflow.expressions import Condition, Reference, Structure, Template, parse_condition, texts_of
from penstock.workflow.graph import Graph, Link
from penstock.workflow.source import Path, Source
from penstock.workflow.spec import MAX_NODES, Node, Retry, Workflow
from penstock.workflow.triggers import Trigger


class Report:
    """Collects the problems of a file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []

    def add(self, path: Path, message: str, *, key: bool = False, offset: int | None = None) -> None:
        """Note a mistake."""
        self.problems.append(self.source.problem(path, message, key=key, offset=offset))


@dataclass(frozen=True)
class Compiled:
    """The templates of one node, with the place of the node in the file."""

    spec: Node
    path: Path
    branch: str | None
    inputs: Structure
    when: Condition | None
    items: Structure | None
    title: Template | None
    verify: Structure | None

    def templates(self) -> Iterator[tuple[Path, Template]]:
        """Yield every template that is evaluated before the node starts, with its place."""
        for inner, template in self.inputs.templates.items():
            yield (*self.path, "with", *inner), template
        if self.when:
            yield (*self.path, "when"), self.when.template
        for inner, template in self.items.templates.items() if self.items else ():
            yield (*self.path, "foreach", "in", *inner), template
        if self.title:
            yield (*self.path, "approval", "title"), self.title

    def checks(self) -> Iterator[tuple[Path, Template]]:
        """Yield every template of `verify`, which is evaluated after the node."""
        for inner, template in self.verify.templates.items() if self.verify else ():
            yield (*self.path, "verify", "with", *inner), template

    def reads(self) -> Iterator[Reference]:
        """Yield every reference of the node to another node."""
        for _, template in (*self.templates(), *self.checks()):
            for reference in template.references:
                if reference.path[0] == "nodes" and reference.path[1:2] != (self.spec.id,):
                    yield reference


@dataclass(frozen=True)
class CheckedNode:
    """A node that is ready to run."""

    compiled: Compiled
    link: Link
    agent: AgentInfo | None
    """None for a node that runs another workflow."""

    @property
    def spec(self) -> Node:
        """The node as the file says it."""
        return self.compiled.spec

    @property
    def id(self) -> str:
        """The node's id."""
        return self.spec.id

    @property
    def retry(self) -> Retry:
        """When and how often it is tried again."""
        return self.spec.retry

    @property
    def run(self) -> str:
        """`on_success`, `always` or `on_failure`."""
        return self.spec.run

    @property
    def timeout_s(self) -> float | None:
        """Limit of one try: the node's own, or else the agent's."""
        return self.spec.timeout or (self.agent.timeout_s if self.agent else None)

    def condition(self, scope: Scope) -> bool:
        """Evaluate `when`; true without one.

        Raises:
            ExpressionError: It cannot be evaluated.
        """
        return self.compiled.when is None or self.compiled.when.holds(scope)

    def render_inputs(self, scope: Scope) -> dict[str, JsonValue]:
        """Evaluate `with`.

        Args:
            scope: Holds the item under the `as` name when the node has `foreach`.
        Raises:
            ExpressionError: A text cannot be evaluated; the message names the field.
        """
        return _mapping(self.compiled.inputs.render(scope))

    def render_items(self, scope: Scope) -> list[JsonValue]:
        """Evaluate the list of `foreach`.

        Raises:
            ExpressionError: It is no list, or longer than `max_items`.
        """
        foreach = self.spec.foreach
        if foreach is None or self.compiled.items is None:
            return []
        items = self.compiled.items.render(scope)
        if not isinstance(items, list):
            raise ExpressionError("foreach.in: the value is not a list")
        if len(items) > foreach.max_items:
            raise ExpressionError(f"foreach.in: {len(items)} items; max_items is {foreach.max_items}")
        return items

    def render_title(self, scope: Scope) -> str | None:
        """Evaluate the headline of the approval; None without one."""
        title = self.compiled.title
        return None if title is None else str(title.render(scope))

    def render_verify(self, scope: Scope) -> dict[str, JsonValue]:
        """Evaluate `verify.with`; the scope holds the node's own output."""
        return _mapping(self.compiled.verify.render(scope)) if self.compiled.verify else {}


@dataclass(frozen=True)
class CheckedTrigger:
    """A trigger whose templates are parsed."""

    spec: Trigger
    filter: Condition | None
    inputs: Structure
    key: Template | None

    def accepts(self, trigger: JsonValue) -> bool:
        """Evaluate `filter` on an event; true without one."""
        return self.filter is None or self.filter.holds({"trigger": trigger})

    def render_inputs(self, trigger: JsonValue) -> dict[str, JsonValue]:
        """Evaluate the inputs of the run that an event starts."""
        return _mapping(self.inputs.render({"trigger": trigger}))

    def render_key(self, trigger: JsonValue) -> str | None:
        """Evaluate `key`; None without one."""
        return None if self.key is None else str(self.key.render({"trigger": trigger}))


@dataclass(frozen=True)
class CheckedWorkflow:
    """A workflow file without mistakes, ready to run."""

    workflow: Workflow
    graph: Graph
    nodes: Mapping[str, CheckedNode]
    """Every node, those of error branches included."""
    branches: Mapping[str, Graph]
    triggers: tuple[CheckedTrigger, ...]
    outputs: Structure
    concurrency_key: Template | None
    exposed: Mapping[str, str]
    """Inputs without a limit that reach a sensitive slot, and a slot that each reaches."""

    def render_outputs(self, scope: Scope) -> dict[str, JsonValue]:
        """Evaluate the outputs of a completed run.

        Raises:
            ExpressionError: One cannot be evaluated; the message names it.
        """
        return _mapping(self.outputs.render(scope))

    def render_concurrency_key(self, scope: Scope) -> str | None:
        """Evaluate the concurrency key; None without one."""
        return None if self.concurrency_key is None else str(self.concurrency_key.render(scope))


class Compiler:
    """Parses every template of a file and reports what cannot be parsed."""

    def __init__(self, workflow: Workflow, report: Report) -> None:
        self.workflow = workflow
        self.report = report

    def nodes(self) -> list[Compiled]:
        """Compile all nodes, those of error branches included."""
        found = [self._node(node, ("nodes", index), None) for index, node in enumerate(self.workflow.nodes)]
        for name, branch in self.workflow.error_branches.items():
            found.extend(
                self._node(node, ("error_branches", name, index), name) for index, node in enumerate(branch)
            )
        if len(found) > MAX_NODES:
            self.report.add(("nodes",), f"a workflow has at most {MAX_NODES} nodes, not {len(found)}")
        return found

    def triggers(self) -> tuple[CheckedTrigger, ...]:
        """Compile all triggers."""
        return tuple(self._trigger(spec, index) for index, spec in enumerate(self.workflow.triggers))

    def outputs(self) -> Structure:
        """Compile the outputs."""
        return self._structure(dict(self.workflow.outputs), ("outputs",))

    def concurrency_key(self) -> Template | None:
        """Compile the concurrency key."""
        limit = self.workflow.concurrency
        return self._template(limit.key, ("concurrency", "key")) if limit else None

    def _node(self, spec: Node, path: Path, branch: str | None) -> Compiled:
        title = spec.approval.title if spec.approval else None
        items = None
        if spec.foreach:
            value = spec.foreach.in_
            listed = value if isinstance(value, str) else [*value]
            items = self._structure(listed, (*path, "foreach", "in"))
        verify = self._structure(dict(spec.verify.with_), (*path, "verify", "with")) if spec.verify else None
        return Compiled(
            spec=spec,
            path=path,
            branch=branch,
            inputs=self._structure(dict(spec.with_), (*path, "with")),
            when=self._condition(spec.when, (*path, "when")),
            items=items,
            title=self._template(title, (*path, "approval", "title")),
            verify=verify,
        )

    def _trigger(self, spec: Trigger, index: int) -> CheckedTrigger:
        path: Path = ("triggers", index)
        return CheckedTrigger(
            spec=spec,
            filter=self._condition(getattr(spec, "filter", None), (*path, "filter")),
            inputs=self._structure(dict(spec.inputs), (*path, "inputs")),
            key=self._template(spec.key, (*path, "key")),
        )

    def _template(self, text: str | None, path: Path) -> Template | None:
        if text is None:
            return None
        try:
            return Template.parse(text)
        except ExpressionError as error:
            self.report.add(path, error.message, offset=error.offset)
            return None

    def _condition(self, text: str | None, path: Path) -> Condition | None:
        if text is None:
            return None
        try:
            return parse_condition(text)
        except ExpressionError as error:
            self.report.add(path, error.message, offset=error.offset)
            return None

    def _structure(self, value: JsonValue, path: Path) -> Structure:
        found: dict[tuple[str | int, ...], Template] = {}
        for inner, text in texts_of(value):
            template = self._template(text, (*path, *inner))
            if template and not template.is_plain:
                found[inner] = template
        return Structure(value, found)


def _mapping(value: JsonValue) -> dict[str, JsonValue]:
    return value if isinstance(value, dict) else {}
