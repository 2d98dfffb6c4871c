"""Where data that an outsider chose could reach a sensitive slot.

What a trigger brings and what an agent puts out is untrusted. It may fill a command, an
image, a path, an address or a credential only through an input with `enum` or `allow`, or
when the agent that made it vouches for the field by the same slot marker. What an approver
writes in a note is trusted: he has signed in, and what is made of it is approved again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from penstock.workflow.catalog import Catalog
from penstock.workflow.compiled import CheckedTrigger
from penstock.workflow.expressions import Reference, Structure
from penstock.workflow.inference import follow
from penstock.workflow.shapes import Shape
from penstock.workflow.source import Path
from penstock.workflow.spec import InputSpec, Workflow
from penstock.workflow.triggers import KafkaTrigger, NatsTrigger, RedisTrigger, ScheduleTrigger

_OURS = tuple((name,) for name in ("id", "workflow", "revision", "trigger", "started_at"))
"""What the engine itself writes into `run`; names of runs and people come from elsewhere."""


def untrusted_trigger(trigger: CheckedTrigger, catalog: Catalog) -> bool:
    """Tell whether an outsider writes the events of a trigger."""
    match trigger.spec:
        case ScheduleTrigger():
            return False
        case KafkaTrigger(topic=source) | NatsTrigger(subject=source):
            return source not in catalog.trusted_topics
        case RedisTrigger(list_=items, channel=channel):
            return (items or channel) not in catalog.trusted_topics
        case _:
            return True


def open_inputs(workflow: Workflow, triggers: Collection[CheckedTrigger], catalog: Catalog) -> frozenset[str]:
    """Give the inputs that hold what an outsider chose: no limit, and filled by an untrusted trigger."""
    filled: set[str] = set()
    for trigger in triggers:
        if untrusted_trigger(trigger, catalog):
            filled |= {str(path[0]) for path in trigger.inputs.templates if path}
    return frozenset(name for name in unlimited_inputs(workflow) if name in filled)


def unlimited_inputs(workflow: Workflow) -> frozenset[str]:
    """Give the inputs without `enum` and `allow`."""
    return frozenset(name for name, spec in workflow.inputs.items() if not _is_limited(spec))


def _is_limited(spec: InputSpec) -> bool:
    items = spec.items or {}
    return bool(spec.allow or spec.enum or (spec.type == "array" and "enum" in items))


@dataclass(frozen=True)
class Leak:
    """One way of untrusted data into a slot."""

    path: Path
    message: str
    offset: int
    slot: str
    input: str | None = None
    """The input that needs a limit, when the way leads through one."""


@dataclass(frozen=True)
class Taint:
    """Follows references through one place of a file."""

    scope: Shape
    open_inputs: Collection[str]
    item_name: str = ""
    """Name of the foreach item."""
    item_origins: tuple[Reference, ...] = ()
    """What the list of items was made of."""

    def leaks(self, structure: Structure, target: Shape, at: Path) -> Iterator[Leak]:
        """Find the ways into the slots of a target.

        Args:
            at: Where the structure stands in the file.
        """
        for path, template in structure.templates.items():
            for slot in _slots_at(target, path):
                for reference in template.references:
                    if leak := self._leak(reference, slot, (*at, *path)):
                        yield leak

    def _leak(self, reference: Reference, slot: str, path: Path) -> Leak | None:
        root = str(reference.path[0])
        origins = self.item_origins if root == self.item_name else (reference,)
        for origin in origins:
            leak = self._judge(origin, reference, slot, path)
            if leak is not None:
                return leak
        return None

    def _judge(self, origin: Reference, reference: Reference, slot: str, path: Path) -> Leak | None:
        root = str(origin.path[0])
        if root == "inputs" and len(origin.path) > 1:
            return self._judge_input(origin, reference, slot, path)
        if root == "approval" or (root == "run" and origin.path[1:2] in _OURS):
            return None
        if root == "nodes" and (self._vouched(reference, slot) or origin.path[2:3] == ("status",)):
            return None
        message = (
            f"{reference} is untrusted and reaches a {slot}; pass it through an input with enum or allow"
        )
        return Leak(path, message, reference.offset, slot)

    def _judge_input(self, origin: Reference, reference: Reference, slot: str, path: Path) -> Leak | None:
        name = str(origin.path[1])
        if name not in self.open_inputs or _is_closed(follow(self.scope, origin.path)):
            return None
        message = f"a trigger fills input {name!r} with untrusted data, which reaches a {slot} here"
        return Leak(path, f"{message}; give input {name!r} an enum or allow", reference.offset, slot, name)

    def _vouched(self, reference: Reference, slot: str) -> bool:
        shape = follow(self.scope, reference.path)
        return shape is not None and (shape.vouches_for(slot) or shape.items.vouches_for(slot))


def _is_closed(shape: Shape | None) -> bool:
    return shape is not None and all("enum" in variant.schema for variant in shape.variants())


def _slots_at(target: Shape, path: Path) -> list[str]:
    """Give the slots that a value at a path of a target fills, or that lie below it."""
    found: set[str] = set()
    shape: Shape | None = target
    for step in path:
        shape = shape.child(step) if shape else None
        found |= shape.own_slots if shape else frozenset()
    return sorted(found | set(shape.slots() if shape else ()))
