"""Plain tables for people: columns as wide as they need, no borders."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from penstock.cli.text import one_line

__all__ = ["print_table"]

_WIDEST = 72


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a head; long last columns are cut."""
    lines = [["" if cell is None else one_line(cell) for cell in row] for row in (head, *rows)]
    widths = [min(_WIDEST, max(len(line[index]) for line in lines)) for index in range(len(head))]
    for line in lines:
        cells = [_fit(cell, width) for cell, width in zip(line, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def _fit(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else f"{cell[: width - 1]}…"
