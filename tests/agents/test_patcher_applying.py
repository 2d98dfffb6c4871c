"""Applying a diff: from old to new and back, as git would, and never by guessing."""

from __future__ import annotations

import difflib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_agents.patcher.applying import FOLDER, File, Obstacle, Tree, apply
from penstock_agents.patcher.diff import EXECUTABLE, PLAIN, render, undoing
from penstock_agents.patcher.parsing import parse
from support.checkouts import Repository, demand

bounded = settings(derandomize=True, max_examples=200, deadline=None)
few = settings(bounded, max_examples=40)

LINES = "|a|b|ü| x|\tx|-- x|--- a/f|+++ b/f|@@ -1 +1 @@|diff --git a/f b/f|\\|x\r|\f"
lines = st.lists(st.sampled_from(LINES.split("|")), max_size=12)
names = st.sampled_from(["f", "a/f", "b/f", "ä ö", 'q"q', "x y/z\u0142", "+++ b"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    body = draw(lines)
    return "\n".join(body) + ("\n" if body and draw(st.booleans()) else "")


trees = st.dictionaries(names, st.tuples(st.sampled_from([PLAIN, EXECUTABLE]), texts()), max_size=4)

CHANGE = "@@ -1 +1 @@\n-a\n+b\n"


def plain(path: str, hunks: str = CHANGE) -> str:
    return f"--- a/{path}\n+++ b/{path}\n{hunks}"


def git_diff(path: str, *headers: str) -> str:
    return "\n".join([f"diff --git a/{path} b/{path}", *headers]) + "\n"


def result(tree: Tree, patch: str) -> dict[str, str | None]:
    applied = apply(parse(patch), tree)
    assert applied.conflicts == []
    return {path: file and file.data.decode() for path, file in applied.edits.items()}


def conflicts(tree: Tree, patch: str) -> list[tuple[str, str]]:
    return [(conflict.file, conflict.reason) for conflict in apply(parse(patch), tree).conflicts]


def files(**contents: str) -> dict[str, File | Obstacle]:
    return {name: File(PLAIN, content.encode()) for name, content in contents.items()}


@bounded
@given(old=texts(), new=texts(), context=st.integers(1, 4))
def test_diff_of_python_leads_from_old_to_new_and_back(old: str, new: str, context: int) -> None:
    old, new = (text and text.removesuffix("\n") + "\n" for text in (old, new))
    text = "".join(difflib.unified_diff(_split(old), _split(new), "a/f", "b/f", n=context))
    if old == new:
        return

    patch = parse(text)

    assert result(files(f=old), text) == {"f": new}
    assert result(files(f=new), render(undoing(patch, {}))) == {"f": old}


def _split(text: str) -> list[str]:
    return [line + "\n" for line in text.removesuffix("\n").split("\n")] if text else []


@pytest.fixture(scope="module")
def store() -> Iterator[Repository]:
    demand(shutil.which("git"), "git")
    with tempfile.TemporaryDirectory() as folder:
        yield Repository(Path(folder) / "store")


def _write_tree(store: Repository, tree: Mapping[str, tuple[str, str]]) -> str:
    store.git("read-tree", "--empty")
    for name, (mode, text) in tree.items():
        (store.root / "blob").write_bytes(text.encode())
        blob = store.git("hash-object", "-w", "--no-filters", "blob")
        store.git("update-index", "--add", "--cacheinfo", mode, blob, name)
    return store.git("write-tree")


def _diff(store: Repository, *arguments: str) -> str:
    """Run git diff without touching its line ends."""
    return _git(store, *arguments).stdout.decode()


def _git(store: Repository, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    git = shutil.which("git") or "git"
    return subprocess.run([git, *arguments], cwd=store.root, check=False, capture_output=True, input=stdin)


def _files(tree: Mapping[str, tuple[str, str]]) -> dict[str, File | Obstacle]:
    return {name: File(mode, text.encode()) for name, (mode, text) in tree.items()}


@few
@given(old=trees, new=trees, quoted=st.booleans(), prefix=st.booleans())
def test_diff_of_git_leads_from_old_to_new_and_back(
    store: Repository,
    old: dict[str, tuple[str, str]],
    new: dict[str, tuple[str, str]],
    quoted: bool,
    prefix: bool,
) -> None:
    before, after = (_write_tree(store, tree) for tree in (old, new))
    options = ["-M", *([] if prefix else ["--no-prefix"])]
    text = _diff(store, "-c", f"core.quotePath={quoted}", "diff", *options, before, after)
    if before == after:
        return

    patch = parse(text)
    there = apply(patch, _files(old))
    back = apply(undoing(patch, {}), _files(new))

    assert (there.conflicts, back.conflicts) == ([], [])
    assert _edited(old, there.edits) == _files(new)
    assert _edited(new, back.edits) == _files(old)
    assert parse(render(patch)) == patch


def _edited(
    tree: Mapping[str, tuple[str, str]], edits: Mapping[str, File | None]
) -> dict[str, File | Obstacle]:
    merged: dict[str, File | Obstacle | None] = {**_files(tree), **edits}
    return {path: file for path, file in merged.items() if file is not None}


@few
@given(old=texts(), new=texts(), moved=texts())
def test_apply_agrees_with_git(store: Repository, old: str, new: str, moved: str) -> None:
    """On a file that changed meanwhile git finds the same place, or we refuse because there are two."""
    text = _diff(store, "diff", *(_write_tree(store, {"f": (PLAIN, side)}) for side in (old, new)))
    if not text:
        return
    (store.root / "f").write_bytes((moved + old).encode())

    git = _git(store, "apply", "--whitespace=nowarn", stdin=text.encode())
    ours = apply(parse(text), files(f=moved + old))

    if ours.conflicts:
        # Git takes a last line without its newline for the beginning of any line.
        assert git.returncode or "several places" in ours.conflicts[0].reason or not old.endswith("\n")
    else:
        assert git.returncode == 0
        edited = ours.edits["f"]
        assert edited is not None
        assert edited.data == (store.root / "f").read_bytes()


HUNK = "@@ -2,3 +2,4 @@\n b\n c\n+new\n d\n"
NUMBERED = "a\nb\nc\nd\ne\n"


def test_apply_puts_a_hunk_where_it_says_or_where_it_fits_alone() -> None:
    applied = apply(parse(plain("f", HUNK)), files(f="x\ny\n" + NUMBERED))

    assert result(files(f=NUMBERED), plain("f", HUNK)) == {"f": "a\nb\nc\nnew\nd\ne\n"}
    assert result(files(f="x\ny\n" + NUMBERED), plain("f", HUNK)) == {"f": "x\ny\na\nb\nc\nnew\nd\ne\n"}
    assert applied.notes == {"f": ["hunk 1 goes to line 4"]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("x\n" + NUMBERED + NUMBERED, "fits in several places"),
        ("a\nb\nC\nd\ne\n", "does not fit"),
        ("a\r\nb\r\nc\r\nd\r\ne\r\n", "does not fit"),
        ("", "does not fit"),
        ("xb\nc\nd\n", "does not fit"),
        ("a\nb\nc\nnew\nd\ne\n", "the change is there already"),
        ("top\na\nb\nc\nnew\nd\ne\n", "the change is there already"),
    ],
)
def test_apply_never_guesses(content: str, reason: str) -> None:
    ((file, told),) = conflicts(files(f=content), plain("f", HUNK))

    assert (file, reason in told) == ("f", True)


def test_apply_keeps_windows_line_ends() -> None:
    hunk = "@@ -1,2 +1,2 @@\n-a\r\n+b\r\n c\r\n"

    assert result(files(f="a\r\nc\r\n"), plain("f", hunk)) == {"f": "b\r\nc\r\n"}


def test_apply_adds_and_takes_the_last_newline() -> None:
    adds = plain("f", "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n")

    assert result(files(f="a"), adds) == {"f": "a\n"}
    assert conflicts(files(f="a\n"), adds) == [("f", "the change is there already")]
    assert result(files(f="a\n"), render(undoing(parse(adds), {}))) == {"f": "a"}
    assert conflicts(files(f="ab\n"), adds) == [
        ("f", "hunk 1 (line 1) does not fit: its old lines are not there")
    ]


def test_apply_refuses_a_hunk_that_nothing_holds_in_its_place() -> None:
    blind = plain("f", "@@ -2,0 +3 @@\n+x\n")

    assert conflicts(files(f=NUMBERED), blind)[0][0] == "f"
    assert conflicts(files(f="a\nb\n"), blind)[0][0] == "f"
    assert result(files(f=""), plain("f", "@@ -0,0 +1 @@\n+x\n")) == {"f": "x\n"}


CREATE = "--- /dev/null\n+++ b/d/f\n@@ -0,0 +1 @@\n+x\n"
DELETE = "--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
RENAME = "diff --git a/f b/g\nrename from f\nrename to g\n"
CHMOD = git_diff("f", "old mode 100644", "new mode 100755")


@pytest.mark.parametrize(
    ("tree", "patch", "reason"),
    [
        ({}, plain("f"), "it is not there"),
        ({"f": FOLDER}, plain("f"), "it is a folder"),
        ({"f": Obstacle("is a symbolic link")}, plain("f"), "it is a symbolic link"),
        (files(**{"d/f": "y\n"}), CREATE, "it exists already"),
        (files(**{"d/f": "x\n"}), CREATE, "the change is there already"),
        ({"d": Obstacle("is a symbolic link")}, CREATE, "'d' is not a folder"),
        ({"d": File(PLAIN, b"")}, CREATE, "'d' is not a folder"),
        ({}, DELETE, "the change is there already"),
        (files(f="x\ny\n"), DELETE, "does not fit"),
        (files(f="x\n", g=""), RENAME, "it exists already"),
        (files(g="x\n"), RENAME, "the change is there already"),
        ({"f": File(EXECUTABLE, b"")}, CHMOD, "the change is there already"),
        ({"f": Obstacle("is a submodule")}, CHMOD, "it is a submodule"),
    ],
)
def test_apply_says_what_stands_in_the_way(tree: Tree, patch: str, reason: str) -> None:
    ((_, told),) = conflicts(tree, patch)

    assert reason in told


def test_apply_deletes_an_empty_file_and_no_other() -> None:
    text = git_diff("f", "deleted file mode 100644")

    assert result(files(f=""), text) == {"f": None}
    assert conflicts(files(f="x\n"), text) == [("f", "it holds more than the patch deletes")]


def test_apply_swaps_names_and_puts_a_file_in_the_place_of_another() -> None:
    swap = RENAME + "diff --git a/g b/f\nrename from g\nrename to f\n"
    instead = DELETE + "--- /dev/null\n+++ b/f/x\n@@ -0,0 +1 @@\n+y\n"

    assert result(files(f="1", g="2"), swap) == {"f": "2", "g": "1"}
    assert result(files(f="x\n"), instead) == {"f": None, "f/x": "y\n"}


def test_apply_tells_every_conflict_and_quotes_nothing() -> None:
    secret = "hunter2hunter2"  # noqa: S105
    text = plain("f", f"@@ -1 +1 @@\n-{secret}\n+x\n") + plain("g")

    told = conflicts(files(f="other\n"), text)

    assert [file for file, _ in told] == ["f", "g"]
    assert secret not in repr(told)


def test_undoing_restores_the_mode_that_a_plain_diff_does_not_name() -> None:
    (back,) = undoing(parse(DELETE), {"f": EXECUTABLE})

    assert (back.action, back.new_mode) == ("create", EXECUTABLE)
