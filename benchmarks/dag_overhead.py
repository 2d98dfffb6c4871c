"""What the engine adds per node: a chain of 20 nodes and 50 nodes side by side, next to plain Prefect.

`python benchmarks/dag_overhead.py [--json FILE]` starts a stack of its own on a temporary home,
measures, prints a table and ends everything it started. The agent does nothing but write a line to
the log, so all the time is the engine's and Prefect's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from figures import Sample, machine, percentile
from idle_run import Bench, stack, workflow_samples

RUNS = 10
LENGTH = 20
WIDTH = 50


@dataclass(frozen=True)
class Figure:
    """What one shape of workflow took."""

    name: str
    nodes: int
    run_p50_s: float
    run_p95_s: float
    per_node_ms: float
    """What a further node adds to the run's time, in milliseconds; median."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file that gets every number")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-benchmark-") as folder:
        # The embedded database runs as an account of its own when we are root.
        Path(folder).chmod(0o711)
        with stack(Path(folder)) as (_, bench):
            figures = measure(bench)
    print(table(figures))
    print(f"load average {os.getloadavg()[0]:.2f} afterwards")
    if options.json:
        found = {"machine": machine(), "figures": [asdict(figure) for figure in figures]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(bench: Bench) -> list[Figure]:
    """Run every shape; a run of one node is what all others are compared with."""
    look = {"look_s": 0.25}  # the times are those that Prefect recorded
    single = times(workflow_samples(bench, "one", workflow(1, chained=True), RUNS, **look))
    chain = times(workflow_samples(bench, "chain", workflow(LENGTH, chained=True), RUNS, **look))
    fan = times(workflow_samples(bench, "fan", workflow(WIDTH, chained=False), RUNS, **look))
    plain = plain_times(bench)
    base, plain_base = statistics.median(single), statistics.median(plain["one"])
    return [
        figure("Penstock, one node", 1, single, 0.0),
        figure("Penstock, a chain", LENGTH, chain, base),
        figure("Penstock, side by side", WIDTH, fan, base),
        figure("plain Prefect in process, one task", 1, plain["one"], 0.0),
        figure("plain Prefect in process, a chain", LENGTH, plain["chain"], plain_base),
        figure("plain Prefect in process, side by side", WIDTH, plain["fan"], plain_base),
    ]


def workflow(count: int, *, chained: bool) -> str:
    """Write a workflow of so many nodes."""
    nodes = [
        {
            "id": f"n{number}",
            "agent": "notifier",
            "with": {"title": f"step {number}"},
            "needs": [f"n{number - 1}"] if chained and number else [],
        }
        for number in range(count)
    ]
    name = "one" if count == 1 else "chain" if chained else "fan"
    head = {"apiVersion": "penstock/v1", "kind": "Workflow", "metadata": {"name": name}}
    return json.dumps({**head, "nodes": nodes})


def times(samples: Sequence[Sample]) -> list[float]:
    """Give how long runs took as Prefect recorded them, in seconds."""
    return [sample.prefect_s for sample in samples]


def plain_times(bench: Bench) -> Mapping[str, list[float]]:
    """Call flows of the same shapes in this process, in seconds."""
    os.environ.update(bench.prefect_env)
    import plain_flow  # noqa: PLC0415  Prefect reads the environment when it is imported

    calls: dict[str, tuple[Any, int]] = {
        "one": (plain_flow.chain, 1),
        "chain": (plain_flow.chain, LENGTH),
        "fan": (plain_flow.fan, WIDTH),
    }

    async def work() -> Mapping[str, list[float]]:
        found: dict[str, list[float]] = {}
        for name, (call, count) in calls.items():
            await call(count)  # the first one warms up
            found[name] = []
            for _ in range(RUNS):
                began = time.perf_counter()
                await call(count)
                found[name].append(time.perf_counter() - began)
        return found

    return asyncio.run(work())


def figure(name: str, nodes: int, took: Sequence[float], base: float) -> Figure:
    """Sum up the runs of one shape; `base` is what a run of one node takes, in seconds."""
    median = statistics.median(took)
    added = (median - base) / (nodes - 1) if nodes > 1 else median
    return Figure(name, nodes, median, percentile(took, 95), added * 1000)


def table(figures: Sequence[Figure]) -> str:
    """Write the figures as a markdown table."""
    lines = ["| shape | nodes | run p50 | run p95 | per further node |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.name} | {one.nodes} | {one.run_p50_s:.3f} s | {one.run_p95_s:.3f} s |"
        f" {one.per_node_ms:.0f} ms |"
        for one in figures
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
