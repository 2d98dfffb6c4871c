"""Revisions: one text per meaning, its digest, and what changed between two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from penstock.workflow.evaluation import show_path
from penstock.workflow.source import Path
from penstock.workflow.spec import Workflow

_SHOWN = 200


@dataclass(frozen=True)
class Change:
    """One difference between two revisions."""

    path: str
    """Where, as in `nodes.scan.timeout`."""
    old: str | None
    """JSON text; None when it is new."""
    new: str | None
    """JSON text; None when it is gone."""

    def __str__(self) -> str:
        if self.old is None:
            return f"+ {self.path}: {self.new}"
        if self.new is None:
            return f"- {self.path}: {self.old}"
        return f"~ {self.path}: {self.old} -> {self.new}"


def canonical_data(workflow: Workflow) -> dict[str, JsonValue]:
    """Give a workflow as plain data, without what only repeats a default."""
    return workflow.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def canonical_json(workflow: Workflow) -> str:
    """Write a workflow so that the same meaning gives the same text.

    The text is a workflow file itself; only the order of the keys is lost.
    """
    text = json.dumps(canonical_data(workflow), sort_keys=True, separators=(",", ":"), allow_nan=False)
    # JSON leaves this one character bare, and YAML does not take it.
    return text.replace("\x7f", "\\u007f")


def digest(workflow: Workflow) -> str:
    """Give the SHA-256 of the canonical text, in hexadecimal."""
    return hashlib.sha256(canonical_json(workflow).encode()).hexdigest()


def diff(old: Workflow, new: Workflow) -> list[Change]:
    """List what changed, ordered by path; nodes are matched by their id."""
    before, after = _by_name(canonical_data(old)), _by_name(canonical_data(new))
    return sorted(_compare(before, after, ()), key=lambda change: change.path)


def _by_name(data: dict[str, JsonValue]) -> dict[str, JsonValue]:
    named = {**data, "nodes": _by_id(data["nodes"])}
    branches = data.get("error_branches")
    if isinstance(branches, dict):
        named["error_branches"] = {name: _by_id(nodes) for name, nodes in branches.items()}
    return named


def _by_id(nodes: JsonValue) -> JsonValue:
    listed = nodes if isinstance(nodes, list) else []
    return {str(node["id"]): node for node in listed if isinstance(node, dict)}


def _compare(old: JsonValue, new: JsonValue, path: Path) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _compare_key(old, new, key, (*path, key))
    elif _text(old) != _text(new):
        yield Change(show_path(path), _show(old), _show(new))


def _compare_key(
    old: dict[str, JsonValue], new: dict[str, JsonValue], key: str, path: Path
) -> Iterator[Change]:
    if key not in new:
        yield Change(show_path(path), _show(old[key]), None)
    elif key not in old:
        yield Change(show_path(path), None, _show(new[key]))
    else:
        yield from _compare(old[key], new[key], path)


def _text(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _show(value: JsonValue) -> str:
    text = _text(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
