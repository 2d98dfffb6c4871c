"""Diffs taken apart for people."""

from __future__ import annotations

from difflib import unified_diff

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.diffs import FileDiff, lines_of, parse_diff

CHANGE = """\
diff --git a/src/pay.py b/src/pay.py
index 1111111..2222222 100644
--- a/src/pay.py
+++ b/src/pay.py
@@ -1,4 +1,5 @@ def load
 import os
-import pickle
+import json
+import sys

 x = 1
@@ -10 +11 @@
-old
\\ No newline at end of file
+new
"""

_LINE = st.one_of(
    st.text(st.characters(exclude_characters="\n"), max_size=12),
    st.sampled_from(
        [
            "--- a/x",
            "+++ b/x",
            "+++ /dev/null",
            "--- /dev/null",
            "@@ -1 +1 @@",
            "@@ -1,3 +1,2 @@",
            "@@ -0,0 +1,9 @@",
            "diff --git a/x b/x",
            "+",
            "-",
            " ",
            "",
            "+ added",
            "- removed",
            "\\ No newline at end of file",
            "rename to y",
            "-- ",
        ]
    ),
)


def only(diff: str) -> FileDiff:
    (file,) = parse_diff(diff)
    return file


@given(st.lists(_LINE, max_size=40).map("\n".join), st.sampled_from(["", "\n"]))
def test_no_line_gets_lost(text: str, end: str) -> None:
    diff = text + end
    expected = diff.removesuffix("\n").split("\n") if diff else []

    assert list(lines_of(parse_diff(diff))) == expected


@given(
    st.lists(st.sampled_from("abc-+@ \\"), max_size=30), st.lists(st.sampled_from("abc-+@ \\"), max_size=30)
)
def test_both_versions_can_be_read_from_the_numbers(old: list[str], new: list[str]) -> None:
    diff = "".join(f"{line}\n" for line in unified_diff(old, new, "a/f", "b/f", lineterm="", n=1))
    lines = [line for file in parse_diff(diff) for hunk in file.hunks for line in hunk.lines]

    assert all(old[line.old - 1] == line.text[1:] for line in lines if line.old is not None)
    assert all(new[line.new - 1] == line.text[1:] for line in lines if line.new is not None)
    assert sum(line.kind == "added" for line in lines) - sum(line.kind == "removed" for line in lines) == len(
        new
    ) - len(old)


def test_lines_have_kinds_and_numbers() -> None:
    file = only(CHANGE)
    first, second = file.hunks

    assert (file.name, file.added, file.removed, file.notes) == ("src/pay.py", 3, 2, [])
    assert first.header == "@@ -1,4 +1,5 @@ def load"
    assert [(line.kind, line.old, line.new) for line in first.lines] == [
        ("same", 1, 1),
        ("removed", 2, None),
        ("added", None, 2),
        ("added", None, 3),
        ("same", 3, 4),
        ("same", 4, 5),
    ]
    assert [(line.kind, line.text) for line in second.lines] == [
        ("removed", "-old"),
        ("note", "\\ No newline at end of file"),
        ("added", "+new"),
    ]


def test_lines_that_look_like_headers_stay_in_their_hunk() -> None:
    diff = (
        "--- a/f.sql\n+++ b/f.sql\n@@ -1,2 +1,2 @@\n--- drop\n-@@ -1 +1 @@\n+++ keep\n+diff --git a/x b/x\n"
    )
    (hunk,) = only(diff).hunks

    assert [line.kind for line in hunk.lines] == ["removed", "removed", "added", "added"]


def test_lines_beyond_the_counts_stand_under_no_file() -> None:
    files = parse_diff("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n+smuggled\n")

    assert [(file.name, file.head) for file in files] == [("f", ["--- a/f", "+++ b/f"]), ("", ["+smuggled"])]


def test_several_files_with_and_without_git_headers() -> None:
    plain = "--- a/one\n+++ b/one\n@@ -1 +1 @@\n-a\n+b\n--- a/two\n+++ b/two\n@@ -1 +1 @@\n-a\n+b\n"

    assert [file.name for file in parse_diff(plain)] == ["one", "two"]
    assert [file.name for file in parse_diff(CHANGE + CHANGE.replace("pay", "ship"))] == [
        "src/pay.py",
        "src/ship.py",
    ]


@pytest.mark.parametrize(
    ("head", "name", "notes"),
    [
        (["new file mode 100755", "--- /dev/null", "+++ b/run.sh"], "run.sh", ["new file", "executable"]),
        (["new file mode 120000", "--- /dev/null", "+++ b/l"], "l", ["new file", "symbolic link"]),
        (["deleted file mode 100644", "--- a/old.py", "+++ /dev/null"], "old.py", ["deleted"]),
        (["--- /dev/null", "+++ b/n"], "n", ["new file"]),
        (["--- a/o\t2026-01-01", "+++ /dev/null\t1970"], "o", ["deleted"]),
        (["diff --git a/a b/b", "rename from a", "rename to b"], "b", ["moved from a"]),
        (["diff --git a/a b/b", "copy from a", "copy to b"], "b", ["copied from a"]),
        (["diff --git a/x y b/x y", "old mode 100644", "new mode 100755"], "x y", ["mode 100644 → 100755"]),
        (["diff --git a/i.png b/i.png", "Binary files a/i.png and b/i.png differ"], "i.png", ["binary"]),
        (['--- "a/caf\\303\\251 \\"x\\""', '+++ "b/caf\\303\\251 \\"x\\""'], 'café "x"', []),
        (['--- "a/\\377\\\\"', '+++ "b/\\377\\\\"'], "\\xff\\", []),
        (["--- a/<script>", "+++ b/<script>"], "<script>", []),
        (["From: somebody", "", "Subject: x"], "", []),
    ],
)
def test_names_and_what_happens_to_the_file(head: list[str], name: str, notes: list[str]) -> None:
    file = only("\n".join(head) + "\n")

    assert (file.name, file.notes, file.head, file.size) == (name, notes, head, len(head))


def test_nothing_gives_nothing() -> None:
    assert parse_diff("") == ()


def test_hunk_without_a_file_and_windows_ends_of_lines() -> None:
    file = only("@@ -1,2 +1,2 @@\r\n \r\n\r\n")

    assert file.name == ""
    assert [line.kind for line in file.hunks[0].lines] == ["same", "same"]
