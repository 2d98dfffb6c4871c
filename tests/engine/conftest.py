"""A stack whose people and policies a test rewrites; one for all tests of the engine that want it."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.ruling import Ruled, write_people
from support.postgres import database, database_url, postgres_server, postgres_template
from support.stack import PLUGIN, StackUnderTest, running

__all__ = ["database", "database_url", "postgres_server", "postgres_template"]


@pytest.fixture(scope="session")
def ruled_stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[StackUnderTest]:
    folder = tmp_path_factory.mktemp("ruled")
    people, policies = folder / "people.yaml", folder / "policies"
    policies.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(PLUGIN), *sys.path])
        write_people(folder)
        paths = {"PENSTOCK_PEOPLE": str(people), "PENSTOCK_POLICIES": str(policies)}
        with running(folder / "home", **paths) as started:
            settings = started.settings.model_copy(update={"people": people, "policies": policies})
            yield replace(started, settings=settings)


@pytest.fixture
async def ruled(ruled_stack: StackUnderTest) -> AsyncGenerator[Ruled]:
    assert ruled_stack.settings.people is not None
    async with ruled_stack.services() as services:
        opened = Ruled(services, ruled_stack, Path(ruled_stack.settings.people).parent)
        try:
            yield opened
        finally:
            opened.clear()
