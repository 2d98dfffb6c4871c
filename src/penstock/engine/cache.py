"""Reuse of outputs: the same agent in the same version with the same inputs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from pydantic import BaseModel

from penstock.contracts import Agent
from penstock.engine.facts import Unit
from penstock.engine.outputs import OutputStore
from penstock.engine.scheduler import NodeResult
from penstock.store.cache import cached, remember
from penstock.store.database import Database
from penstock.store.states import NodeState

__all__ = ["OutputCache", "StoreCache", "cache_key"]


def cache_key(agent: Agent, params: BaseModel) -> str:
    """Give the SHA-256 of what decides over an output."""
    bound = {"agent": agent.name, "version": agent.version, "inputs": params.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


class OutputCache(Protocol):
    """Where outputs are kept for reuse."""

    async def find(self, key: str) -> NodeResult | None:
        """Give a kept output as the result of a node; None when there is none or it is too old."""
        ...

    async def keep(self, key: str, unit: Unit, result: NodeResult) -> None:
        """Keep an output as long as the node's `cache.ttl` says."""
        ...


@dataclass(frozen=True)
class StoreCache:
    """Outputs kept in the store."""

    database: Database
    run_id: UUID
    outputs: OutputStore

    async def find(self, key: str) -> NodeResult | None:
        """Give a kept output as the result of a node."""
        found = await cached(self.database, key)
        if found is None:
            return None
        output = await self.outputs.get(found.output_ref) if found.output_ref else found.output
        return NodeResult(NodeState.SUCCEEDED, output=output, reason=f"cached by run {found.run_id}")

    async def keep(self, key: str, unit: Unit, result: NodeResult) -> None:
        """Keep an output."""
        spec = unit.node.spec
        if spec.cache is None:
            return
        inline, reference = await self.outputs.put(f"cache/{key[:2]}", key, result.output)
        await remember(
            self.database,
            key,
            agent=spec.agent or "",
            run_id=self.run_id,
            output=inline,
            output_ref=reference,
            ttl_s=spec.cache.ttl,
        )
