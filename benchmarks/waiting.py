"""What a thousand runs cost that wait for approval, and how fast one goes on once it is approved.

`python benchmarks/waiting.py [--runs N] [--json FILE]` starts a stack of its own on a temporary home,
lets the runs come to their gates, measures, prints a table and ends everything it started. It takes
about five minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from figures import machine, percentile
from idle_run import Bench, stack
from processes import command, until

WARM = 30
"""Runs that come to their gates before anything is measured."""
PAGES = 100
APPROVED = 60
AT_ONCE = 25
"""Runs that are started before the next look at how many wait."""
WORKFLOW = {
    "apiVersion": "penstock/v1",
    "kind": "Workflow",
    "metadata": {"name": "waiting"},
    "inputs": {"number": {"type": "integer"}},
    "nodes": [
        {"id": "tell", "agent": "notifier", "with": {"title": "run {{ inputs.number }}"}, "approval": {}},
    ],
}


@dataclass(frozen=True)
class Found:
    """What was measured."""

    runs: int
    growth_mb: Mapping[str, float]
    """By process, from the warm stack to all runs waiting."""
    busy_runs: int
    """Runs that hold a place on the worker while all wait."""
    worker_children: int
    """Processes of the worker while all wait."""
    inbox_s: list[float]
    list_s: list[float]
    decided_to_started_s: list[float]
    """From the decision to the start of the node, both by the clock of the database."""
    clicked_to_started_s: list[float]
    """From sending the decision to seeing that the node has started or ended."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="runs that wait")
    parser.add_argument("--json", type=Path, help="file that gets every number")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-benchmark-") as folder:
        # The embedded database runs as an account of its own when we are root.
        Path(folder).chmod(0o711)
        with stack(Path(folder)) as (_, bench):
            found = measure(bench, options.runs)
    print(table(found))
    print(f"load average {os.getloadavg()[0]:.2f} afterwards")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **asdict(found)}, indent=2) + "\n")


def measure(bench: Bench, count: int) -> Found:
    """Let the runs wait, then look at what they cost."""
    file = bench.home / "waiting.yaml"
    file.write_text(json.dumps(WORKFLOW))
    command(["-m", "penstock.cli.main", "workflows", "apply", str(file)], bench.penstock_env, bench.home)
    start(bench, range(WARM))
    open_page(bench, "/approvals", 20)
    before = memory(bench)
    start(bench, range(WARM, count))
    inbox = open_page(bench, "/approvals", PAGES)
    listed = open_page(bench, "/api/approvals?limit=50", PAGES)
    after = memory(bench)
    busy = states(bench, "PENDING") + states(bench, "RUNNING")
    children = len(processes(bench)["worker"].children(recursive=True))
    decided, clicked = approve(bench)
    growth = {name: round(after[name] - before[name], 1) for name in after}
    return Found(count, growth, busy, children, inbox, listed, decided, clicked)


def start(bench: Bench, numbers: range) -> None:
    """Start a run for each number and wait until all of them wait."""
    for number in numbers:
        answer = bench.gateway.post("/api/workflows/waiting/trigger", json={"inputs": {"number": number}})
        answer.raise_for_status()
        if number % AT_ONCE == 0:
            _all_wait(bench, number + 1)
    _all_wait(bench, numbers.stop)


def _all_wait(bench: Bench, count: int) -> None:
    until(lambda: states(bench, "PAUSED") >= count, f"{count} waiting runs", timeout_s=300, pause_s=0.2)


def states(bench: Bench, kind: str) -> int:
    """Count Prefect's runs in a state of some type."""
    wanted = {"flow_runs": {"state": {"type": {"any_": [kind]}}}}
    return int(bench.prefect.post("/flow_runs/count", json=wanted).raise_for_status().json())


def processes(bench: Bench) -> dict[str, psutil.Process]:
    """Find the processes of the stack by what they are."""
    stack_file = json.loads((bench.home / "home" / "stack.json").read_text())
    found: dict[str, psutil.Process] = {}
    for child in psutil.Process(stack_file["pid"]).children():
        words = child.cmdline()
        for name in ("worker", "gateway", "penstock.engine.server"):
            if name in words:
                found[name.rpartition(".")[2]] = child
    return found


def memory(bench: Bench) -> dict[str, float]:
    """Give the resident memory of each process of the stack, in megabytes."""
    return {name: process.memory_info().rss / 1e6 for name, process in processes(bench).items()}


def open_page(bench: Bench, path: str, times: int) -> list[float]:
    """Open a page again and again; gives the seconds of each."""
    found: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        bench.gateway.get(path).raise_for_status()
        found.append(time.perf_counter() - began)
    return found


def approve(bench: Bench) -> tuple[list[float], list[float]]:
    """Approve some of the requests, one after the other, at random moments."""
    chance = random.Random(APPROVED)  # noqa: S311  the same ones every time
    requests = chance.sample(list(_open_requests(bench)), APPROVED)
    decided: list[float] = []
    clicked: list[float] = []
    for request in requests:
        time.sleep(chance.uniform(0, 0.3))
        began = time.perf_counter()
        answer = bench.gateway.post(f"/api/approvals/{request['id']}/respond", json={"decision": "approve"})
        said = datetime.fromisoformat(answer.raise_for_status().json()["decided_at"])
        started = _started(bench, request["run_id"])
        clicked.append(time.perf_counter() - began)
        decided.append((started - said).total_seconds())
    return decided, clicked


def _open_requests(bench: Bench) -> Iterator[Mapping[str, Any]]:
    cursor: str | None = None
    while True:
        more = {"cursor": cursor} if cursor else {}
        page = bench.gateway.get("/api/approvals", params={"limit": 200, **more}).raise_for_status().json()
        yield from page["approvals"]
        cursor = page["cursor"]
        if cursor is None:
            return


def _started(bench: Bench, run_id: str) -> datetime:
    def look() -> str | None:
        nodes = bench.gateway.get(f"/api/runs/{run_id}").raise_for_status().json()["nodes"]
        node = nodes["tell"]
        return node["started_at"] if node["state"] in {"running", "succeeded"} else None

    return datetime.fromisoformat(str(_first(look, run_id)))


def _first(look: Callable[[], str | None], run_id: str) -> str | None:
    seen: list[str] = []

    def there() -> bool:
        seen.extend(found for found in (look(),) if found)
        return bool(seen)

    until(there, f"run {run_id}", timeout_s=60, pause_s=0.01)
    return seen[0]


def table(found: Found) -> str:
    """Write what was found as a markdown table."""
    rows = [
        ("runs that wait", str(found.runs)),
        ("runs in a worker's hands meanwhile", str(found.busy_runs)),
        ("processes of the worker meanwhile", str(found.worker_children)),
        *((f"memory growth of the {name}", f"{mb:+.1f} MB") for name, mb in found.growth_mb.items()),
        *_spread("inbox page", found.inbox_s),
        *_spread("list of 50 requests, JSON", found.list_s),
        *_spread("decision → node starts", found.decided_to_started_s),
        *_spread("click → node seen to start", found.clicked_to_started_s),
    ]
    return "\n".join(["| what | measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _spread(name: str, samples: list[float]) -> list[tuple[str, str]]:
    middle, slow = statistics.median(samples), percentile(samples, 95)
    return [(f"{name}, {len(samples)}", f"p50 {middle:.3f} s, p95 {slow:.3f} s")]


if __name__ == "__main__":
    main()
