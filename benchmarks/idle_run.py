"""How long one run takes on an idle machine: Penstock next to plain Prefect, on one server.

`python benchmarks/idle_run.py [--json FILE]` starts a stack of its own on a temporary home,
measures, prints a table and ends everything it started. It takes about three minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from figures import Row, Sample, report, table
from processes import command, running, until

HERE = Path(__file__).parent
WORKFLOW = """\
apiVersion: penstock/v1
kind: Workflow
metadata: {name: benchmark}
nodes:
  - id: tell
    agent: notifier
    with: {title: benchmark}
"""
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
RUNS = {"penstock": 20, "serve": 4, "quick": 3, "in_process": 10}
POLL = "PREFECT_RUNNER_POLL_FREQUENCY"
AS_INSTALLED_S = 10.0
"""How often Prefect's `serve` asks for runs when nobody changes it."""


@dataclass(frozen=True)
class Bench:
    """A running stack, and how to talk to it."""

    home: Path
    gateway: httpx.Client
    prefect: httpx.Client
    penstock_env: dict[str, str]
    prefect_env: dict[str, str]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file that gets every number")
    options = parser.parse_args()
    loads = {"before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="penstock-benchmark-") as folder:
        # The embedded database runs as an account of its own when we are root.
        Path(folder).chmod(0o711)
        ready, rows = measure(Path(folder))
    loads["after"] = os.getloadavg()[0]
    print(table(rows))
    print(f"\npenstock up: first start {ready['first']:.1f} s, second start {ready['second']:.1f} s")
    print(f"load average {loads['before']:.2f} before, {loads['after']:.2f} after")
    if options.json:
        options.json.write_text(json.dumps(report(rows, ready, loads), indent=2) + "\n")


def measure(folder: Path) -> tuple[dict[str, float], list[Row]]:
    """Start the stack twice and measure on the second one."""
    with stack(folder) as (first, _):
        pass
    with stack(folder) as (second, bench):
        rows = [
            penstock_runs(bench),
            in_process_runs(bench),
            served_runs(bench, "serve", "serve() as installed", {}),
            served_runs(bench, "serve_1s", "serve() polling every second", {POLL: "1"}),
            worker_runs(bench),
        ]
    return {"first": first, "second": second}, rows


@contextmanager
def stack(folder: Path) -> Generator[tuple[float, Bench]]:
    """Run `penstock up`; gives the seconds until it was ready."""
    gateway, prefect = free_port(), free_port()
    api = f"http://127.0.0.1:{prefect}/api"
    ours = ("PREFECT_", "PENSTOCK_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    plain["DO_NOT_TRACK"] = "1"
    env = {
        **plain,
        "PENSTOCK_HOME": str(folder / "home"),
        "PENSTOCK_PORT": str(gateway),
        "PENSTOCK_PREFECT__PORT": str(prefect),
    }
    log = folder / "up.log"
    log.unlink(missing_ok=True)
    with running(["-m", "penstock.cli.main", "up"], env, log):
        seconds = until(lambda: b"ready in" in log.read_bytes(), "penstock up", timeout_s=120, pause_s=0.02)
        token = command(["-m", "penstock.cli.main", "login", "--print-token"], env, folder).strip()
        signed_in = {"Authorization": f"Bearer {token}"}
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{gateway}", headers=signed_in) as to_gateway,
            httpx.Client(base_url=api) as to_prefect,
        ):
            prefect_env = {**plain, "PREFECT_API_URL": api, "PREFECT_HOME": str(folder / "prefect")}
            yield seconds, Bench(folder, to_gateway, to_prefect, env, prefect_env)


def free_port() -> int:
    """Give a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def penstock_runs(bench: Bench) -> Row:
    """Trigger a single-agent workflow through the gateway, one run after the other."""
    samples = workflow_samples(bench, "benchmark", WORKFLOW, RUNS["penstock"])
    return Row("penstock", "Penstock, through the gateway", samples)


def workflow_samples(bench: Bench, name: str, text: str, count: int, *, look_s: float = 0.01) -> list[Sample]:
    """Run a workflow again and again, one run after the other.

    Args:
        look_s: Seconds between two looks at the run; looking costs the machine time as well.
    """
    file = bench.home / f"{name}.yaml"
    file.write_text(text)
    command(["-m", "penstock.cli.main", "workflows", "apply", str(file)], bench.penstock_env, bench.home)

    def trigger() -> str:
        answer = bench.gateway.post(f"/api/workflows/{name}/trigger", json={"inputs": {}})
        return answer.raise_for_status().json()["run_id"]

    def ended(run_id: str) -> bool:
        state = bench.gateway.get(f"/api/runs/{run_id}").raise_for_status().json()["state"]
        if state in {"failed", "rejected", "cancelled"}:
            raise RuntimeError(f"run {run_id} {state}")
        return state == "completed"

    one_run(bench, trigger, ended, look_s=look_s)  # the first one imports what all others use
    return repeat(bench, count, 1.0, trigger, ended, look_s=look_s)


def served_runs(bench: Bench, key: str, name: str, settings: dict[str, str]) -> Row:
    """Run deployments of Prefect's `serve`."""
    env = {**bench.prefect_env, **settings}
    with running([str(HERE / "plain_flow.py"), key], env, bench.home / f"{key}.log"):
        trigger = trigger_of(bench, deployment_id(bench, f"plain/{key}"))
        count = RUNS["quick"] if settings else RUNS["serve"]
        poll_s = float(settings.get(POLL, AS_INSTALLED_S))
        return Row(key, name, repeat(bench, count, poll_s, trigger, prefect_ended(bench)))


def worker_runs(bench: Bench) -> Row:
    """Run a deployment on a stock process worker that polls every second."""
    prefect = ["-m", "prefect"]
    env = {**bench.prefect_env, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    command([*prefect, "work-pool", "create", "benchmark", "--type", "process"], env, HERE)
    deploy = ["deploy", "plain_flow.py:plain", "--name", "worker", "--pool", "benchmark", "--no-prompt"]
    command([*prefect, *deploy], env, HERE)
    with running([*prefect, "worker", "start", "--pool", "benchmark"], env, bench.home / "worker.log"):
        until(lambda: workers_online(bench), "the worker", timeout_s=60, pause_s=0.1)
        trigger = trigger_of(bench, deployment_id(bench, "plain/worker"))
        samples = repeat(bench, RUNS["quick"], 1.0, trigger, prefect_ended(bench))
        return Row("worker_1s", "process worker polling every second", samples)


def in_process_runs(bench: Bench) -> Row:
    """Call the flow in this process, after a first call that warms it up."""
    os.environ.update(bench.prefect_env)
    from plain_flow import plain  # noqa: PLC0415  Prefect reads the environment when it is imported

    call: Any = plain  # its type knows nothing of `return_state`

    async def work() -> list[tuple[float, str]]:
        calls: list[tuple[float, str]] = []
        for _ in range(RUNS["in_process"] + 1):
            began = time.perf_counter()
            state = await call(return_state=True)
            calls.append((time.perf_counter() - began, str(state.state_details.flow_run_id)))
        return calls[1:]

    samples = [Sample(took, recorded_s(bench, run_id)) for took, run_id in asyncio.run(work())]
    return Row("in_process", "warm async flow called in process", samples)


def repeat(
    bench: Bench,
    count: int,
    pause_s: float,
    trigger: Callable[[], str],
    ended: Callable[[str], bool],
    *,
    look_s: float = 0.01,
) -> list[Sample]:
    """Make runs one after the other, each at a random moment between two polls."""
    chance = random.Random(count)  # noqa: S311  the same moments every time
    samples: list[Sample] = []
    for _ in range(count):
        time.sleep(chance.uniform(0, pause_s))
        samples.append(one_run(bench, trigger, ended, look_s=look_s))
    return samples


def one_run(
    bench: Bench, trigger: Callable[[], str], ended: Callable[[str], bool], *, look_s: float = 0.01
) -> Sample:
    """Make one run and wait for its end."""
    began = time.perf_counter()
    run_id = trigger()
    until(lambda: ended(run_id), f"run {run_id}", timeout_s=60, pause_s=look_s)
    took = time.perf_counter() - began
    return Sample(took, recorded_s(bench, run_id))


def recorded_s(bench: Bench, run_id: str) -> float:
    """Give how long a run took from its creation to its end, as Prefect recorded it."""
    until(lambda: prefect_ended(bench)(run_id), f"run {run_id} in Prefect", timeout_s=30, pause_s=0.05)
    run = bench.prefect.get(f"/flow_runs/{run_id}").raise_for_status().json()
    created, end = (datetime.fromisoformat(run[name]) for name in ("created", "end_time"))
    return (end - created).total_seconds()


def prefect_ended(bench: Bench) -> Callable[[str], bool]:
    """Ask Prefect whether a run has ended well."""

    def ended(run_id: str) -> bool:
        state = bench.prefect.get(f"/flow_runs/{run_id}").raise_for_status().json()["state_type"]
        if state in FINAL - {"COMPLETED"}:
            raise RuntimeError(f"run {run_id} {state}")
        return state == "COMPLETED"

    return ended


def trigger_of(bench: Bench, deployment: str) -> Callable[[], str]:
    """Start runs of a deployment through Prefect's API."""
    path = f"/deployments/{deployment}/create_flow_run"
    scheduled = {"state": {"type": "SCHEDULED"}}
    return lambda: bench.prefect.post(path, json=scheduled).raise_for_status().json()["id"]


def deployment_id(bench: Bench, name: str) -> str:
    """Give the id of a deployment, once it is there."""
    path = f"/deployments/name/{name}"
    until(lambda: bench.prefect.get(path).status_code == 200, name, timeout_s=60, pause_s=0.1)
    return bench.prefect.get(path).json()["id"]


def workers_online(bench: Bench) -> bool:
    """Whether the stock worker has said hello."""
    return bool(bench.prefect.post("/work_pools/benchmark/workers/filter", json={}).raise_for_status().json())


if __name__ == "__main__":
    main()
