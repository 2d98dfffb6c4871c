"""What a benchmark measured, as JSON and as a table."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

__all__ = ["Row", "Sample", "machine", "percentile", "report", "table"]


@dataclass(frozen=True)
class Sample:
    """One run: seconds from the trigger to its end."""

    client_s: float
    """As the client saw it: from sending the trigger to reading a final state."""
    prefect_s: float
    """As Prefect recorded it: `end_time` minus `created`."""


@dataclass(frozen=True)
class Row:
    """All runs of one way to run."""

    key: str
    name: str
    samples: Sequence[Sample]
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    """Load average of the machine when the last run had ended."""

    def spread(self) -> dict[str, float]:
        """Give the middle and the slow end, in seconds."""
        client = [sample.client_s for sample in self.samples]
        prefect = [sample.prefect_s for sample in self.samples]
        return {
            "client_p50_s": statistics.median(client),
            "client_p95_s": percentile(client, 95),
            "prefect_p50_s": statistics.median(prefect),
            "prefect_p95_s": percentile(prefect, 95),
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the value that so many percent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def machine() -> dict[str, object]:
    """Describe what the numbers hold for."""
    return {
        "python": platform.python_version(),
        "prefect": version("prefect"),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
    }


def report(rows: Sequence[Row], ready: Mapping[str, float], loads: Mapping[str, float]) -> dict[str, object]:
    """Give everything in JSON types."""
    return {
        "machine": machine(),
        "load_average": {name: round(load, 2) for name, load in loads.items()},
        "ready_s": {name: round(seconds, 2) for name, seconds in ready.items()},
        "runs": {
            row.key: {
                "name": row.name,
                "load_average": round(row.load, 2),
                **{name: round(value, 3) for name, value in row.spread().items()},
                "samples": [asdict(sample) for sample in row.samples],
            }
            for row in rows
        },
    }


def table(rows: Sequence[Row]) -> str:
    """Write the runs as a markdown table; ratios are of client p50, to the first row."""
    base = rows[0].spread()["client_p50_s"]
    lines = [
        "| way to run | runs | client p50 | client p95 | Prefect p50 | Prefect p95 | ratio | load |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{value:.3f} s" for value in row.spread().values()]
        ratio = f"{row.spread()['client_p50_s'] / base:.1f}"
        lines.append(f"| {row.name} | {len(row.samples)} | {' | '.join(cells)} | {ratio} | {row.load:.1f} |")
    return "\n".join(lines)
