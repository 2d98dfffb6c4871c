"""What the names in an expression stand for, place by place, when a file is saved."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from penstock.errors import ExpressionError
from penstock.workflow.compiled import Report
from penstock.workflow.evaluation import show_path
from penstock.workflow.expressions import Reference, Template
from penstock.workflow.graph import Outcome
from penstock.workflow.inference import infer
from penstock.workflow.inputs import input_schema
from penstock.workflow.shapes import Shape
from penstock.workflow.source import Path
from penstock.workflow.spec import Workflow
from penstock.workflow.suggestions import suggest

ROOTS = ("inputs", "nodes", "run", "trigger", "error", "approval")
"""Names that a foreach item cannot have."""

_BY_NAME: dict[str | int, str] = {"inputs": "name", "run": "name", "approval": "round"}
"""Names that are no value themselves, each with one that it has."""

_TEXT = Shape({"type": "string"})

RUN = Shape.mapping(
    dict.fromkeys(("id", "name", "workflow", "revision", "requester", "trigger", "started_at"), _TEXT)
)
"""What `run.` has; all of it is text."""

ERROR = Shape.mapping(dict.fromkeys(("node", "message", "code"), _TEXT))
"""What `error.` has inside an error branch."""

APPROVAL = Shape.mapping({"round": Shape({"type": "integer"}), "note": _TEXT})
"""What `approval.` has in the inputs and the title of a node that may have a gate."""

_STATUS = Shape({"type": "string", "enum": [str(outcome) for outcome in Outcome]})
_ALERTS: dict[str, JsonValue] = {
    "type": "object",
    "properties": {
        "version": {"type": "string"},
        "groupKey": {"type": "string"},
        "truncatedAlerts": {"type": "integer"},
        "status": {"type": "string", "enum": ["firing", "resolved"]},
        "receiver": {"type": "string"},
        "groupLabels": {"$ref": "#/$defs/Labels"},
        "commonLabels": {"$ref": "#/$defs/Labels"},
        "commonAnnotations": {"$ref": "#/$defs/Labels"},
        "externalURL": {"type": "string"},
        "alerts": {"type": "array", "items": {"$ref": "#/$defs/Alert"}},
    },
    "$defs": {
        "Labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "Alert": {
            "type": "object",
            "properties": {
                "status": {"type": "string", "enum": ["firing", "resolved"]},
                "labels": {"$ref": "#/$defs/Labels"},
                "annotations": {"$ref": "#/$defs/Labels"},
                "startsAt": {"type": "string"},
                "endsAt": {"type": "string"},
                "generatorURL": {"type": "string"},
                "fingerprint": {"type": "string"},
            },
        },
    },
}
_TRIGGERS = {
    "alertmanager": Shape.of(_ALERTS),
    "schedule": Shape.mapping({"scheduled_at": _TEXT}),
}


def trigger_shape(kind: str) -> Shape:
    """Give what is known of the events of a kind of trigger."""
    return _TRIGGERS.get(kind, Shape())


def inputs_shape(workflow: Workflow) -> Shape:
    """Give the shape of a workflow's inputs."""
    return Shape.mapping({name: Shape.of(input_schema(spec)) for name, spec in workflow.inputs.items()})


def node_shape(output: Shape, *, is_list: bool) -> Shape:
    """Give what `nodes.<id>.` has."""
    shape = Shape.list_of(output) if is_list else output
    return Shape.mapping({"output": shape, "status": _STATUS})


@dataclass(frozen=True)
class Place:
    """Where an expression stands, and what it may count on there."""

    scope: Shape
    certain: frozenset[str] = frozenset()
    """Nodes that have an output for sure."""
    why: str = "may have been skipped when the run completes"
    """Why any other node may have none."""
    own: str = ""
    """The node that the expression belongs to."""
    event: bool = False
    """Whether there is a trigger for sure."""

    def check(self, report: Report | None, path: Path, template: Template) -> bool:
        """Check every reference of a template.

        Args:
            report: Takes the problems; None keeps quiet about them.
        Returns:
            Whether all of them lead somewhere.
        """
        results = [self._check(report, path, reference) for reference in template.references]
        return all(results)

    def shape_of(self, report: Report | None, path: Path, template: Template) -> Shape | None:
        """Check a template and infer what it gives; None when that failed."""
        if not self.check(report, path, template):
            return None
        try:
            shapes = [infer(piece, self.scope) for piece in template.pieces if not isinstance(piece, str)]
        except ExpressionError as error:
            _note(report, path, error.message, error.offset)
            return None
        return shapes[0] if template.is_lone else _TEXT

    def _check(self, report: Report | None, path: Path, reference: Reference) -> bool:
        problem = self._dead_end(reference) or self._uncertain(reference)
        if problem:
            _note(report, path, problem, reference.offset)
        return not problem

    def _dead_end(self, reference: Reference) -> str:
        shape = self.scope
        for number, step in enumerate(reference.path):
            following = shape.child(step)
            if following is None:
                return self._unknown(reference.path, number, shape)
            shape = following
        return ""

    def _unknown(self, path: tuple[str | int, ...], number: int, shape: Shape) -> str:
        step = path[number]
        hint = suggest(str(step), shape.keys)
        if number == 0:
            return f"unknown name {step!r}{hint}"
        if number == 1 and path[0] == "nodes":
            if step == self.own:
                return f"node {step!r} reads its own output"
            return f"unknown node {step!r}{hint}"
        if number == 1 and path[0] == "inputs":
            return f"unknown input {step!r}{hint}"
        return f"{show_path(path[:number])} has no {step!r}{hint}"

    def _uncertain(self, reference: Reference) -> str:
        root, *rest = reference.path
        if root in _BY_NAME and not rest:
            return f"read one value of {root}, as in {root}.{_BY_NAME[root]}"
        if root == "nodes" and len(rest) < 2:
            return "read .output or .status of a node"
        if root == "trigger" and not self.event and not reference.guarded:
            return "a run need not have a trigger; add | default(…)"
        if reference.path == ("approval", "note") and not reference.guarded:
            return "nobody need have sent it back with a note; add | default(…)"
        if root != "nodes" or reference.guarded or rest[1] != "output" or rest[0] in self.certain:
            return ""
        return f"node {rest[0]!r} {self.why}; add | default(…)"


def _note(report: Report | None, path: Path, message: str, offset: int) -> None:
    if report is not None:
        report.add(path, message, offset=offset)
