"""A repository full of secrets is scanned by a real stack; nothing of them may be kept anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from agents.test_canaries import CANARIES, FILES
from engine.test_runs import prefect_state, run, task_runs
from penstock.engine.library import shipped_workflows
from penstock.sandbox import tools
from support.checkouts import Repository, demand
from support.stack import StackUnderTest

pytestmark = pytest.mark.integration


async def rows_that_hold(services: Any, words: list[str]) -> list[str]:
    """Name the tables, Prefect's and ours, that have one of the words in any column."""
    listed = await services.database.fetch(
        text("SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'penstock')")
    )
    found: list[str] = []
    for row in listed:
        name = f'"{row["schemaname"]}"."{row["tablename"]}"'
        query = text(f"SELECT count(*) AS n FROM {name} AS t WHERE t::text ~ :words")  # noqa: S608  names of tables
        counted = await services.database.fetch(query, {"words": "|".join(words)})
        if counted[0]["n"]:
            found.append(name)
    return found


def files_that_hold(folder: Path, words: list[str]) -> list[str]:
    """Name the files below a folder, the database's own left out, that hold one of the words."""
    return [
        str(file)
        for file in folder.rglob("*")
        if file.is_file()
        and "postgres" not in file.relative_to(folder).parts
        and any(word.encode() in file.read_bytes() for word in words)
    ]


async def test_scanned_secrets_are_kept_nowhere(services: Any, stack: StackUnderTest, tmp_path: Path) -> None:
    demand(not tools.missing(tools.tools_dir(stack.settings)), "the scanners' environment")
    repository = Repository(tmp_path / "repository")
    repository.commit(FILES)
    library = next(path for path in shipped_workflows() if path.stem == "security-scan")

    shown = await run(services, library.read_text(), repository=str(repository.root))
    await prefect_state(services, shown)
    await task_runs(services, shown)

    words = sorted(
        {canary[:8] for canary in CANARIES.values()} | {canary[-8:] for canary in CANARIES.values()}
    )
    assert shown["state"] == "completed", shown["message"]
    assert shown["outputs"]["summary"]["critical"] >= 5
    assert [word for word in words if word in json.dumps(shown)] == []
    assert files_that_hold(Path(stack.environment["PENSTOCK_HOME"]), words) == []
    assert await rows_that_hold(services, words) == []
    assert await rows_that_hold(services, [str(repository.root)]) != [], "the search itself must find things"
