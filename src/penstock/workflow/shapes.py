"""What is known of a value before it exists: a JSON Schema, or named parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from penstock.contracts import SLOT_KEY
from penstock.workflow.values import KINDS, kind_of

Schema = Mapping[str, JsonValue]


def as_schema(value: JsonValue) -> Schema:
    """Take a JSON value as a schema; `true` and what is none allow everything."""
    return value if isinstance(value, dict) else {}


def as_texts(value: JsonValue) -> tuple[str, ...]:
    """Take a JSON value as a list of texts."""
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


@dataclass(frozen=True)
class Shape:
    """A value's schema, with the document that its `$ref`s point into."""

    schema: Schema = field(default_factory=dict[str, JsonValue])
    root: Schema = field(default_factory=dict[str, JsonValue])
    parts: Mapping[str, Shape] | None = None
    """Shapes of the keys, for mappings that no single schema describes."""
    item: Shape | None = None
    """Shape of the items, for lists that no single schema describes."""

    @classmethod
    def of(cls, schema: Schema) -> Shape:
        """Make the shape that a whole schema document describes."""
        return cls(schema, schema)

    @classmethod
    def mapping(cls, parts: Mapping[str, Shape]) -> Shape:
        """Make the shape of a mapping with exactly these keys."""
        return cls({"type": "object"}, parts=parts)

    @classmethod
    def list_of(cls, item: Shape) -> Shape:
        """Make the shape of a list with items like this."""
        return cls({"type": "array"}, item=item)

    @classmethod
    def kinds_only(cls, kinds: Iterable[str]) -> Shape:
        """Make a shape of which only the types are known."""
        names = sorted(kinds)
        return cls() if set(names) >= KINDS else cls({"type": [*names]})

    @classmethod
    def constant(cls, value: JsonValue) -> Shape:
        """Make the shape of a known value."""
        return cls({"const": value})

    def layers(self) -> list[Shape]:
        """Give this shape and every alternative and reference that it leads to at the same place."""
        found: list[Shape] = []
        waiting: list[Shape] = [self]
        seen: set[str] = set()
        while waiting:
            shape = waiting.pop(0)
            found.append(shape)
            reference = shape.schema.get("$ref")
            if isinstance(reference, str) and reference not in seen:
                seen.add(reference)
                waiting.append(shape.inner(_resolve(reference, shape.root)))
            waiting.extend(shape.inner(as_schema(choice)) for choice in _choices(shape.schema))
        return found

    def variants(self) -> list[Shape]:
        """Resolve references and alternatives.

        Returns:
            One shape per alternative, at least one, none of which is a reference.
        """
        found = [
            shape for shape in self.layers() if "$ref" not in shape.schema and not _choices(shape.schema)
        ]
        return found or [Shape()]

    def inner(self, schema: Schema) -> Shape:
        """Make the shape of a schema inside the same document."""
        return Shape(schema, self.root)

    @property
    def kinds(self) -> frozenset[str]:
        """The JSON types that the value may have."""
        return frozenset[str]().union(*(_kinds(variant.schema) for variant in self.variants()))

    @property
    def items(self) -> Shape:
        """The shape of a list's items."""
        for variant in self.variants():
            if variant.item is not None:
                return variant.item
            if "items" in variant.schema:
                return variant.inner(as_schema(variant.schema["items"]))
        return Shape()

    def child(self, key: str | int) -> Shape | None:
        """Give the shape of one key or item; None when there can be no such thing."""
        if isinstance(key, int):
            return self._at(key) if "array" in self.kinds else None
        found = [shape for variant in self.variants() if (shape := variant.of_key(key))]
        if len(found) < 2:
            return found[0] if found else None
        return self.inner({"anyOf": [{**shape.schema} for shape in found]})

    def _at(self, index: int) -> Shape:
        for variant in self.variants():
            fixed = _list(variant.schema.get("prefixItems"))
            if 0 <= index < len(fixed):
                return variant.inner(as_schema(fixed[index]))
        return self.items

    def of_key(self, key: str) -> Shape | None:
        """Give the shape of a key of this very schema."""
        if self.parts is not None:
            return self.parts.get(key)
        if "object" not in _kinds(self.schema):
            return None
        known = as_schema(self.schema.get("properties"))
        if key in known:
            return self.inner(as_schema(known[key]))
        extra = self.schema.get("additionalProperties", not known)
        return None if extra is False else self.inner(as_schema(extra))

    @property
    def keys(self) -> list[str]:
        """The keys that are known."""
        found: list[str] = []
        for variant in self.variants():
            found.extend(variant.parts or as_schema(variant.schema.get("properties")))
        return found

    @property
    def required(self) -> list[str]:
        """The keys that must be there, when there is only one alternative."""
        variants = self.variants()
        return [*as_texts(variants[0].schema.get("required"))] if len(variants) == 1 else []

    @property
    def own_slots(self) -> frozenset[str]:
        """The sensitive slots that the value itself may fill."""
        marks = (shape.schema.get(SLOT_KEY) for shape in self.layers())
        return frozenset(mark for mark in marks if isinstance(mark, str))

    def vouches_for(self, slot: str) -> bool:
        """Tell whether the agent that makes the value says that it may fill a slot."""
        if self.schema.get(SLOT_KEY) == slot:
            return True
        return len(self.variants()) == 1 and self.own_slots == frozenset({slot})

    def slots(self) -> list[str]:
        """Give every slot at this place or anywhere below it."""
        found: set[str] = set()
        waiting: list[Shape] = [self]
        seen: set[int] = set()
        while waiting:
            shape = waiting.pop()
            if id(shape.schema) in seen:
                continue
            seen.add(id(shape.schema))
            found |= shape.own_slots
            for variant in shape.variants():
                waiting.extend(variant.below())
        return sorted(found)

    def below(self) -> Iterator[Shape]:
        """Yield the shapes directly below this very schema."""
        for value in as_schema(self.schema.get("properties")).values():
            yield self.inner(as_schema(value))
        for key in ("items", "additionalProperties"):
            if isinstance(value := self.schema.get(key), dict):
                yield self.inner(value)
        for value in _list(self.schema.get("prefixItems")):
            yield self.inner(as_schema(value))

    def document(self) -> dict[str, JsonValue]:
        """Give a schema that stands alone."""
        definitions = self.root.get("$defs")
        return {**self.schema} if definitions is None else {**self.schema, "$defs": definitions}


def _choices(schema: Schema) -> list[JsonValue]:
    return [choice for key in ("anyOf", "oneOf", "allOf") for choice in _list(schema.get(key))]


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _resolve(reference: str, root: Schema) -> Schema:
    value: JsonValue = {**root}
    for step in reference.removeprefix("#").split("/")[1:]:
        value = as_schema(value).get(step.replace("~1", "/").replace("~0", "~"))
    return as_schema(value)


def _kinds(schema: Schema) -> frozenset[str]:
    stated = schema.get("type")
    if isinstance(stated, str):
        names = frozenset({stated})
    elif isinstance(stated, list):
        names = frozenset(as_texts(stated))
    elif "const" in schema:
        names = frozenset({kind_of(schema["const"])})
    elif isinstance(choices := schema.get("enum"), list):
        names = frozenset(kind_of(choice) for choice in choices)
    else:
        names = KINDS
    return names | {"integer"} if "number" in names else names
