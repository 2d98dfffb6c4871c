"""Fixtures of the one real stack that a test session shares."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from support.stack import PLUGIN, StackUnderTest, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[StackUnderTest]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(PLUGIN), *sys.path])
        with running(tmp_path_factory.mktemp("stack") / "home") as started:
            yield started


@pytest.fixture
async def services(stack: StackUnderTest) -> AsyncGenerator[Any]:
    async with stack.services() as opened:
        yield opened
