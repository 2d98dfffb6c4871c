"""Taking a patch back: as if it had never been, or by a commit on top."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import AgentFailed
from penstock.testing import AgentHarness
from penstock_agents.patcher import PatcherOutput, patch
from support.checkouts import Repository, demand
from support.patches import CHANGED, LINES, Changes, diff_of, inputs, state

CHANGES: Changes = {"a.py": CHANGED, "gone": None, "new/dir/f": "x"}


@pytest.fixture(autouse=True)
def bubblewrap() -> None:
    demand(shutil.which("bwrap"), "bubblewrap")


class Patched:
    """A repository with a patch on its branch."""

    def __init__(self, repository: Repository, text: str, root: Path | None = None, **options: Any) -> None:
        self.harness = AgentHarness(patch)
        self.repository = repository
        self.root = root or repository.root
        self.inputs = inputs(self.root, text, **options)

    async def apply(self) -> PatcherOutput:
        self.output: PatcherOutput = await self.harness.run(self.inputs)
        return self.output

    async def undo(self, harness: AgentHarness | None = None) -> None:
        await (harness or self.harness).undo(self.inputs, self.output)

    async def refuses(self) -> AgentFailed:
        before = state(self.root)
        with pytest.raises(AgentFailed) as caught:
            await self.undo()
        assert state(self.root) == before
        return caught.value


@pytest.fixture
def patched(repository: Repository) -> Patched:
    repository.commit({"a.py": LINES, "gone": "g\n", "other": "1\n"})
    return Patched(repository, diff_of(repository, CHANGES))


async def test_undo_leaves_everything_as_it_was_before(patched: Patched) -> None:
    before = state(patched.root)
    await patched.apply()

    await patched.undo()

    assert state(patched.root) == before


async def test_undo_twice_is_undo_once(patched: Patched) -> None:
    await patched.apply()
    await patched.undo()
    once = state(patched.root)

    await patched.undo()

    assert state(patched.root) == once
    assert patched.harness.logs[-1].event == "patch_not_there"


async def test_undo_of_a_bare_repository(patched: Patched, tmp_path: Path) -> None:
    bare = tmp_path / "shop.git"
    patched.repository.git("clone", "--quiet", "--bare", ".", str(bare))
    there = Patched(patched.repository, patched.inputs["patch_content"], bare)
    before = state(bare)
    await there.apply()

    await there.undo()

    assert state(bare) == before


async def test_undo_keeps_later_commits_and_reverts_the_patch_on_top(patched: Patched) -> None:
    repository = patched.repository
    output = await patched.apply()
    later = repository.commit({"other": "2\n", "a.py": "first\n" + CHANGED})

    await patched.undo()

    assert repository.git("rev-parse", "main^") == later
    assert repository.git("status", "--porcelain") == ""
    assert (patched.root / "a.py").read_text() == "first\n" + LINES
    assert sorted(repository.git("ls-files").split()) == ["a.py", "gone", "other"]
    assert f"This reverts commit {output.commit}." in repository.git("log", "-1", "--format=%B")
    assert repository.git("branch", "--list", "penstock/*") == ""

    once = state(patched.root)
    await patched.undo()
    assert state(patched.root) == once
    repository.commit({"a.py": "all new\n"})
    await patched.undo()
    assert (patched.root / "a.py").read_text() == "all new\n"


async def test_undo_takes_a_revert_by_hand_for_one(patched: Patched) -> None:
    output = await patched.apply()
    patched.repository.git("revert", "--no-edit", output.commit)
    before = state(patched.root)

    await patched.undo()

    assert state(patched.root) == before


async def test_undo_takes_back_what_is_left_of_the_patch(patched: Patched) -> None:
    await patched.apply()
    patched.repository.commit({"gone": "g\n"})

    await patched.undo()

    assert (patched.root / "a.py").read_text() == LINES
    assert (patched.root / "gone").read_text() == "g\n"


async def test_undo_follows_a_patch_that_was_rebased(patched: Patched) -> None:
    repository = patched.repository
    output = await patched.apply()
    repository.git("reset", "--quiet", "--hard", output.previous_commit)
    repository.commit({"other": "2\n"})
    repository.git("cherry-pick", output.commit)

    await patched.undo()

    assert (patched.root / "a.py").read_text() == LINES
    assert (patched.root / "other").read_text() == "2\n"


async def test_undo_does_nothing_when_the_patch_is_gone_already(patched: Patched) -> None:
    output = await patched.apply()
    patched.repository.git("reset", "--quiet", "--hard", output.previous_commit)
    patched.repository.commit({"a.py": "all new\n"})
    before = state(patched.root)

    await patched.undo()

    assert state(patched.root) == before


async def test_undo_that_conflicts_says_what_to_do(patched: Patched) -> None:
    output = await patched.apply()
    patched.repository.commit({"a.py": CHANGED.replace("fifteen", "15!")})

    error = await patched.refuses()

    assert "a.py: hunk 1 (line 12) does not fit" in error.message
    assert f"git revert {output.commit}" in error.message
    assert output.backup_path in error.message
    assert not error.retryable


async def test_undo_never_loses_work_in_the_working_tree(patched: Patched) -> None:
    await patched.apply()
    patched.repository.write({"a.py": CHANGED + "work\n"})

    error = await patched.refuses()

    assert "a.py: it has changes in the working tree" in error.message


async def test_undo_says_so_when_the_branch_is_gone(patched: Patched) -> None:
    await patched.apply()
    patched.repository.git("branch", "--move", "main", "trunk")

    assert "no branch 'main'" in (await patched.refuses()).message


async def test_undo_keeps_a_backup_branch_that_somebody_moved(patched: Patched) -> None:
    output = await patched.apply()
    backup = output.backup_path.removeprefix("refs/heads/")
    patched.repository.git("branch", "--force", backup, output.commit)

    await patched.undo()

    assert patched.repository.git("rev-parse", "main", backup).split() == [
        output.previous_commit,
        output.commit,
    ]


async def test_undo_restores_the_mode_that_a_plain_diff_does_not_name(repository: Repository) -> None:
    repository.write({"run": "x\n"})
    (repository.root / "run").chmod(0o755)
    repository.commit({})
    patched = Patched(repository, "--- a/run\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n")
    await patched.apply()
    repository.commit({"later": "1\n"})

    await patched.undo()

    assert repository.git("ls-tree", "main", "run").startswith("100755 ")


async def test_undo_of_a_dry_run_and_dry_undo_do_nothing(patched: Patched) -> None:
    await patched.apply()
    before = state(patched.root)

    await patched.undo(patched.harness.dry())
    patched.output = patched.output.model_copy(update={"applied": False})
    await patched.undo()

    assert state(patched.root) == before
