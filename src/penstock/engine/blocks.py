"""Credentials blocks in Prefect: their types, and the block that a node's `blocks:` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client

from penstock.errors import AgentFailed
from penstock_blocks import BLOCKS

__all__ = ["load_block", "register_block_types"]


async def register_block_types() -> None:
    """Make our block types known to Prefect, so that people can fill them in its UI."""
    for block in BLOCKS:
        await block.aregister_type_and_schema()


async def load_block(blocks: Mapping[str, str], name: str) -> Any:
    """Load the Prefect block that stands under `name` in a node's `blocks:`.

    Raises:
        AgentFailed: The node names no such block, or Prefect has none or several of that name.
    """
    if name not in blocks:
        known = ", ".join(sorted(blocks)) or "none"
        raise AgentFailed(f"the node has no block {name!r} under `blocks:` (it has: {known})")
    return await Block.aload(f"{await _type_of(blocks[name])}/{blocks[name]}")


async def _type_of(block: str) -> str:
    """Find the type of a block by its name; a workflow file gives the name alone."""
    wanted = {"block_documents": {"name": {"any_": [block]}, "is_anonymous": {"eq_": False}}}
    async with get_client() as client:
        response = await client.request("POST", "/block_documents/filter", json=wanted)
    types = sorted(str(found["block_type"]["slug"]) for found in response.json())
    if not types:
        raise AgentFailed(f"Prefect has no block named {block!r}; make it in the Prefect UI under Blocks")
    if len(types) > 1:
        raise AgentFailed(
            f"Prefect has several blocks named {block!r} ({', '.join(types)}); rename all but one"
        )
    return types[0]
