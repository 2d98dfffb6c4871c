"""Reading a diff: what is taken, what is refused, and that every mistake names its line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_agents.patcher.diff import FilePatch, render
from penstock_agents.patcher.parsing import MAX_FILES, PatchError, parse

CHANGE = "@@ -1 +1 @@\n-a\n+b\n"


def plain(path: str, hunks: str = CHANGE) -> str:
    return f"--- a/{path}\n+++ b/{path}\n{hunks}"


def git_diff(path: str, *headers: str) -> str:
    return "\n".join([f"diff --git a/{path} b/{path}", *headers]) + "\n"


def one(text: str) -> FilePatch:
    (item,) = parse(text)
    return item


def test_parse_reads_what_git_writes() -> None:
    patch = parse(
        "From 0123 Mon Sep 17 00:00:00 2001\nSubject: anything\n---\n a.py | 2 +-\n\n"
        + git_diff("a.py", "index 1..2 100755", "--- a/a.py", "+++ b/a.py")
        + "@@ -3,2 +3,3 @@ def f():\n x\n+y\n z\n"
        + git_diff("new", "new file mode 100755", "index 0..0")
        + git_diff("run", "old mode 100644", "new mode 100755")
        + 'diff --git "a/\\303\\274 \\".c" b/v x\nsimilarity index 100%\n'
        + 'rename from "\\303\\274 \\".c"\nrename to v x\n'
        + "-- \n2.45.0\n\n"
    )

    assert [(item.action, item.path) for item in patch] == [
        ("modify", "a.py"),
        ("create", "new"),
        ("change mode", "run"),
        ("rename", "v x"),
    ]
    assert (patch[0].hunks[0].section, patch[0].hunks[0].added, patch[0].hunks[0].removed) == (
        "def f():",
        1,
        0,
    )
    assert [item.detail for item in patch] == [
        "1 hunk, +1 -0",
        "becomes executable",
        "becomes executable",
        'from ü ".c',
    ]


def test_parse_reads_plain_diffs_of_other_programs() -> None:
    text = (
        "Index: a b.py\n===================================================================\n"
        "--- a b.py\t2026-01-01 00:00:00\n+++ a b.py\t2026-01-02 00:00:00\n" + CHANGE + "\n"
        "diff -ruN a/new b/new\n--- /dev/null\n+++ b/new\n@@ -0,0 +1,2 @@\n+x\n+\n"
        "--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\\ No newline at end of file\n"
    )

    assert [(item.action, item.old, item.new) for item in parse(text)] == [
        ("modify", "a b.py", "a b.py"),
        ("create", None, "new"),
        ("delete", "old", None),
    ]


def test_parse_forgives_a_stripped_end_and_stripped_blank_lines() -> None:
    assert one(plain("f", "@@ -1,3 +1,3 @@\n-a\n+b\n\n c")) == one(
        plain("f", "@@ -1,3 +1,3 @@\n-a\n+b\n \n c\n")
    )


def test_parse_tells_of_characters_that_cannot_be_seen() -> None:
    assert "cannot be seen" in one(plain("f", "@@ -1 +1 @@\n-a\n+if x:\u202e # admin\n")).detail


HOSTILE = {
    "../x": "must stay in the repository",
    "a/../../x": "must stay in the repository",
    "./x": "must stay in the repository",
    "a//x": "must stay in the repository",
    "/etc/passwd": "is absolute",
    "C:/x": "is absolute",
    "c:x": "is absolute",
    "a\\..\\x": "a backslash",
    ".git/config": "git's own folder",
    "sub/.git/hooks/pre-commit": "git's own folder",
    ".GIT/config": "git's own folder",
    ".giT /config": "git's own folder",
    ".git./config": "git's own folder",
    ".git. . /config": "git's own folder",
    ".git::$INDEX_ALLOCATION/config": "git's own folder",
    ".git:x/config": "git's own folder",
    "GIT~1/config": "git's own folder",
    ".g\u200cit/config": "cannot be seen",
    "a\u202eb": "cannot be seen",
    "a\x1b[31m": "cannot be seen",
    "x" * 256: "too long",
    "x/" * 2100 + "x": "too long",
}


@pytest.mark.parametrize(("path", "reason"), HOSTILE.items(), ids=[name[:20] for name in HOSTILE])
def test_parse_refuses_paths_that_lead_elsewhere(path: str, reason: str) -> None:
    creation = f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"
    rename = f"diff --git a/f b/{path}\nsimilarity index 100%\nrename from f\nrename to {path}\n"

    for text in (plain(path), creation, git_diff(path, "new file mode 100644"), rename):
        with pytest.raises(PatchError, match=f"^line 1: .*{reason}"):
            parse(text)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (r'"a/x\000y"', "cannot be seen"),
        (r'"a/x\ny"', "cannot be seen"),
        (r'"a/\377"', "not valid UTF-8"),
        (r'"a/\56\56/x"', "unknown escape"),
        (r'"a/\056\056/x"', "must stay in the repository"),
        (r'"a/\056git/x"', "git's own folder"),
        (r'"a/x', "no end"),
    ],
)
def test_parse_refuses_quoted_names_that_hide_something(name: str, reason: str) -> None:
    with pytest.raises(PatchError, match=reason):
        parse(f"--- {name}\n+++ {name.replace('a/', 'b/')}\n{CHANGE}")


CREATED = "--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+x\n"

REFUSED = {
    "link": (git_diff("f", "new file mode 120000") + CREATED, 2, "symbolic links"),
    "link deleted": (git_diff("f", "deleted file mode 120000"), 2, "symbolic links"),
    "link changed": (git_diff("f", "index 1..2 120000", "--- a/f", "+++ b/f") + CHANGE, 2, "symbolic links"),
    "became a link": (git_diff("f", "old mode 100644", "new mode 120000"), 3, "symbolic links"),
    "submodule": (git_diff("f", "new file mode 160000"), 2, "submodules"),
    "setuid": (git_diff("f", "new file mode 104755"), 2, "is not 100644 or 100755"),
    "binary": (git_diff("f", "index 1..2 100644", "GIT binary patch"), 3, "binary"),
    "binary told": (git_diff("f", "index 1..2", "Binary files a/f and b/f differ"), 3, "binary"),
    "copy": (git_diff("f", "copy from f", "copy to g"), 2, "copies"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parse_refuses_what_is_no_text(case: str) -> None:
    text, line, reason = REFUSED[case]

    with pytest.raises(PatchError, match=f"^line {line}: .*{reason}"):
        parse(text)


NEW = "new file mode 100644"

MALFORMED = {
    "empty": ("", 1, "no diff here"),
    "blank": (" \n\n", 1, "no diff here"),
    "prose": ("please fix it\n--- \n", 1, "no diff here"),
    "no hunk": ("--- a/f\n+++ b/f\n", 3, "a hunk must follow"),
    "no numbers": (plain("f", "@@ @@\n-a\n+b\n"), 3, "must look like"),
    "line 0": (plain("f", "@@ -0 +1 @@\n-a\n+b\n"), 3, "names line 0"),
    "too few lines": (plain("f", "@@ -1,2 +1,2 @@\n-a\n+b\n"), 3, "ends early"),
    "too many removed": (plain("f", "@@ -1 +1,2 @@\n-a\n-b\n+c\n+d\n"), 5, "more lines"),
    "too many added": (plain("f", CHANGE + "+c\n"), 6, "belongs to no file"),
    "trailing context": (plain("f", CHANGE + " c\n"), 6, "belongs to no file"),
    "cut line": (plain("f", "@@ -1,2 +1,2 @@\n-a\n+b\nx\n"), 6, "must begin with"),
    "no change": (plain("f", "@@ -1 +1 @@\n-a\n+a\n"), 3, "changes nothing"),
    "only context": (plain("f", "@@ -1 +1 @@\n a\n"), 3, "changes nothing"),
    "empty hunk": (plain("f", "@@ -0,0 +0,0 @@\n"), 3, "changes nothing"),
    "overlap": (plain("f", "@@ -1,2 +1,2 @@\n-a\n+b\n c\n@@ -2 +2 @@\n-c\n+d\n"), 7, "overlaps"),
    "order": (plain("f", "@@ -9 +9 @@\n-a\n+b\n@@ -2 +2 @@\n-c\n+d\n"), 6, "out of order"),
    "newline mark first": (plain("f", "@@ -1 +1 @@\n\\ No\n-a\n+b\n"), 4, "must follow a line"),
    "newline mark twice": (plain("f", "@@ -1 +1 @@\n-a\n\\ No\n\\ No\n+b\n"), 6, "must follow a line"),
    "newline mark inside": (plain("f", "@@ -1,2 +1,2 @@\n-a\n\\ No\n+b\n c\n"), 3, "only the last line"),
    "hunk after the end": (plain("f", CHANGE + "\\ No\n@@ -5 +5 @@\n-a\n+b\n"), 7, "follows the end"),
    "text between": (plain("f") + "hello\n" + plain("g"), 6, "belongs to no file"),
    "Windows line ends": (plain("f").replace("\n", "\r\n"), 1, "Windows line ends"),
    "two names": ("--- a/f\n+++ b/g\n" + CHANGE, 1, "differ"),
    "names contradict": (git_diff("f", "--- a/g", "+++ b/g") + CHANGE, 1, "contradict"),
    "rename contradicts": ("diff --git a/f b/g\nrename from f\nrename to h\n", 1, "contradict"),
    "half a rename": ("diff --git a/f b/g\nrename from f\n", 1, "needs both names"),
    "half a mode": (git_diff("f", "old mode 100644"), 1, "an old and a new mode"),
    "created and deleted": (git_diff("f", NEW, "deleted file mode 100644"), 1, "only one of them"),
    "created from something": (git_diff("f", NEW, "--- a/f", "+++ b/f") + CHANGE, 1, "contradict"),
    "created with old lines": ("--- /dev/null\n+++ b/f\n" + CHANGE, 1, "to create a file"),
    "deleted in part": ("--- a/f\n+++ /dev/null\n" + CHANGE, 1, "to delete a file"),
    "header twice": (git_diff("f", "index 1..2", "index 1..2"), 3, "stands twice"),
    "nothing": (git_diff("f", "index 1..2 100644"), 1, "nothing is changed"),
    "same file twice": (plain("f") + plain("f"), 6, "changed twice"),
    "file and folder": (git_diff("x", NEW) + git_diff("x/y", NEW), 3, "both a file and a folder"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_parse_names_the_line_that_is_wrong(case: str) -> None:
    text, line, reason = MALFORMED[case]

    with pytest.raises(PatchError, match=f"^line {line}: .*{reason}"):
        parse(text)


def test_parse_refuses_too_many_files() -> None:
    with pytest.raises(PatchError, match="more than"):
        parse("".join(plain(f"f{number}") for number in range(MAX_FILES + 1)))


def test_parse_survives_lines_made_to_be_slow() -> None:
    for text in ("diff --git " + " " * 900_000, '--- "' + "\\" * 900_000, "\n" * 900_000, "--\n" * 300_000):
        with pytest.raises(PatchError):
            parse(text + "\n+++ x\n")


PIECES = (
    "--- a/f|+++ b/f|@@ -1,2 +1,2 @@|@@ -1 +1 @@|-a|+b| c||\\ No|rename to g|index 1..2|diff --git a/g b/g"
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES.split("|"))))
def test_parse_gives_a_patch_that_renders_or_an_error_with_its_line(pieces: list[str]) -> None:
    text = "\n".join(["diff --git a/f b/f", *pieces])
    error = ""
    try:
        patch = parse(text)
    except PatchError as caught:
        error = str(caught)
    else:
        assert parse(render(patch)) == patch

    assert not error or error.startswith("line ")
