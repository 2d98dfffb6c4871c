"""Rules for every test: nothing is skipped in silence on CI, nothing runs without a sandbox."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any, cast

import pytest

pytest_plugins = ["support.stack_fixtures"]

_WHO_RUNS = ("needs root", "only root can become somebody else")
"""Reasons to skip that depend on who runs the tests, not on what is installed."""


def pytest_configure() -> None:
    """Refuse to run where tools would run unprotected: such a pass would prove nothing."""
    if os.environ.get("PENSTOCK_SANDBOX", "").lower() == "none":
        raise pytest.UsageError("unset PENSTOCK_SANDBOX: with the sandbox switched off no test may pass")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one on CI, where nothing may be missing."""
    report = yield
    reason: Any = report.longrepr
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        text = str(cast("tuple[Any, ...]", reason)[2]) if isinstance(reason, tuple) else str(reason)
        if not text.endswith(_WHO_RUNS):
            report.outcome = "failed"
            report.longrepr = f"skipped, which CI does not accept: {text}"
    return report
