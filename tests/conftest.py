"""Rules for every test: nothing is skipped in silence on CI, nothing runs without a sandbox."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import Any, cast

import pytest

pytest_plugins = ["support.stack_fixtures"]

_EXCUSES = re.compile(
    r"(needs root|only root can become somebody else|the published contract \S+ is missing)$"
)
"""Reasons to skip that no installation mends: who runs the tests, and files that are not ours to ship."""


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
        if not _EXCUSES.search(text):
            report.outcome = "failed"
            report.longrepr = f"skipped, which CI does not accept: {text}"
    return report
