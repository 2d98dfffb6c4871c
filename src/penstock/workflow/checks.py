"""Every check of a workflow file that is made when it is saved."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pydantic import JsonValue

from penstock.contracts import SLOT_KEY
from penstock.errors import SpecError
from penstock.workflow.catalog import Catalog
from penstock.workflow.certainty import never_runs
from penstock.workflow.compiled import (
    CheckedNode,
    CheckedTrigger,
    CheckedWorkflow,
    Compiled,
    Compiler,
    Report,
)
from penstock.workflow.declarations import Declarations
from penstock.workflow.editing import check_editable
from penstock.workflow.expressions import Structure, Template
from penstock.workflow.fit import Fit
from penstock.workflow.inputs import input_schema
from penstock.workflow.revisions import canonical_json
from penstock.workflow.scopes import Place, trigger_shape
from penstock.workflow.shapes import Shape
from penstock.workflow.source import Path, read_source
from penstock.workflow.spec import Workflow
from penstock.workflow.surroundings import Surroundings
from penstock.workflow.syntax import Const
from penstock.workflow.taint import Leak, Taint, open_inputs, unlimited_inputs
from penstock.workflow.values import say_kinds


def check_workflow(workflow: Workflow, catalog: Catalog) -> CheckedWorkflow:
    """Check a parsed workflow file and make it ready to run.

    Args:
        workflow: As `parse_workflow` gives it.
        catalog: What it may use.
    Raises:
        SpecError: It has mistakes; `problems` holds every one with its place.
    """
    return _Checker(workflow, catalog).checked()


def exposed_inputs(
    workflow: Workflow, catalog: Catalog, *, trail: frozenset[str] = frozenset()
) -> dict[str, str]:
    """Find the inputs of a workflow that reach a sensitive slot without a limit.

    Args:
        trail: Workflows that are being looked at, so that a ring of them ends.
    Returns:
        Input -> a slot that it reaches.
    """
    if workflow.name in trail:
        return {}
    return _Checker(workflow, catalog, trail=trail | {workflow.name}).exposed()


class _Checker:
    def __init__(self, workflow: Workflow, catalog: Catalog, *, trail: frozenset[str] = frozenset()) -> None:
        self.workflow = workflow
        self.catalog = catalog
        self.trail = trail or frozenset({workflow.name})
        # A workflow that came from no file has its places in its canonical text.
        self.report = Report(workflow.source or read_source(canonical_json(workflow), file=workflow.name))
        compiler = Compiler(workflow, self.report)
        self.nodes = compiler.nodes()
        self.triggers = compiler.triggers()
        self.outputs = compiler.outputs()
        self.concurrency_key = compiler.concurrency_key()
        self.around = Surroundings(workflow, catalog, self.nodes)

    def checked(self) -> CheckedWorkflow:
        """Run every check."""
        Declarations(self.workflow, self.catalog, self.report, self.nodes).check()
        if self.around.cycle:
            self._report_cycle()
        else:
            self._check_places()
        if self.report.problems:
            raise SpecError.of(sorted(set(self.report.problems)))
        return CheckedWorkflow(
            workflow=self.workflow,
            graph=self.around.graph,
            nodes={name: self._ready(node) for name, node in self.around.all.items()},
            branches=self.around.branches,
            triggers=self.triggers,
            outputs=self.outputs,
            concurrency_key=self.concurrency_key,
            exposed=self.exposed(),
        )

    def exposed(self) -> dict[str, str]:
        """Find the inputs that reach a slot, as if an outsider filled all of them."""
        found: dict[str, str] = {}
        for node in () if self.around.cycle else self.nodes:
            for leak in self._leaks(node, unlimited_inputs(self.workflow)):
                if leak.input:
                    found[leak.input] = leak.slot
        return found

    def _ready(self, node: Compiled) -> CheckedNode:
        agent = self.catalog.agents.get(node.spec.agent or "")
        return CheckedNode(node, self.around.links[node.spec.id], agent)

    def _report_cycle(self) -> None:
        cycle = self.around.cycle
        first = next(node for node in self.nodes if node.spec.id in cycle)
        self.report.add((*first.path, "id"), f"nodes wait for each other: {' -> '.join(cycle)}")

    def _check_places(self) -> None:
        for node in self.around.all.values():
            self._check_node(node)
            reason = never_runs(node.spec.id, self.around.graph_of(node), self.around.certain)
            if reason:
                self.report.add((*node.path, "id"), f"node {node.spec.id!r} never runs: {reason}")
        for index, trigger in enumerate(self.triggers):
            self._check_trigger(("triggers", index), trigger)
        self._check_all(self.around.end(), ("outputs",), self.outputs)
        if self.concurrency_key:
            self.around.start().shape_of(self.report, ("concurrency", "key"), self.concurrency_key)

    def _check_node(self, node: Compiled) -> None:
        path, before, inside = node.path, self.around.before(node), self.around.inside(node)
        if node.when:
            self._check_condition(before, (*path, "when"), node.when.template)
        self._check_items(before, node)
        if node.title:
            inside.shape_of(self.report, (*path, "approval", "title"), node.title)
        target = self._target(node)
        self._fit(inside, (*path, "with"), node.inputs).check(target, owner=_owner(node))
        if node.spec.approval:
            editable = (*path, "approval", "editable")
            check_editable(self.report, editable, node.spec.approval.editable, target, owner=_owner(node))
        if node.spec.verify and node.verify:
            target = Shape.of(self.catalog.agent_inputs(node.spec.verify.agent))
            fit = self._fit(self.around.after(node), (*path, "verify", "with"), node.verify)
            fit.check(target, owner=f"agent {node.spec.verify.agent!r}")
        for leak in self._leaks(node, open_inputs(self.workflow, self.triggers, self.catalog)):
            self.report.add(leak.path, leak.message, offset=leak.offset)

    def _fit(self, place: Place, path: Path, structure: Structure) -> Fit:
        return Fit(
            self.report, path, structure, lambda where, template: place.shape_of(self.report, where, template)
        )

    def _check_condition(self, place: Place, path: Path, template: Template) -> None:
        shape = place.shape_of(self.report, path, template)
        if shape is not None and "boolean" not in shape.kinds:
            kinds = say_kinds(shape.kinds)
            self.report.add(path, f"a condition gives true or false, not {kinds}; compare it with something")
        if isinstance(template.lone, Const) and template.lone.value is False:
            self.report.add(path, "this is never true")

    def _check_items(self, place: Place, node: Compiled) -> None:
        foreach, items = node.spec.foreach, node.items
        if foreach is None or items is None:
            return
        path = (*node.path, "foreach", "in")
        self._check_all(place, path, items)
        template = items.templates.get(())
        if isinstance(items.value, str) and not (template and template.is_lone):
            self.report.add(path, "must be a list, or one {{ }} that gives a list")
        elif template and (shape := place.shape_of(None, path, template)) and "array" not in shape.kinds:
            self.report.add(path, f"must be a list, but the expression gives {say_kinds(shape.kinds)}")
        if isinstance(items.value, list) and len(items.value) > foreach.max_items:
            self.report.add(path, f"{len(items.value)} items; max_items is {foreach.max_items}")

    def _check_all(self, place: Place, path: Path, structure: Structure) -> None:
        for inner, template in structure.templates.items():
            place.shape_of(self.report, (*path, *inner), template)

    def _check_trigger(self, path: Path, trigger: CheckedTrigger) -> None:
        place = Place(Shape.mapping({"trigger": trigger_shape(trigger.spec.type)}), event=True)
        if trigger.filter:
            self._check_condition(place, (*path, "filter"), trigger.filter.template)
        if trigger.key:
            place.shape_of(self.report, (*path, "key"), trigger.key)
        name = f"workflow {self.workflow.name!r}"
        self._fit(place, (*path, "inputs"), trigger.inputs).check(_inputs_of(self.workflow, {}), owner=name)

    def _target(self, node: Compiled) -> Shape:
        if node.spec.agent is not None:
            return Shape.of(self.catalog.agent_inputs(node.spec.agent))
        workflow = self.catalog.workflows.get(node.spec.workflow or "")
        if workflow is None:
            return Shape()
        return _inputs_of(workflow, exposed_inputs(workflow, self.catalog, trail=self.trail))

    def _leaks(self, node: Compiled, untrusted: Collection[str]) -> Iterator[Leak]:
        item_name = node.spec.foreach.as_ if node.spec.foreach else ""
        templates = node.items.templates.values() if node.items else ()
        origins = tuple(reference for template in templates for reference in template.references)
        inside = Taint(self.around.inside(node).scope, untrusted, item_name, origins)
        yield from inside.leaks(node.inputs, self._target(node), (*node.path, "with"))
        if node.spec.verify and node.verify:
            target = Shape.of(self.catalog.agent_inputs(node.spec.verify.agent))
            after = Taint(self.around.after(node).scope, untrusted, item_name, origins)
            yield from after.leaks(node.verify, target, (*node.path, "verify", "with"))


def _owner(node: Compiled) -> str:
    return f"agent {node.spec.agent!r}" if node.spec.agent else f"workflow {node.spec.workflow!r}"


def _inputs_of(workflow: Workflow, slots: Mapping[str, str]) -> Shape:
    """Give the shape that the inputs of a workflow must have."""
    properties: dict[str, JsonValue] = {}
    for name, spec in workflow.inputs.items():
        mark: dict[str, JsonValue] = {SLOT_KEY: slots[name]} if name in slots else {}
        properties[name] = {**input_schema(spec), **mark}
    required: list[JsonValue] = [name for name, spec in workflow.inputs.items() if spec.is_required]
    return Shape.of(
        {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    )
