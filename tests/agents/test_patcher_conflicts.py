"""Conflicts: what stands in the way of a patch is named, and nothing is changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.checkouts import Repository, demand
from support.patches import CHANGED, LINES, diff_of, planned, refused


@pytest.fixture(autouse=True)
def bubblewrap() -> None:
    demand(shutil.which("bwrap"), "bubblewrap")


def _conflict_dirty(repository: Repository) -> None:
    repository.write({"a.py": LINES + "work\n"})


def _conflict_staged(repository: Repository) -> None:
    _conflict_dirty(repository)
    repository.git("add", "a.py")


def _conflict_deleted(repository: Repository) -> None:
    (repository.root / "a.py").unlink()


def _conflict_untracked(repository: Repository) -> None:
    repository.write({"new/f": "somebody's\n"})


def _conflict_ignored(repository: Repository) -> None:
    repository.write({"new/f": "somebody's\n"})
    (repository.root / ".git" / "info").mkdir(exist_ok=True)
    (repository.root / ".git" / "info" / "exclude").write_text("new/\n")


def _conflict_file_for_folder(repository: Repository) -> None:
    repository.write({"new": "somebody's\n"})


def _conflict_link_for_folder(repository: Repository) -> None:
    (repository.root / "new").symlink_to("/tmp")  # noqa: S108  it must not be followed


def _conflict_content(repository: Repository) -> None:
    repository.commit({"a.py": LINES.replace("line 14", "line fourteen")})


def _conflict_done(repository: Repository) -> None:
    repository.commit({"a.py": CHANGED, "new/f": "x\n"})


def _conflict_merging(repository: Repository) -> None:
    (repository.root / ".git" / "MERGE_HEAD").write_text(repository.git("rev-parse", "HEAD") + "\n")


def _conflict_locked(repository: Repository) -> None:
    (repository.root / ".git" / "index.lock").touch()


def _conflict_elsewhere(repository: Repository) -> None:
    repository.git("checkout", "--quiet", "-b", "mine")
    repository.git("worktree", "add", "--quiet", str(repository.root.parent / "linked"), "main")


def _conflict_twice(repository: Repository) -> None:
    repository.git("worktree", "add", "--quiet", "--force", str(repository.root.parent / "linked"), "main")


def _conflict_symbolic(repository: Repository) -> None:
    repository.git("branch", "--move", "main", "trunk")
    repository.git("symbolic-ref", "refs/heads/main", "refs/heads/trunk")


def _conflict_rebasing(repository: Repository) -> None:
    repository.git("checkout", "--quiet", "--detach")
    folder = repository.root / ".git" / "rebase-merge"
    folder.mkdir()
    (folder / "head-name").write_text("refs/heads/main\n")


def _conflict_filter(repository: Repository) -> None:
    repository.commit({".gitattributes": "a.py filter=lfs\n"})


CONFLICTS: list[tuple[Callable[[Repository], None], str, str]] = [
    (_conflict_dirty, "a.py", "has changes in the working tree"),
    (_conflict_staged, "a.py", "has changes in the working tree"),
    (_conflict_deleted, "a.py", "has changes in the working tree"),
    (_conflict_untracked, "new/f", "git does not track"),
    (_conflict_ignored, "new/f", "git does not track"),
    (_conflict_file_for_folder, "new/f", "'new' is not a folder in the working tree"),
    (_conflict_link_for_folder, "new/f", "'new' is not a folder in the working tree"),
    (_conflict_content, "a.py", "hunk 1 (line 12) does not fit"),
    (_conflict_done, "a.py", "the change is there already"),
    (_conflict_merging, "", "a merge, a rebase or the like"),
    (_conflict_locked, "", "index.lock"),
    (_conflict_elsewhere, "", "checked out in another working tree"),
    (_conflict_twice, "", "checked out in another working tree"),
    (_conflict_symbolic, "", "another name for trunk"),
    (_conflict_rebasing, "", "is being rebased"),
    (_conflict_filter, "a.py", "the filter 'lfs'"),
]


@pytest.mark.parametrize(
    ("make", "file", "reason"), CONFLICTS, ids=[case[0].__name__[10:] for case in CONFLICTS]
)
async def test_conflict_changes_nothing_and_says_what_is_in_the_way(
    repository: Repository, make: Callable[[Repository], None], file: str, reason: str
) -> None:
    repository.commit({"a.py": LINES})
    text = diff_of(repository, {"a.py": CHANGED, "new/f": "x\n"})
    make(repository)

    error = await refused(repository, text)
    plan = await planned(repository, text)

    conflicts = error.details["conflicts"]
    assert conflicts[0]["file"] == file
    assert reason in conflicts[0]["reason"]
    assert reason in error.message
    assert error.details | {"conflicts": []} == {
        "applied": False,
        "files_modified": [],
        "backup_path": "",
        "conflicts": [],
    }
    assert plan.data["conflicts"] == conflicts
    assert plan.summary.startswith("Cannot be applied: ")


async def test_conflict_of_one_file_stops_all_and_each_is_told(repository: Repository) -> None:
    repository.commit({"a.py": LINES, "b.py": LINES, "c.py": LINES})
    text = diff_of(repository, {"a.py": CHANGED, "b.py": CHANGED, "c.py": CHANGED})
    repository.commit({"b.py": "other\n"})
    (repository.root / "c.py").unlink()
    repository.commit({})

    error = await refused(repository, text)

    assert [(item["file"], item["reason"]) for item in error.details["conflicts"]] == [
        ("b.py", "hunk 1 (line 12) does not fit: its old lines are not there"),
        ("c.py", "it is not there"),
    ]


async def test_conflict_with_links_and_submodules_of_the_repository(
    repository: Repository, tmp_path: Path
) -> None:
    (repository.root / "link").symlink_to("/etc")
    inner = Repository(tmp_path / "inner")
    inner.commit({"f": "x\n"})
    repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.root), "sub")
    repository.commit({"a": "1\n"})
    create = "--- /dev/null\n+++ b/{}\n@@ -0,0 +1 @@\n+x\n"
    change = "--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-/etc\n+/tmp\n"

    told = {
        path: (await refused(repository, text.format(path))).details["conflicts"][0]["reason"]
        for path, text in {"link/x": create, "link": change, "sub/x": create, "sub": change}.items()
    }

    assert told == {
        "link/x": "'link' is not a folder",
        "link": "it is a symbolic link",
        "sub/x": "'sub' is not a folder",
        "sub": "it is a submodule",
    }


async def test_conflict_of_a_bare_repository_with_a_working_tree(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit({"a.py": LINES})
    bare = tmp_path / "shop.git"
    repository.git("clone", "--quiet", "--bare", ".", str(bare))
    repository.git(f"--git-dir={bare}", "worktree", "add", "--quiet", str(tmp_path / "linked"), "main")

    error = await refused(bare, diff_of(repository, {"a.py": CHANGED}))

    assert "checked out in another working tree" in error.message
