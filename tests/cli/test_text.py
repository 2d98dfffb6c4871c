"""What commands print: text from outside as text, cards as people read them."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer

from penstock.cli.cards import card_lines, missing
from penstock.cli.following import Followed, how_to_decide, words_of
from penstock.cli.ids import pick
from penstock.cli.tables import print_table
from penstock.cli.text import plain
from penstock.errors import InputInvalid, NotFound
from penstock.store.events import Event

ID = "11111111-2222-4333-8444-555555555555"
HOSTILE = "calm\x1b[31m\u202edown\r\x9b"

CLAUSE = {
    "source": "workflow",
    "why": "the workflow asks for an approval here",
    "count": 2,
    "of": ["group:sre"],
    "given": ["ann"],
    "missing": 1,
}


def request(**changes: Any) -> dict[str, Any]:
    card = {
        "title": "Patch it",
        "workflow": "fix",
        "revision": 3,
        "run": "tidy-otter",
        "node": "apply",
        "requester": "tess",
        "why": "patcher changes things and always needs an approval",
        "agent": {"name": "patcher", "version": "1", "does": "Apply a patch."},
        "inputs": {"patch": "x" * 300},
        "undo": "restores the backup",
        "plan": {
            "summary": "Patch one file",
            "targets": ["a.py", "main"],
            "changes": [{"target": "a.py", "action": "modify", "detail": "2 lines"}],
            "diff": "@@ -1 +1 @@\n-old\n+new \u202e\n same",
        },
    }
    card.update(changes.pop("card", {}))
    return {
        "id": ID,
        "run_id": str(uuid4()),
        "node": "apply[web]",
        "state": "open",
        "title": card["title"],
        "needs": "1 more approval",
        "alike": 1,
        "clauses": [CLAUSE],
        "editable": {"patch": {"type": "string"}},
        "may_decide": None,
        "reason": None,
        "opened_at": "2026-07-29T12:00:00+00:00",
        "expires_at": None,
        "decisions": [
            {
                "person": "ann",
                "decision": "approve",
                "comment": "go",
                "via": "cli",
                "at": "2026-07-29T12:01:00+00:00",
                "break_glass": False,
                "edits": None,
            }
        ],
        "card": card,
        **changes,
    }


def card(**changes: Any) -> str:
    return "\n".join(card_lines(request(**changes)))


def test_plain_text_steers_no_terminal_and_hides_nothing() -> None:
    assert plain(HOSTILE) == "calm\\x1b[31m\\u202edown\\r\\x9b"
    assert plain("tab\tand\nline, ümläut, 漢字 ✓") == "tab\tand\nline, ümläut, 漢字 ✓"
    assert plain("\ud800") == "\\ud800"


def test_card_tells_what_where_who_why_and_how_to_undo() -> None:
    shown = card()

    for words in ("Patch it", "fix, revision 3", "apply[web]", "tess", "always needs an approval"):
        assert words in shown
    assert "open, needs 1 more approval" in shown
    assert "[ ] 1 of 2 from group:sre, approved by ann (workflow: the workflow asks" in shown
    assert f"penstock approvals approve {ID} --edit patch=…  (string)" in shown
    assert "restores the backup" in shown
    assert "modify a.py 2 lines" in shown
    assert "\n  main" in shown
    assert "ann: approve (cli" in shown
    assert f"penstock approvals approve {ID}" in shown
    assert f"penstock approvals reject {ID}" in shown


def test_diff_is_coloured_line_by_line_and_hides_no_direction_marks() -> None:
    shown = card()

    assert typer.style("-old", fg="red") in shown
    assert typer.style("+new \\u202e", fg="green") in shown
    assert "\n same" in shown


def test_colours_stay_out_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    for line in card_lines(request()):
        typer.echo(line)

    assert "\x1b" not in capsys.readouterr().out


def test_inputs_are_cut_only_where_a_plan_says_what_comes_of_them() -> None:
    assert "x" * 300 not in card()
    assert "300 characters" in card()
    assert "x" * 300 in card(card={"plan": None})


def test_hostile_card_is_shown_as_text() -> None:
    plan = {"summary": HOSTILE, "targets": [HOSTILE], "changes": [], "diff": ""}
    inputs = {HOSTILE: HOSTILE, "list": [HOSTILE]}

    shown = card(title=HOSTILE, card={"plan": plan, "inputs": inputs, "requester": HOSTILE, "undo": HOSTILE})

    assert "\x1b" not in shown.replace("\x1b[1m", "").replace("\x1b[0m", "")  # the bold title
    assert "\u202e" not in shown
    assert "\r" not in shown


def test_closed_request_says_how_it_ended_and_offers_nothing() -> None:
    shown = card(state="withdrawn", reason="the run has ended", decisions=[])

    assert "withdrawn" in shown
    assert "the run has ended" in shown
    assert "penstock approvals" not in shown
    assert missing(request(state="approved")) == "approved by ann"
    assert missing(request(needs="2 approvals")) == "2 approvals"


def test_tables_show_text_from_outside_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [(HOSTILE, None), ("x\ny", 1)])

    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert shown.splitlines()[2].startswith("x y ")


@pytest.mark.parametrize(
    ("type_", "data", "words"),
    [
        ("node.running", {"attempt": 1}, "running"),
        ("node.failed", {"attempt": 2}, "failed (attempt 2)"),
        ("node.skipped", {"reason": "not wanted"}, "skipped (not wanted)"),
        ("node.waiting_approval", {"reason": "waits"}, ""),
        ("approval.decided", {"state": "rejected", "person": "ann"}, "rejected by ann"),
        (
            "approval.voted",
            {"decision": "approve", "person": "ann"},
            "ann says approve; more people must decide",
        ),
        ("approval.expired", {}, "nobody decided in time"),
        ("approval.used", {}, ""),
        (
            "run.suspended",
            {"message": f"a {HOSTILE}"},
            f"is suspended (a {plain(HOSTILE)})".replace("\\r", " "),
        ),
        ("run.queued", {"message": "1 of 1 run"}, "waits for a place (1 of 1 run)"),
        ("run.lost", {"worker": "w1"}, "has lost its worker; another one goes on (w1)"),
        ("run.left", {}, "was let go by its worker; another one goes on"),
        ("run.cancelling", {"by": "ann"}, "is being cancelled (ann)"),
        ("run.entered", {"worker": "w1"}, ""),
        ("run.completed", {"message": "1 succeeded"}, ""),
    ],
)
def test_events_are_told_in_a_few_words(type_: str, data: dict[str, Any], words: str) -> None:
    event = Event(1, uuid4(), datetime.now(UTC), type_, "a", data)

    assert words_of(event) == words


def test_run_that_waits_for_people_says_how_to_decide_and_ends_with_three() -> None:
    ask = request(title=HOSTILE)
    followed = Followed({"state": "suspended"}, [ask])

    assert followed.exit == 3
    assert followed.data["approvals"] == [ask]
    assert Followed({"state": "suspended"}).exit == 3
    assert Followed({"state": "rejected"}).exit == 1
    assert f"  penstock approvals approve {ID}" in how_to_decide(ask)
    assert "\x1b" not in "".join(how_to_decide(ask))


def test_ids_are_found_by_their_first_digits() -> None:
    one, other = UUID(ID), UUID("11111111-3222-4333-8444-555555555555")

    assert pick([one, other], "111111112", "run") == one
    with pytest.raises(InputInvalid, match=f"2 runs begin with '111111': {one}, {other}"):
        pick([one, other], "111111", "run")
    with pytest.raises(NotFound, match="none of the newest 2 runs begins with 'abcdef'"):
        pick([one, other], "abcdef", "run")


def test_help_loads_neither_prefect_nor_the_database() -> None:
    heavy = ("prefect", "sqlalchemy", "fastapi", "jinja2")
    code = f"import sys, penstock.cli.main; print([name for name in {heavy!r} if name in sys.modules])"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert ran.stdout.strip() == "[]"
