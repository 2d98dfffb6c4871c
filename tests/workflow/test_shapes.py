from pydantic import JsonValue

from penstock.contracts import SLOT_KEY
from penstock.workflow.shapes import Shape

PATH: dict[str, JsonValue] = {"type": "string", SLOT_KEY: "path"}


def test_shape_knows_its_kinds() -> None:
    assert Shape.of({"enum": [1, "a"]}).kinds == {"integer", "string"}
    assert Shape.of({"type": ["number", "null"]}).kinds == {"integer", "number", "null"}
    assert Shape.of({"anyOf": [{"const": True}, {"type": "array"}]}).kinds == {"boolean", "array"}


def test_shape_follows_references_that_turn_in_a_ring() -> None:
    ring = Shape.of({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}})

    assert "object" in ring.kinds
    assert ring.slots() == []


def test_shape_finds_every_slot_below() -> None:
    shape = Shape.of(
        {
            "properties": {
                "a": {"type": "array", "prefixItems": [{"type": "integer"}, PATH]},
                "b": {"additionalProperties": {"type": "string", SLOT_KEY: "image"}},
                "c": {"anyOf": [{"type": "null"}, {"type": "string", SLOT_KEY: "url"}]},
            }
        }
    )

    assert shape.slots() == ["image", "path", "url"]


def test_shape_vouches_only_when_every_alternative_does() -> None:
    assert Shape.of(PATH).vouches_for("path")
    assert Shape.of({"$ref": "#/$defs/p", "$defs": {"p": PATH}}).vouches_for("path")
    assert not Shape.of({"anyOf": [PATH, {"type": "string"}]}).vouches_for("path")
    assert not Shape.of(PATH).vouches_for("command")
