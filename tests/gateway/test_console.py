"""The console's pages as the gateway renders them, over a real store and with the real rules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from gateway.console_kit import DIFF, EDITABLE, RISK, Desk, make_plan, open_desk
from penstock.approvals.terms import Clause
from penstock.store.approval_ends import withdraw_requests
from penstock.store.database import Database

pytestmark = pytest.mark.integration

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)> {{ 7 * 7 }} \u202egnp.exe\u200b\x00'
SHOWN = '"><script>alert(1)</script><img src=x onerror=alert(1)> {{ 7 * 7 }} \\u202egnp.exe\\u200b'
VOID = frozenset({"meta", "link", "img", "input", "br"})


@pytest.fixture
async def desk(database: Database, tmp_path: Path) -> Desk:
    return await open_desk(database, tmp_path)


class Page(HTMLParser):
    """What a page holds: the texts by the id of what they are in, the tags, the rows of an inbox."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._open: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[tuple[str, ...], str]] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            named = dict(attrs)
            self._open.append((tag, f"{named.get('id') or ''} {named.get('class') or ''}"))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.words.append((tuple(f"{tag} {names}" for tag, names in self._open), data))

    def text(self, within: str = "") -> str:
        """Give the text of every element with a tag, id or class."""
        found = "".join(
            data
            for places, data in self.words
            if not within or any(within in place.split() for place in places)
        )
        return " ".join(found.split())

    def count(self, tag: str, **attributes: str) -> int:
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return sum(found == tag and wanted.items() <= known.items() for found, known in self.tags)

    def links(self) -> list[str]:
        return [str(known.get("href")) for tag, known in self.tags if tag == "a"]

    def titles(self) -> list[str]:
        return [data for places, data in self.words if places and "row-title" in places[-1].split()]


async def get(desk: Desk, path: str, person: str = "ada") -> Page:
    async with desk.client(person) as client:
        answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return Page(answer.text)


async def card_of(desk: Desk, request: Any, person: str = "ada") -> Page:
    return await get(desk, f"/approvals/{request.id}", person)


def soon(**delta: float) -> datetime:
    return datetime.now(UTC) + timedelta(**delta)


async def test_pages_want_to_know_who_asks(desk: Desk) -> None:
    request = await desk.ask()
    async with desk.client(None) as client:
        inbox = await client.get("/approvals?view=decided")
        card = await client.get(f"/approvals/{request.id}")
        style = await client.get("/static/console.css")
        script = await client.get("/static/console.js")

    assert inbox.status_code == card.status_code == 303
    assert inbox.headers["location"] == "/login?next=%2Fapprovals%3Fview%3Ddecided"
    assert card.headers["location"] == f"/login?next=%2Fapprovals%2F{request.id}"
    assert (style.status_code, script.status_code) == (200, 200)
    assert script.headers["content-type"].startswith("text/javascript")


async def test_start_page_is_the_inbox(desk: Desk) -> None:
    async with desk.client() as client:
        answer = await client.get("/")

    assert (answer.status_code, answer.headers["location"]) == (303, "/approvals")


async def test_empty_inbox_says_so(desk: Desk) -> None:
    page = await get(desk, "/approvals")

    assert "Nothing waits for you" in page.text("inbox")
    assert "it appears here by itself" in page.text("inbox")
    assert "Nothing has been decided yet" in (await get(desk, "/approvals?view=decided")).text("inbox")
    assert "Nothing was closed" in (await get(desk, "/approvals?view=closed")).text("inbox")


async def test_inbox_shows_what_waits_for_me_first_and_what_ends_first(desk: Desk) -> None:
    finance = Clause("policy p.yaml/money", "Money needs finance", of=("group:finance",))
    await desk.ask("Not mine", clauses=[finance])
    await desk.ask("Oldest")
    await desk.ask("Ends late", expires_in_s=7000.0)
    await desk.ask("Ends soon", expires_in_s=600.0)
    approved = await desk.ask("Approved by me", clauses=[Clause("workflow", "two people", count=2)])
    await desk.say(approved, "ada")

    page = await get(desk, "/approvals")

    assert page.titles() == ["Ends soon", "Ends late", "Oldest", "Not mine", "Approved by me"]
    inbox = page.text("inbox")
    assert "Waiting for you 3" in inbox
    assert "Waiting for others 2" in inbox
    assert "you have approved it already" in inbox
    assert "group:finance" in inbox
    assert ("span", {"class": "ends late"}) in page.tags
    assert ("span", {"class": "ends near"}) in page.tags
    assert page.text("title").startswith("(3) Approvals ")


async def test_row_tells_what_it_is_about(desk: Desk) -> None:
    request = await desk.ask(card={"plan": make_plan(targets=[f"host-{number}" for number in range(9)])})

    page = await get(desk, "/approvals", person="bob")

    row = page.text("row")
    for words in ("fix-payments ", " fix ", "by agent patcher", "asked by tess", "needs 1 approval", "waits"):
        assert words in row
    assert "host-0 host-1 host-2" in row
    assert "and 3 more" in row
    assert f"/approvals/{request.id}" in page.links()


async def test_requests_that_are_alike_are_one_row(desk: Desk) -> None:
    for _ in range(3):
        await desk.ask("Storm", digest="same")
    await desk.ask("Other")

    page = await get(desk, "/approvals")

    assert sorted(page.titles()) == ["Other", "Storm"]
    assert "3 alike" in page.text("row")
    assert "Waiting for you 2" in page.text("inbox")


async def test_decided_and_closed_requests_have_their_own_lists(desk: Desk) -> None:
    approved, rejected, closed = [await desk.ask(title) for title in ("Yes", "No", "Gone")]
    await desk.say(approved, "bob")
    await desk.say(rejected, "bob", "reject", comment="not today")
    await withdraw_requests(desk.database, closed.run_id, "the run was cancelled")

    inbox, decided = await get(desk, "/approvals"), await get(desk, "/approvals?view=decided")
    gone = await get(desk, "/approvals?view=closed")

    assert inbox.titles() == decided.titles() == ["No", "Yes"]
    assert "Decided lately 2" in inbox.text("inbox")
    assert "Rejected" in decided.text("row")
    assert "bob" in decided.text("row")
    assert gone.titles() == ["Gone"]
    assert "the run was cancelled" in gone.text("row")


async def test_long_lists_have_pages(desk: Desk) -> None:
    for number in range(101):
        await desk.ask(f"Request {number}")

    first = await get(desk, "/approvals")
    (older,) = [link for link in first.links() if "cursor=" in link]
    second = await get(desk, older)

    assert len(first.titles()) == 100
    assert second.titles() == ["Request 0"]
    assert "Newest" in second.text("pages")


async def test_wrong_list_is_refused(desk: Desk) -> None:
    async with desk.client() as client:
        assert (await client.get("/approvals?view=all")).status_code == 422
        assert (await client.get("/approvals?cursor=mine")).status_code == 422


async def test_card_shows_what_would_happen(desk: Desk) -> None:
    request = await desk.ask(expires_in_s=3000.0)

    page = await card_of(desk, request)

    body = page.text("body")
    for words in (
        "Patch 2 files on branch main",
        "change pay.py 4 lines added, 3 removed",
        "/srv/repositories/payments",
        RISK.why,
        "Reset branch main to 4be1c2d.",
        "patcher 1.2.0",
        "revision 3",
        "Pickle runs what it reads.",
        str(request.id),
        request.digest,
    ):
        assert words in body
    assert f"{desk.services.approvals.links.run(request.run_id)}" in page.links()
    assert page.text("needs") == "Needs 1 approval"
    assert "ends in 49 min" in page.text("state")
    assert page.text("h1") == request.title


async def test_card_shows_every_line_of_the_diff_with_its_numbers(desk: Desk) -> None:
    page = await card_of(desk, await desk.ask())

    cells = [data for places, data in page.words if places and places[-1] == "td  code"]
    headers = ("diff ", "index ", "--- ", "+++ ", "new file")
    assert cells == [line for line in DIFF.splitlines() if line and not line.startswith(headers)]
    assert page.text("added").startswith("1+import json2+from typing import Any5+def load")
    assert page.text("removed") == "1-import pickle4-def load(raw):5- return pickle.loads(raw)"
    assert "tests/test_pay.py new file +3 " in page.text("file")


async def test_long_diffs_are_folded_and_whole(desk: Desk) -> None:
    short = "--- a/short\n+++ b/short\n@@ -1 +1 @@\n-a\n+b\n"
    lines = "".join(f"+line {number}\n" for number in range(700))
    diff = f"{short}--- /dev/null\n+++ b/long\n@@ -0,0 +1,700 @@\n{lines}"
    page = await card_of(desk, await desk.ask(card={"plan": make_plan(diff=diff)}))

    folds = [known for tag, known in page.tags if tag == "details" and known.get("class") == "file"]
    assert ["open" in known for known in folds] == [True, False]
    assert "703 lines" in page.text("fold-hint")
    assert "+line 699" in page.text("added")


async def test_card_tells_what_happened_before(desk: Desk) -> None:
    past = {"at": "2026-01-01T00:00:00+00:00", "run_id": "r", "workflow": "fix", "state": "failed"}
    card = {
        "note": {"person": "grace", "text": "One zone first.\nThen wait."},
        "changed": [
            {"what": "plan.summary", "before": "3 zones", "after": "zone a"},
            {"what": "plan.diff", "before": "", "after": "x" * 700},
        ],
        "edited": {"person": "bob", "inputs": {"batch": {"before": 50, "after": [5]}}},
        "history": [{**past, "approved_by": ["ada", "bob"]}],
        "undo": "",
    }
    page = await card_of(desk, await desk.ask(card=card))

    body = page.text("body")
    assert "grace sent it back One zone first. Then wait." in body
    assert "plan.summary before: 3 zones now: zone a" in body
    assert f"plan.diff Before and after before: nothing now: {'x' * 700}" in body
    assert "Inputs changed by bob batch before: 50 now: [ 5 ]" in body
    assert "failed fix approved by ada, bob" in body
    assert "cannot be undone" in body


async def test_card_without_a_plan_shows_the_inputs(desk: Desk) -> None:
    page = await card_of(desk, await desk.ask(card={"plan": None}))

    assert page.count("details", open="") == 0  # pages write `open` without a value
    assert any(tag == "details" and "open" in known for tag, known in page.tags)
    assert "Apply a patch to a repository." in page.text("body")
    assert page.count("table") == 0


async def test_card_of_an_earlier_version_is_shown(desk: Desk) -> None:
    request = await desk.ask("Old")
    empty = text(
        "UPDATE penstock.approval_request SET card = '{\"plan\": null}', terms = '{}' WHERE id = :id"
    )
    await desk.database.fetch(empty, {"id": request.id})

    assert "Old" in (await card_of(desk, request)).text("content")
    assert (await get(desk, "/approvals")).titles() == ["Old"]


async def test_what_changes_can_be_had_alone(desk: Desk) -> None:
    request = await desk.ask()

    page = await get(desk, f"/approvals/{request.id}?part=side")

    assert "needs 1 approval" in page.text("status").lower()
    assert page.count("button", data_decision="approve") == 1
    assert (page.count("table"), page.count("script"), page.count("article")) == (0, 0, 0)


async def test_clauses_say_who_has_approved_and_what_is_missing(desk: Desk) -> None:
    clauses = [
        RISK,
        Clause("policy pay.yaml/eyes", "Two groups", 2, ("group:sre", "group:finance"), distinct_groups=True),
        Clause("workflow", "Not you", forbid=("requester", "last_editor")),
    ]
    request = await desk.ask(clauses=clauses)
    await desk.say(request, "bob", comment="fine by me")

    page = await card_of(desk, request)

    status = page.text("clauses")
    assert f"{RISK.why} met ✓ bob any approver" in status
    assert "Two groups 1 of 2 ✓ bob group:sre or group:finance of different groups" in status
    assert "policy pay.yaml/eyes" in status
    assert "not by who asks not by who last changed the workflow" in status
    assert "bob approved" in page.text("decisions")
    assert "fine by me" in page.text("decisions")


@pytest.mark.parametrize(
    ("person", "reason"), [("vera", "vera"), ("tess", "tess"), ("bob", "you have approved it already")]
)
async def test_who_cannot_decide_is_told_why(desk: Desk, person: str, reason: str) -> None:
    clauses = [Clause("workflow", "two people, not who asks", count=2, forbid=("requester",))]
    request = await desk.ask(clauses=clauses)
    await desk.say(request, "bob")

    page = await card_of(desk, request, person)

    (answers,) = [known for tag, known in page.tags if tag == "fieldset"]
    assert "disabled" in answers
    assert reason in page.text("why-not")


async def test_freeze_can_be_broken_once_by_each(desk: Desk) -> None:
    freeze = Clause("freeze w.yaml/x", "Holidays", 2, break_glass=True, until=soon(hours=30))
    request = await desk.ask(clauses=[freeze, RISK])

    before = await card_of(desk, request)
    await desk.say(request, "ada")
    plain = await card_of(desk, request)
    await desk.say(request, "ada", break_glass=True, comment="it burns")
    after = await card_of(desk, request)

    assert [page.count("form", id="glass") for page in (before, plain, after)] == [1, 1, 0]
    assert [page.count("textarea", id="comment") for page in (before, plain, after)] == [1, 0, 1]
    assert "Holidays, for 1 d 5 h more. It takes 2 people." in before.text("glass")
    assert "breaking the glass" in after.text("decisions")


async def test_freeze_that_is_over_needs_no_broken_glass(desk: Desk) -> None:
    over = Clause("freeze w.yaml/x", "Holidays", 2, break_glass=True, until=soon(seconds=-1))

    assert (await card_of(desk, await desk.ask(clauses=[over, RISK]))).count("form", id="glass") == 0


async def test_inputs_that_may_be_changed_have_fields(desk: Desk) -> None:
    page = await card_of(desk, await desk.ask(terms={"editable": EDITABLE}))

    kinds = {known["data-name"]: known["data-kind"] for _, known in page.tags if "data-kind" in known}
    assert kinds == {
        "branch": "text",
        "mode": "choice",
        "batch": "integer",
        "share": "number",
        "notify": "flag",
        "labels": "json",
        "message": "long",
    }
    assert page.count("input", type="number", min="1", max="50", step="1", value="5") == 1
    assert "Where the commit goes." in page.text("edit")


async def test_closed_request_leads_to_the_newer_one(desk: Desk) -> None:
    old = await desk.ask(digest="old")
    new = await desk.ask(digest="new", run_id=old.run_id)
    other = await desk.ask(digest="other", run_id=old.run_id, node_id="deploy")

    page, current = await card_of(desk, old), await card_of(desk, new)

    assert "what would run has changed" in page.text("status")
    assert f"/approvals/{new.id}" in page.links()
    assert f"/approvals/{other.id}" not in page.links()
    assert page.count("textarea") == 0
    assert "asked again, round 2" in current.text("card-head")


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        ({"decision": "approve"}, "Approved"),
        ({"decision": "reject"}, "does not run"),
        ({"decision": "send_back", "comment": "smaller"}, "plans again with the note"),
        ({"decision": "approve", "edits": {"batch": 7}}, "made again with the changed inputs"),
    ],
)
async def test_decided_request_says_what_came_of_it(desk: Desk, decision: dict[str, Any], words: str) -> None:
    request = await desk.ask(terms={"editable": EDITABLE})

    async with desk.client() as client:
        answer = await client.post(f"/api/approvals/{request.id}/respond", json=decision)
    page = await card_of(desk, request)

    assert answer.status_code == 200, answer.text
    assert words in page.text("status")
    assert page.count("textarea") == 0
    assert desk.engine.woken == [request.run_id]


@pytest.mark.parametrize("name", ["00000000-0000-0000-0000-000000000000", "nonsense", "..%2f..", "%00"])
async def test_unknown_request_is_a_page(desk: Desk, name: str) -> None:
    async with desk.client() as client:
        answer = await client.get(f"/approvals/{name}")

    assert answer.status_code == 404
    assert "text/html" in answer.headers["content-type"] or name.startswith("..")


def hostile() -> dict[str, Any]:
    plan = make_plan(
        summary=EVIL,
        targets=[EVIL],
        changes=[{"target": EVIL, "action": EVIL, "detail": EVIL}],
        diff=f"{EVIL}\ndiff --git a/x b/x\n--- a/{EVIL}\n+++ b/{EVIL}\n@@ -1 +1 @@ {EVIL}\n-{EVIL}\n+{EVIL}",
    )
    past = {"at": "2026-01-01T00:00:00+00:00", "run_id": EVIL, "workflow": EVIL, "state": EVIL}
    return {
        **dict.fromkeys(("title", "workflow", "run", "node", "requester", "why", "undo"), EVIL),
        "agent": {"name": EVIL, "version": EVIL, "does": EVIL},
        "inputs": {EVIL: EVIL, "branch": EVIL, "mode": EVIL, "labels": [EVIL]},
        "plan": plan,
        "history": [{**past, "approved_by": [EVIL]}],
        "changed": [{"what": EVIL, "before": EVIL, "after": EVIL}],
        "note": {"person": EVIL, "text": EVIL},
        "edited": {"person": EVIL, "inputs": {EVIL: {"before": EVIL, "after": EVIL}}},
    }


async def test_words_of_others_stay_text(desk: Desk) -> None:
    schemas = {
        "branch": {"type": "string", "title": EVIL, "description": EVIL},
        "mode": {"enum": [EVIL, "x"], "title": EVIL},
        "labels": {"type": "array"},
    }
    clause = Clause(EVIL, EVIL, of=(EVIL, "user:ada", "user:bob"), count=3)
    freeze = Clause(EVIL, EVIL, 2, break_glass=True)
    request = await desk.ask(
        EVIL, clauses=[RISK, clause, freeze], card=hostile(), terms={"editable": schemas}, node_id=EVIL[:60]
    )
    await desk.say(request, "bob", comment=EVIL)

    card, inbox = await card_of(desk, request), await get(desk, "/approvals")

    for page in (card, inbox):
        assert SHOWN in page.text("content")
        assert page.count("script") == 1
        assert _unseen(page) == []
        assert [
            known for tag, known in page.tags if tag == "img" and known["src"] != "/static/icon.svg"
        ] == []
        assert not any(name.startswith("on") or name == "style" for _, known in page.tags for name in known)
    assert card.text("content").count("alert(1)") > 40


def _unseen(page: Page) -> Sequence[str]:
    """Find texts that hold characters nobody sees, but for values in fields, which must be whole."""
    texts = [data for places, data in page.words if not any(place.startswith("textarea") for place in places)]
    attributes = [
        str(value) for tag, known in page.tags if tag not in {"input", "option"} for value in known.values()
    ]
    return [found for found in (*texts, *attributes) if "\u202e" in found or "\u200b" in found]


async def test_headers_let_nothing_foreign_in(desk: Desk) -> None:
    async with desk.client() as client:
        answer: httpx.Response = await client.get("/approvals")

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
