"""Scan repositories side by side and send one summary: agents composed in plain Python.

`python flows/nightly_scan.py REPOSITORY...` runs it once.
"""

from __future__ import annotations

import asyncio
import sys

from prefect import allow_failure, flow
from prefect.client.schemas.objects import State

from penstock.errors import RunError
from penstock.tasks import as_task
from penstock_agents.notifier import notify
from penstock_agents.security_scanner import ScanOutput, Severity, scan

scan_repository = as_task(scan, task_run_name="scan {repository_path}")
tell_people = as_task(notify, task_run_name="tell people")


@flow(name="nightly-scan")
async def nightly_scan(
    repositories: list[str], targets: list[str], severity: Severity = Severity.WARNING
) -> dict[str, str]:
    """Scan repositories and tell people what was found.

    Args:
        repositories: Paths of git checkouts on the worker.
        targets: Where the summary goes: log, or block:<name>.
        severity: Least severe finding that counts.
    Returns:
        What was found, in words, by repository.
    Raises:
        RunError: A repository could not be scanned; the summary has been sent all the same.
    """
    scans = (
        scan_repository(repository_path=path, min_severity=severity, return_state=True)
        for path in repositories
    )
    ends: dict[str, State[ScanOutput]] = dict(zip(repositories, await asyncio.gather(*scans), strict=True))
    lost = [path for path, state in ends.items() if not state.is_completed()]
    words = {path: await _in_words(state) for path, state in ends.items()}
    await tell_people(
        title=f"Nightly scan: {len(ends) - len(lost)} of {len(ends)} repositories scanned",
        body="\n".join(f"{path}: {found}" for path, found in words.items()),
        level="failure" if lost else "info",
        targets=targets,
        wait_for=[allow_failure(state) for state in ends.values()],
    )
    if lost:
        raise RunError(f"not scanned: {', '.join(lost)}")
    return words


async def _in_words(state: State[ScanOutput]) -> str:
    if not state.is_completed():
        return f"not scanned: {state.message}"
    found = (await state.aresult()).summary
    return f"{found.total} findings, {found.critical} of them critical"


if __name__ == "__main__":
    asyncio.run(nightly_scan(sys.argv[1:], ["log"]))
