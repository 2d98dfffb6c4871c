from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from penstock.engine.environment import api_url
from support.stack import PLUGIN, StackUnderTest


@pytest.fixture
def server(
    stack: StackUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[StackUnderTest]:
    """Make flows of this process run against the stack's Prefect server, in an empty folder."""
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN))  # for agents that run in a process of their own
    monkeypatch.chdir(tmp_path)
    url = api_url(stack.settings)
    with temporary_settings({PREFECT_API_URL: url, PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield stack
