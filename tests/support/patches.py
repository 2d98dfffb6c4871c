"""What tests of the patcher share: diffs of changes, the state of a repository, and steps of git."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from penstock.contracts import Plan, ToolCall, ToolResult
from penstock.errors import AgentFailed
from penstock.sandbox import select
from penstock.settings import load_settings
from penstock.testing import AgentHarness
from penstock_agents.patcher import PatcherOutput, patch
from support.checkouts import Repository, demand

LINES = "".join(f"line {number}\n" for number in range(1, 30))
CHANGED = LINES.replace("line 15\n", "line fifteen\n")

Changes = Mapping[str, str | bytes | None]
"""Path -> new content; None for a file that goes."""

_TOLD_BY_GIT = re.compile(r"(objects|logs|refs)/(?!.*(\.lock$|tmp_)).*|index|packed-refs")
"""Files of git that hold what its commands tell, or objects and logs, which may stay."""


def diff_of(repository: Repository, changes: Changes) -> str:
    """Write changes, take their diff, and put everything back."""
    repository.write({name: content for name, content in changes.items() if content is not None})
    for name, content in changes.items():
        if content is None:
            (repository.root / name).unlink()
    repository.git("add", "--all")
    git = shutil.which("git") or "git"
    command = [git, "diff", "--cached", "-M"]
    done = subprocess.run(command, cwd=repository.root, check=True, capture_output=True)
    repository.git("reset", "--quiet", "--hard")
    return done.stdout.decode()


def state(root: Path) -> dict[str, str]:
    """Describe everything that must not change by accident: branches, index, files, what git leaves about."""
    git = shutil.which("git") or "git"

    def ask(*arguments: str) -> str:
        done = subprocess.run([git, *arguments], cwd=root, check=True, capture_output=True)
        return done.stdout.decode("utf-8", "replace")

    found = {"refs": ask("for-each-ref", "--format=%(refname) %(objectname) %(symref)")}
    folder = root / ".git" if (root / ".git").is_dir() else root
    if folder != root:
        found |= {"index": ask("ls-files", "--stage"), "status": ask("status", "--porcelain", "--ignored")}
    for path in sorted(root.rglob("*")):
        inside = folder in path.parents
        if not (inside and (path.is_dir() or _TOLD_BY_GIT.fullmatch(str(path.relative_to(folder))))):
            found[str(path.relative_to(root))] = _described(path)
    return found


def _described(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    content = repr(path.read_bytes()) if path.is_file() else "a folder"
    return f"{path.stat().st_mode:o} {content}"


def inputs(repository: Repository | Path, text: str, **options: Any) -> dict[str, Any]:
    """Give the inputs of the patcher."""
    root = repository.root if isinstance(repository, Repository) else repository
    return {"repository_path": str(root), "patch_content": text, **options}


async def apply(repository: Repository | Path, text: str, **options: Any) -> PatcherOutput:
    """Run the patcher."""
    return await AgentHarness(patch).run(inputs(repository, text, **options))


async def planned(repository: Repository | Path, text: str, **options: Any) -> Plan:
    """Let the patcher plan."""
    return await AgentHarness(patch).plan(inputs(repository, text, **options))


async def refused(repository: Repository | Path, text: str, **options: Any) -> AgentFailed:
    """Check that nothing is changed, and return the error."""
    root = repository.root if isinstance(repository, Repository) else repository
    before = state(root)
    with pytest.raises(AgentFailed) as caught:
        await apply(root, text, **options)
    assert state(root) == before
    assert not caught.value.retryable
    return caught.value


class Steps:
    """The machine's own sandbox, where something happens around one step of git.

    Args:
        step: The git command, such as `update-ref`.
        before: Done before it; what it raises is what the step raises.
        after: Done after it.
    """

    name = "bubblewrap"

    def __init__(
        self,
        step: str,
        *,
        before: Callable[[], Awaitable[None]] | None = None,
        after: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        demand(shutil.which("bwrap"), "bubblewrap")
        self.step = step
        self.before = before
        self.after = after
        self.met = 0
        self._sandbox = select(load_settings())

    async def run(self, call: ToolCall) -> ToolResult:
        """Run one tool."""
        mine = self.step in call.argv
        self.met += mine
        if mine and self.before is not None:
            await self.before()
        result = await self._sandbox.run(call)
        if mine and self.after is not None:
            await self.after()
        return result
