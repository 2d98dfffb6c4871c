"""The workflows that Penstock ships."""

from __future__ import annotations

from pathlib import Path

import penstock

__all__ = ["shipped_workflows"]


def shipped_workflows() -> list[Path]:
    """Give the files of the shipped workflows, in a wheel and in a checkout alike."""
    package = Path(penstock.__file__).parent
    folders = (package / "library", package.parents[1] / "flows" / "library")
    for folder in folders:
        if folder.is_dir():
            return sorted(folder.glob("*.yaml"))
    return []
