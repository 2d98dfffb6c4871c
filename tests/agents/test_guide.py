from __future__ import annotations

import asyncio
import inspect
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from penstock.contracts import AgentContext
from penstock.sandbox import select
from penstock.settings import load_settings
from support.checkouts import demand

_GUIDE = Path(__file__).parents[2] / "docs" / "AGENT_DEVELOPMENT.md"


@pytest.fixture
def guide() -> Iterator[dict[str, Any]]:
    """Give the names that the guide's examples define, run as one module."""
    module = ModuleType("the_guide")
    sys.modules[module.__name__] = module
    for block in re.findall(r"```python\n(.*?)```", _GUIDE.read_text(), re.DOTALL):
        exec(compile(block, _GUIDE.name, "exec"), vars(module))  # noqa: S102  our own guide
    yield vars(module)
    del sys.modules[module.__name__]


@pytest.mark.parametrize(
    "name", ["test_count_counts", "test_write_can_be_undone", "test_agents_hold_the_contract"]
)
async def test_guide_examples_hold(name: str, guide: dict[str, Any], tmp_path: Path) -> None:
    test = guide[name]

    result = test(tmp_path) if inspect.signature(test).parameters else test()

    if inspect.isawaitable(result):
        await result


async def test_guide_tool_example_runs(guide: dict[str, Any], tmp_path: Path) -> None:
    demand(shutil.which("bwrap"), "bubblewrap")
    await asyncio.to_thread((tmp_path / "notes.txt").write_text, "a\nb\n")

    class Services:
        sandbox = staticmethod(lambda: select(load_settings()))

    services: Any = Services()
    ctx = AgentContext("r", "n", 1, dry_run=False, workspace=tmp_path, logger=services, services=services)

    assert await guide["lines_of"](ctx, tmp_path) == 2
