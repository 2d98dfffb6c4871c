"""Where node outputs that are too large for a database row are kept."""

from __future__ import annotations

import json
from typing import Any

from prefect.filesystems import WritableFileSystem

from penstock.errors import StoreError

__all__ = ["OutputStore"]


class OutputStore:
    """Keeps large outputs in a Prefect storage block.

    Args:
        storage: Any Prefect file system block.
        inline_bytes: Outputs up to this size stay in the database row.
    """

    def __init__(self, storage: WritableFileSystem, inline_bytes: int) -> None:
        self._storage = storage
        self._inline_bytes = inline_bytes

    async def put(self, run_id: str, node_id: str, output: Any) -> tuple[Any, str | None]:
        """Store an output; returns what goes into the row: `(output, None)` or `(None, reference)`."""
        raw = json.dumps(output, separators=(",", ":")).encode()
        if len(raw) <= self._inline_bytes:
            return output, None
        reference = f"outputs/{run_id}/{node_id}.json"
        await self._storage.write_path(reference, raw)
        return None, reference

    async def get(self, reference: str) -> Any:
        """Load an output.

        Raises:
            StoreError: It is gone from the storage.
        """
        try:
            return json.loads(await self._storage.read_path(reference))
        except (OSError, ValueError) as error:
            raise StoreError(f"the stored output {reference!r} cannot be read: {error}") from error
