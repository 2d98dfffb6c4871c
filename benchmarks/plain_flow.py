"""The work of the benchmark in plain Prefect: a flow with one task that logs a line.

`python plain_flow.py NAME` serves it as a deployment of that name, as Prefect's guide shows.
"""

from __future__ import annotations

import asyncio
import sys

from prefect import flow, get_run_logger, task


@task
async def tell(title: str) -> list[str]:
    """Log a line."""
    get_run_logger().info("notification title=%s", title)
    return ["log"]


@flow
async def plain(title: str = "benchmark") -> list[str]:
    """Run the one task."""
    return await tell(title)


@flow
async def chain(length: int) -> None:
    """Run the task so many times, one after the other."""
    for number in range(length):
        await tell(f"step {number}")


@flow
async def fan(width: int) -> None:
    """Run the task so many times side by side."""
    await asyncio.gather(*(tell(f"item {number}") for number in range(width)))


if __name__ == "__main__":
    plain.serve(name=sys.argv[1])
