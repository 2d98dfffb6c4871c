"""The patcher on real repositories: what it commits, what it leaves alone, what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from penstock.errors import AgentFailed, InputInvalid
from penstock.testing import AgentHarness, check_dry_run
from penstock_agents.patcher import PatcherOutput, patch
from support.checkouts import Repository, demand
from support.patches import CHANGED, LINES, apply, diff_of, inputs, planned, refused, state

BACKUP = "refs/heads/penstock/backup/test-run-patcher"


@pytest.fixture(autouse=True)
def bubblewrap() -> None:
    demand(shutil.which("bwrap"), "bubblewrap")


def show(repository: Repository, name: str, commit: str = "main") -> str:
    return repository.git("show", f"{commit}:{name}")


# What is committed


async def test_patch_commits_every_kind_of_change(repository: Repository) -> None:
    base = repository.commit(
        {"a.py": LINES, "ü mlaut/ä b.txt": "x\n", "gone.txt": "g\n", "old.txt": LINES, "run.sh": "echo\n"}
    )
    (repository.root / "run.sh").chmod(0o755)
    mode = repository.git("diff")
    repository.git("reset", "--hard", "--quiet")
    changes = {
        "a.py": CHANGED,
        "ü mlaut/ä b.txt": "x\ny",
        "gone.txt": None,
        "old.txt": None,
        "moved/new.txt": LINES,
        "fresh/f.txt": "1\n",
    }
    text = diff_of(repository, changes) + mode
    harness = AgentHarness(patch)

    output: PatcherOutput = await harness.run(inputs(repository, text))

    assert output.applied
    assert output.conflicts == []
    assert output.files_modified == sorted([*changes, "run.sh"])
    assert (output.backup_path, output.previous_commit) == (BACKUP, base)
    assert repository.git("rev-parse", "main", "main^", BACKUP).split() == [output.commit, base, base]
    listed = repository.git(
        "-c", "core.quotePath=off", "ls-tree", "-r", "--format=%(objectmode) %(path)", "main"
    )
    assert listed.splitlines() == [
        "100644 a.py",
        "100644 fresh/f.txt",
        "100644 moved/new.txt",
        "100755 run.sh",
        "100644 ü mlaut/ä b.txt",
    ]
    assert (show(repository, "a.py"), show(repository, "ü mlaut/ä b.txt")) == (CHANGED.strip(), "x\ny")
    assert repository.git("status", "--porcelain", "--ignored") == ""
    assert (repository.root / "ü mlaut" / "ä b.txt").read_bytes() == b"x\ny"
    repository.git("fsck", "--strict")


async def test_patch_signs_with_our_name_and_tells_the_run(repository: Repository) -> None:
    repository.commit({"a.py": LINES})
    harness = AgentHarness(patch)

    await harness.run(inputs(repository, diff_of(repository, {"a.py": CHANGED})))

    author, committer, subject, *body = repository.git(
        "log", "-1", "--format=%an <%ae>%n%cn <%ce>%n%B"
    ).splitlines()
    assert author == committer == "Penstock <penstock@localhost>"
    assert subject == "Patch a.py"
    assert {"Penstock-Run: test-run", "Penstock-Node: patcher"} <= set(body)
    assert [line.event for line in harness.logs] == ["file_patched", "patch_applied"]
    assert harness.logs[0].facts == {"file": "a.py", "action": "modify", "detail": "1 hunk, +1 -1"}


async def test_patch_keeps_line_ends_and_converts_those_of_the_working_tree(repository: Repository) -> None:
    repository.commit({".gitattributes": "*.txt text eol=crlf\n"})
    repository.commit({"dos": "a\r\nb\r\n", "unix.txt": "a\r\nb\r\n", "bare": "a"})
    text = diff_of(repository, {"dos": "a\r\nc\r\n", "unix.txt": "a\r\nc\r\n", "bare": "a\n"})

    await apply(repository, text)

    read = {name: (repository.root / name).read_bytes() for name in ("dos", "unix.txt", "bare")}
    assert read == {"dos": b"a\r\nc\r\n", "unix.txt": b"a\r\nc\r\n", "bare": b"a\n"}
    assert repository.git("cat-file", "-s", "main:unix.txt") == "4"
    assert repository.git("status", "--porcelain") == ""


async def test_patch_goes_where_it_fits_when_lines_moved(repository: Repository) -> None:
    repository.commit({"a.py": LINES})
    text = diff_of(repository, {"a.py": CHANGED})
    repository.commit({"a.py": "new first line\n" + LINES})

    plan = await planned(repository, text)
    await apply(repository, text)

    assert plan.changes[0].detail == "1 hunk, +1 -1; hunk 1 goes to line 13"
    assert show(repository, "a.py") == ("new first line\n" + CHANGED).strip()


async def test_patch_puts_a_folder_in_the_place_of_a_file(repository: Repository) -> None:
    repository.commit({"x": "1\n"})
    (repository.root / "x").unlink()
    text = diff_of(repository, {"x/y": "2\n"})

    await apply(repository, text)

    assert (repository.root / "x" / "y").read_text() == "2\n"
    assert repository.git("status", "--porcelain") == ""


async def test_patch_works_where_objects_have_long_names(tmp_path: Path) -> None:
    root = tmp_path / "sha256"
    repository = Repository(root)
    shutil.rmtree(root / ".git")
    repository.git("init", "--quiet", "--initial-branch=main", "--object-format=sha256")
    repository.commit({"a.py": LINES})

    output = await apply(repository, diff_of(repository, {"a.py": CHANGED}))

    assert len(output.commit) == 64
    assert show(repository, "a.py") == CHANGED.strip()


# What is left alone


async def test_patch_leaves_other_changes_of_the_working_tree(repository: Repository) -> None:
    repository.commit({"a.py": LINES, "b": "1\n", "c": "1\n"})
    text = diff_of(repository, {"a.py": CHANGED})
    repository.write({"b": "staged\n", "c": "changed\n", "d": "untracked\n"})
    repository.git("add", "b")

    await apply(repository, text)

    assert repository.git("status", "--porcelain").splitlines() == ["M  b", " M c", "?? d"]
    assert (repository.root / "a.py").read_text() == CHANGED


@pytest.mark.parametrize("head", ["other", "detached"])
async def test_patch_of_a_branch_that_is_not_checked_out_touches_no_file(
    repository: Repository, head: str
) -> None:
    repository.commit({"a.py": LINES})
    text = diff_of(repository, {"a.py": CHANGED})
    repository.git("checkout", "--quiet", *(["-b", "other"] if head == "other" else ["--detach"]))
    repository.write({"a.py": "somebody's work\n"})

    await apply(repository, text)

    assert show(repository, "a.py") == CHANGED.strip()
    assert (repository.root / "a.py").read_text() == "somebody's work\n"


async def test_patch_works_on_a_bare_repository(repository: Repository, tmp_path: Path) -> None:
    repository.commit({"a.py": LINES})
    bare = tmp_path / "shop.git"
    repository.git("clone", "--quiet", "--bare", ".", str(bare))
    text = diff_of(repository, {"a.py": CHANGED})

    output = await apply(bare, text)
    repository.git("fetch", "--quiet", str(bare), "main")

    assert repository.git("rev-parse", "FETCH_HEAD") == output.commit
    assert repository.git("show", "FETCH_HEAD:a.py") == CHANGED.strip()


async def test_patch_takes_branches_with_any_name(repository: Repository) -> None:
    repository.commit({"a.py": LINES})
    text = diff_of(repository, {"a.py": CHANGED})
    repository.git("branch", "größe/x_y")

    output = await apply(repository, text, target_branch="größe/x_y")

    assert repository.git("rev-parse", "größe/x_y") == output.commit
    assert repository.git("rev-parse", "main") == output.previous_commit


async def test_dry_run_changes_nothing(repository: Repository) -> None:
    repository.commit({"a.py": LINES})
    text = diff_of(repository, {"a.py": CHANGED})
    harness = AgentHarness(patch)

    await check_dry_run(harness, inputs(repository, text), repository.root)
    output: PatcherOutput = await harness.dry().run(inputs(repository, text))

    assert (output.applied, output.files_modified, output.commit) == (False, [], "")


# Backups


async def test_backup_is_made_unless_it_is_not_wanted(repository: Repository) -> None:
    repository.commit({"a.py": LINES})

    output = await apply(repository, diff_of(repository, {"a.py": CHANGED}), create_backup=False)

    assert output.backup_path == ""
    assert repository.git("branch", "--list", "--format=%(refname)") == "refs/heads/main"


async def test_backup_never_replaces_another_one(repository: Repository) -> None:
    repository.commit({"a.py": LINES})
    first = diff_of(repository, {"a.py": CHANGED})
    await apply(repository, first)

    output = await apply(repository, diff_of(repository, {"a.py": LINES + "more\n"}))

    assert output.backup_path == f"{BACKUP}-2"


async def test_backup_without_room_for_it_is_an_error(repository: Repository) -> None:
    repository.commit({"a.py": LINES})
    text = diff_of(repository, {"a.py": CHANGED})
    repository.git("branch", "penstock")

    error = await refused(repository, text)

    assert "'penstock' leaves no room" in error.message


# What is no repository, no branch, no patch

TEXT = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nonexistent/x", "does not exist"),
        ("relative/x", "is not an absolute path"),
        ("/a\0b", "is not an absolute path"),
        ("/etc/hostname", "not the root of a git repository"),
        ("/usr", "not the root of a git repository"),
        ("/" + "x" * 300, "cannot be read: File name too long"),
    ],
)
async def test_patch_says_what_is_wrong_with_a_path(path: str, reason: str) -> None:
    with pytest.raises(AgentFailed, match=reason):
        await AgentHarness(patch).run({"repository_path": path, "patch_content": TEXT})


async def test_patch_refuses_repositories_that_lie_in_two_places(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit({"f": "a\n"})
    repository.git("worktree", "add", "--quiet", str(tmp_path / "tree"))
    repository.git("clone", "--quiet", "--shared", ".", str(tmp_path / "shared"))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / ".git").symlink_to(repository.root / ".git")
    places = {
        tmp_path / "tree": "a linked worktree or a submodule",
        tmp_path / "shared": "borrows objects",
        tmp_path / "linked": ".git is a link",
        repository.root / ".git": "keeps its files elsewhere",
    }

    for place, reason in places.items():
        with pytest.raises(AgentFailed, match=reason):
            await apply(place, TEXT)


async def test_patch_lists_the_branches_when_one_is_missing(repository: Repository) -> None:
    with pytest.raises(AgentFailed, match="no branch 'main'; it has no commit yet"):
        await apply(repository, TEXT)
    repository.commit({"f": "a\n"})
    repository.git("branch", "release/2")

    for name in ("master", "refs/heads/main", "--all", "main~0", "HEAD"):
        error = await refused(repository, TEXT, target_branch=name)
        assert error.message.endswith("there are main, release/2")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "patch_content: .*at least 1 character"),
        ("\n", "line 1: there is no diff here"),
        ("x" * 1_000_001, "patch_content: .*at most 1000000 characters"),
        (TEXT.replace("f\n", ".git/config\n"), "git's own folder"),
    ],
)
async def test_patch_that_is_none_is_an_error_of_the_input(
    repository: Repository, text: str, reason: str
) -> None:
    for call in (AgentHarness(patch).run, AgentHarness(patch).plan):
        with pytest.raises(InputInvalid, match=reason):
            await call(inputs(repository, text))


async def test_patch_refuses_files_that_are_too_large(repository: Repository) -> None:
    repository.commit({"f": "a\n" + "x" * 80 * 1024 * 66})
    text = TEXT.replace(" -1 +1 ", " -1,1 +1,1 ")

    error = await refused(repository, text)

    assert "has more than 5,242,880 bytes" in error.message


async def test_patch_says_when_the_repository_lacks_content(repository: Repository) -> None:
    repository.commit({"f": "a\n"})
    blob = repository.git("rev-parse", "main:f")
    (repository.root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()

    with pytest.raises(AgentFailed, match="lacks the content of 'f'"):
        await apply(repository, TEXT)


# Plans


async def test_plan_shows_everything_and_changes_nothing(repository: Repository) -> None:
    repository.commit({"a.py": LINES, "gone": "x\n"})
    text = "Any words of the author.\n" + diff_of(repository, {"a.py": CHANGED, "gone": None})
    before = state(repository.root)

    plan = await planned(repository, text)

    assert state(repository.root) == before
    assert plan.summary == f"Patch 2 files on branch main of {repository.root}"
    assert plan.targets == [str(repository.root), f"{repository.root}/a.py", f"{repository.root}/gone"]
    assert [(change.target, change.action, change.detail) for change in plan.changes] == [
        ("a.py", "modify", "1 hunk, +1 -1"),
        ("gone", "delete", "1 hunk, +0 -1"),
    ]
    assert "Any words" not in plan.diff
    assert "-line 15\n+line fifteen\n" in plan.diff
    assert "a backup branch of the run keeps" in plan.undo
    assert (plan.data["branch"], plan.data["working_tree"], plan.data["conflicts"]) == ("main", True, [])
    blob = repository.git("hash-object", "a.py")
    assert plan.data["files"]["a.py"]["before"] == f"100644 {blob}"
    assert plan.data["files"]["gone"]["after"] == ""


async def test_plan_survives_commits_elsewhere_and_no_other(repository: Repository) -> None:
    repository.commit({"a.py": LINES, "other": "1\n"})
    text = diff_of(repository, {"a.py": CHANGED})
    first = await planned(repository, text)

    repository.commit({"other": "2\n"})
    unrelated = await planned(repository, text)
    repository.commit({"a.py": LINES + "at the end\n"})
    touched = await planned(repository, text)

    assert unrelated == first
    assert touched != first


async def test_plan_tells_what_the_commit_then_holds(repository: Repository) -> None:
    repository.commit({"a.py": LINES})
    text = diff_of(repository, {"a.py": CHANGED, "new": "x\n"})

    plan = await planned(repository, text)
    await apply(repository, text)

    listed = repository.git("ls-tree", "main", "--format=%(path) %(objectmode) %(objectname)").splitlines()
    assert [f"{path} {file['after']}" for path, file in plan.data["files"].items()] == listed
