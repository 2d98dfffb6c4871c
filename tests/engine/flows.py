"""Small workflows for the engine's tests."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4


def workflow(nodes: list[dict[str, Any]], name: str | None = None, **rest: Any) -> str:
    """Write a workflow file (JSON is YAML) with a name of its own."""
    return json.dumps(
        {
            "apiVersion": "penstock/v1",
            "kind": "Workflow",
            "metadata": {"name": name or f"test-{uuid4().hex[:8]}x".replace("0x", "x")},
            "nodes": nodes,
            **rest,
        }
    )


def node(id_: str, agent: str = "echo", inputs: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    """Write one node."""
    return {"id": id_, "agent": agent, "with": inputs or {}, **rest}
