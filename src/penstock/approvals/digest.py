"""What a decision binds: a digest over everything that says what will run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from penstock.contracts import Agent, Plan

__all__ = ["digest_of_all", "semantic_digest"]


def semantic_digest(
    agent: Agent, inputs: Mapping[str, Any], plan: Plan | None, *, workflow: str, revision: int
) -> str:
    """Digest what will run.

    Args:
        inputs: The rendered inputs as the agent's model dumps them, JSON types only.
        plan: What the agent would do; None when it makes no plans.
        workflow: Name of the workflow.
        revision: Number of its revision.
    Returns:
        SHA-256 in hex. It changes whenever the workflow's revision, the agent's version, an input
        or anything of the plan does.
    """
    bound = {
        "workflow": workflow,
        "revision": revision,
        "agent": agent.name,
        "version": agent.version,
        "inputs": dict(inputs),
        "plan": None if plan is None else asdict(plan),
    }
    canonical = json.dumps(bound, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest_of_all(digests: Mapping[str, str]) -> str:
    """Digest the digests of all items of a node, by their keys."""
    canonical = json.dumps(dict(digests), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
