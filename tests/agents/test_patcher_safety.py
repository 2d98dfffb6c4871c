"""What goes wrong halfway, hostile repositories, and secrets: nothing is left, lost or told."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.contracts import ToolCall
from penstock.errors import AgentFailed, NodeTimedOut, SandboxError, ToolKilled
from penstock.sandbox import select
from penstock.settings import load_settings
from penstock.testing import AgentHarness
from penstock_agents.patcher import PatcherOutput, patch
from support.checkouts import Repository, demand
from support.patches import CHANGED, LINES, Steps, diff_of, inputs, state

STEPS = (
    *("config", "for-each-ref", "ls-tree", "cat-file", "status", "check-attr", "init", "fast-import"),
    *("diff-tree", "unpack-objects", "read-tree", "update-ref"),
)


@pytest.fixture(autouse=True)
def bubblewrap() -> None:
    demand(shutil.which("bwrap"), "bubblewrap")


@pytest.fixture
def text(repository: Repository) -> str:
    repository.commit({"a.py": LINES, "gone": "g\n", "z": "1\n"})
    return diff_of(repository, {"a.py": CHANGED, "gone": None, "new/dir/f": "x", "z": "2\n"})


async def run(steps: Steps, repository: Repository, text: str, **options: Any) -> PatcherOutput:
    return await AgentHarness(patch, sandbox=steps, **options).run(inputs(repository, text))


def failing(error: Exception) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


# Stopped halfway


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_cancelled_run_leaves_nothing(
    repository: Repository, text: str, step: str, when: str, tmp_path: Path
) -> None:
    before = state(repository.root)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    tasks: list[asyncio.Task[PatcherOutput]] = []

    async def cancel() -> None:
        tasks[0].cancel()
        await asyncio.sleep(0)

    steps = Steps(step, **{when: cancel})
    tasks.append(asyncio.create_task(run(steps, repository, text, workspace=workspace)))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]

    assert steps.met
    assert state(repository.root) == before
    assert list(workspace.iterdir()) == []


async def test_run_cancelled_again_and_again_still_cleans_up(repository: Repository, text: str) -> None:
    before = state(repository.root)
    tasks: list[asyncio.Task[PatcherOutput]] = []

    async def cancel() -> None:
        for _ in range(3):
            tasks[0].cancel()
            await asyncio.sleep(0.01)

    tasks.append(asyncio.create_task(run(Steps("update-ref", before=cancel, after=cancel), repository, text)))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]

    assert state(repository.root) == before


async def test_run_that_takes_too_long_leaves_nothing(repository: Repository, text: str) -> None:
    before = state(repository.root)
    limit_s = 3.0

    async def dawdle() -> None:
        await asyncio.sleep(limit_s if steps.met == 1 else 0)

    steps = Steps("update-ref", before=dawdle)
    with pytest.raises(NodeTimedOut):
        await run(steps, repository, text, timeout_s=limit_s)

    assert state(repository.root) == before


@pytest.mark.parametrize("step", STEPS)
async def test_failed_step_leaves_nothing(repository: Repository, text: str, step: str) -> None:
    before = state(repository.root)
    steps = Steps(step, before=failing(ToolKilled("git was killed: it ran longer than 60 s")))

    with pytest.raises((AgentFailed, SandboxError), match="git was killed") as caught:
        await run(steps, repository, text)

    assert steps.met
    assert not caught.value.retryable
    assert state(repository.root) == before


async def test_git_killed_at_its_work_leaves_no_lock(repository: Repository, text: str) -> None:
    before = state(repository.root)

    async def be_killed() -> None:
        (repository.root / ".git" / "index.lock").touch()
        repository.write({"a.py": CHANGED, "new/dir/f": "x"})
        raise ToolKilled("git was killed: it ran longer than 60 s")

    with pytest.raises(AgentFailed, match="git was killed"):
        await run(Steps("read-tree", before=be_killed), repository, text)

    assert state(repository.root) == before


@pytest.mark.parametrize("step", ["read-tree", "update-ref"])
async def test_step_killed_after_it_was_done_counts_as_done(
    repository: Repository, text: str, step: str
) -> None:
    steps = Steps(step, after=failing(ToolKilled("git was killed: it ran longer than 60 s")))

    output = await run(steps, repository, text)

    assert repository.git("rev-parse", "main") == output.commit
    assert repository.git("status", "--porcelain") == ""


async def test_folder_that_cannot_be_written_leaves_nothing_half_done(
    repository: Repository, text: str
) -> None:
    repository.commit({"locked/f": "1\n"})
    text += diff_of(repository, {"locked/f": "2\n"})
    locked = repository.root / "locked"
    locked.chmod(0o555)
    before = state(repository.root)
    try:
        with pytest.raises(AgentFailed, match="the working tree could not be changed"):
            await AgentHarness(patch).run(inputs(repository, text))

        assert state(repository.root) == before
    finally:
        locked.chmod(0o755)


async def test_cancelled_undo_comes_to_its_end(repository: Repository, text: str) -> None:
    before = state(repository.root)
    output: PatcherOutput = await AgentHarness(patch).run(inputs(repository, text))
    tasks: list[asyncio.Task[None]] = []

    async def cancel() -> None:
        tasks[0].cancel()
        await asyncio.sleep(0)

    harness = AgentHarness(patch, sandbox=Steps("update-ref", before=cancel))
    tasks.append(asyncio.create_task(harness.undo(inputs(repository, text), output)))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]

    assert state(repository.root) == before


# Others at work


@pytest.mark.parametrize("checked_out", [True, False])
async def test_commit_of_somebody_else_is_never_lost(
    repository: Repository, text: str, checked_out: bool
) -> None:
    repository.git("checkout", "--quiet", "-B", "main" if checked_out else "other")
    before = state(repository.root)
    commits: list[str] = []

    async def push() -> None:
        tree = repository.git("rev-parse", "main^{tree}")
        commits.append(repository.git("commit-tree", "-p", "main", "-m", "theirs", tree))
        repository.git("update-ref", "refs/heads/main", commits[0])

    with pytest.raises(AgentFailed, match="the branch was moved while the patch was applied") as caught:
        await run(Steps("update-ref", before=push), repository, text)

    assert caught.value.details["applied"] is False
    assert repository.git("rev-parse", "main") == commits[0]
    repository.git("update-ref", "refs/heads/main", repository.git("rev-parse", "main^"))
    assert state(repository.root) == before


async def test_edit_of_somebody_else_is_never_lost(repository: Repository, text: str) -> None:
    async def edit() -> None:
        repository.write({"z": "somebody's work\n"})

    before = state(repository.root)
    with pytest.raises(AgentFailed, match="the working tree could not be changed"):
        await run(Steps("read-tree", before=edit), repository, text)

    assert (repository.root / "z").read_text() == "somebody's work\n"
    repository.write({"z": "1\n"})
    assert state(repository.root) == before


async def test_two_patches_at_once_make_two_commits_or_one_conflict(repository: Repository) -> None:
    base = repository.commit({"a.py": LINES, "z": "1\n"})
    texts = [diff_of(repository, {"a.py": CHANGED}), diff_of(repository, {"z": "2\n"})]

    done = await asyncio.gather(
        *(AgentHarness(patch).run({**inputs(repository, text), "create_backup": False}) for text in texts),
        return_exceptions=True,
    )

    applied = [item for item in done if isinstance(item, PatcherOutput)]
    assert all(isinstance(item, PatcherOutput | AgentFailed) for item in done)
    assert int(repository.git("rev-list", "--count", f"{base}..main")) == len(applied) >= 1
    assert repository.git("status", "--porcelain") == ""


# Hostile repositories

PROGRAMS = (
    *("core.fsmonitor", "core.sshCommand", "core.pager", "core.editor", "core.askPass", "diff.external"),
    *("core.alternateRefsCommand", "core.gitProxy", "gpg.program", "credential.helper"),
    *("filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "filter.näxt.smudge"),
    *("merge.evil.driver", "diff.evil.textconv", "diff.evil.command", "trailer.evil.command"),
)
HOOKS = (
    "reference-transaction",
    "post-index-change",
    "post-checkout",
    "pre-commit",
    "post-commit",
    "post-merge",
)


def _arm(repository: Repository) -> Path:
    """Make a repository name a program wherever git might start one; return the file it would leave."""
    program = repository.root / "evil.sh"
    program.write_text("#!/bin/sh\ntouch /repository/mark\nexec cat\n")
    program.chmod(0o755)
    for key in PROGRAMS:
        repository.git("config", key, "/repository/evil.sh")
    repository.git("config", "filter.evil.required", "true")
    repository.git("config", "commit.gpgSign", "true")
    hooks = repository.root / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in HOOKS:
        shutil.copy(program, hooks / name)
    repository.git("config", "core.hooksPath", "/repository/.git/hooks")
    return repository.root / "mark"


async def test_patch_runs_no_program_that_the_repository_names(repository: Repository, text: str) -> None:
    repository.commit(
        {".gitattributes": "*.evil filter=evil diff=evil merge=evil\nb.* filter=näxt\n", "x.evil": "1\n"}
    )
    armed = "--- /dev/null\n+++ b/sub/.gitattributes\n@@ -0,0 +1 @@\n+* filter=evil\n"
    armed += "--- /dev/null\n+++ b/sub/f\n@@ -0,0 +1 @@\n+x\n"
    mark = _arm(repository)
    harness = AgentHarness(patch)

    output = await harness.run(inputs(repository, text))
    await harness.undo(inputs(repository, text), output)
    await harness.run(inputs(repository, armed))

    assert not mark.exists()
    call = ToolCall(
        ["git", "update-ref", "refs/heads/x", "HEAD"],
        writable={repository.root: "/repository"},
        cwd="/repository",
        env={"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"},
    )
    await select(load_settings()).run(call)
    assert mark.exists(), "the trap itself does not work, so it proves nothing"


async def test_patch_reads_what_is_there_and_not_what_replaces_it(repository: Repository) -> None:
    repository.commit({"a.py": LINES})
    text = diff_of(repository, {"a.py": CHANGED})
    genuine = repository.git("rev-parse", "main:a.py")
    (repository.root / "fake").write_text(LINES.replace("line 2\n", "line two\n"))
    fake = repository.git("hash-object", "-w", "fake")
    repository.git("replace", genuine, fake)

    await AgentHarness(patch).run(inputs(repository, text))

    assert "line 2\n" in repository.git("--no-replace-objects", "show", "main:a.py")


async def test_patch_refuses_a_damaged_repository(repository: Repository, text: str) -> None:
    (repository.root / ".git" / "index").write_bytes(b"nonsense")

    with pytest.raises(SandboxError, match="git ended with exit code 128"):
        await AgentHarness(patch).run(inputs(repository, text))


# Secrets

SECRET = "AKIAQYLPMN5HHHFPZAM2"  # noqa: S105  made up


async def test_secrets_of_a_patch_and_a_repository_are_told_nowhere(
    repository: Repository, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    repository.git("config", "remote.origin.url", f"https://me:{SECRET}@localhost/x.git")
    repository.commit({"a.env": f"key = {SECRET}1\nother\n"})
    text = diff_of(repository, {"a.env": f"key = {SECRET}2\nother\n"})
    harness = AgentHarness(patch)
    told: list[str] = []

    output = await harness.run(inputs(repository, text))
    told.append(output.model_dump_json())
    repository.write({"a.env": f"key = {SECRET}3\n"})
    for call in (harness.run(inputs(repository, text)), harness.undo(inputs(repository, text), output)):
        with pytest.raises(AgentFailed) as caught:
            await call
        told += [str(caught.value), repr(caught.value.details)]
    step = Steps("read-tree", before=failing(ToolKilled("git was killed")))
    repository.commit({})
    fresh = diff_of(repository, {"a.env": f"key = {SECRET}4\n"})
    with pytest.raises(AgentFailed) as caught:
        await AgentHarness(patch, sandbox=step).run(inputs(repository, fresh))
    told += [str(caught.value), repr(harness.logs), caplog.text, str(capfd.readouterr())]

    assert SECRET not in "".join(told)
