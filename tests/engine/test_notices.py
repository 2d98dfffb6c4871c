"""People are told that they are asked: once each, again when it fails, and never with an address in sight."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import text

from penstock.approvals.rules import RuleBook
from penstock.approvals.terms import Clause, Terms, terms_to
from penstock.engine.judging import RuleJudge
from penstock.engine.links import Links
from penstock.engine.notices import Notifier
from penstock.errors import AgentFailed
from penstock.settings import GatewaySettings, Settings
from penstock.store.approval_ends import due_requests, fire_timers
from penstock.store.approvals import ApprovalRequest
from penstock.store.database import Database
from penstock.store.passes import take_link
from penstock.store.tokens import token_hash
from penstock.store.workflows import save_revision
from penstock_blocks.sending import Message
from store.asking import ask, facts_of, say
from store.entering import age, enter

pytestmark = pytest.mark.integration

ADDRESS = "mailtos://bot:hunter2@mail.example.org"
CARD = {
    "why": "mutate changes things and always needs an approval",
    "run": "brave-otter",
    "workflow": "fix",
    "plan": {"summary": "Append @everyone\u202e", "targets": ["/srv/a", "/srv/b"], "diff": "+secret plan"},
}
_LINK = re.compile(r"^Decide: https://gate\.example\.org/a/(\S+)$", re.MULTILINE)


@dataclass
class Block:
    """A notification block."""

    name: str

    def addresses(self) -> list[str]:
        """Reveal the addresses."""
        return [ADDRESS, f"{ADDRESS}/{self.name}"]


@dataclass
class Post:
    """What blocks are there, what was sent to which, and what goes wrong."""

    sent: list[tuple[str, Message]] = field(default_factory=list[tuple[str, Message]])
    broken: Any = None
    """What goes wrong at the last address of each block; an error is raised."""

    async def load(self, name: str) -> Any:
        """Load a block."""
        if name == "gone":
            raise AgentFailed("Prefect has no block named 'gone'")
        if name == "wrong":
            raise ValueError(f"bad address {ADDRESS}")
        return object() if name == "other" else Block(name)

    def send(self, addresses: Sequence[str], message: Message) -> list[str]:
        """Send."""
        if isinstance(self.broken, Exception):
            raise self.broken
        self.sent += [(address.removeprefix(f"{ADDRESS}/"), message) for address in addresses[1:]]
        return ["", self.broken or ""]

    @property
    def titles(self) -> list[str]:
        """The titles of what was sent."""
        return [message.title for _, message in self.sent]


@pytest.fixture
def post() -> Post:
    return Post()


def notifier(database: Database, post: Post, *blocks: str) -> Notifier:
    links = Links(Settings(gateway=GatewaySettings(url="https://gate.example.org")))
    judge = RuleJudge(RuleBook(None, None))
    return Notifier(database, judge, links, blocks, load=post.load, send=post.send)


async def asked(database: Database, **terms: Any) -> ApprovalRequest:
    """Have a request opened."""
    revision = await save_revision(
        database, workflow="fix", digest="d", source="x", spec={}, agents={}, created_by="ann"
    )
    entry = await enter(database, revision)
    clause = Clause("workflow", "", count=2, of=("user:ada", "user:bob"))
    given = Terms((clause,), requester="tess", **terms)
    seconds = [*given.remind_s, *([given.escalate_after_s] if given.escalate_after_s else [])]
    next_in_s = min(seconds, default=None)
    return await ask(database, entry, card=CARD, terms=terms_to(given), next_in_s=next_in_s)


async def outbox(database: Database, request: ApprovalRequest) -> list[dict[str, Any]]:
    statement = text("SELECT * FROM penstock.approval_notice WHERE request_id = :id ORDER BY id")
    return [dict(row) for row in await database.fetch(statement, {"id": request.id})]


async def make_due(database: Database) -> None:
    """Let the time go by until what failed is tried again."""
    await database.fetch(text("UPDATE penstock.approval_notice SET next_try_at = now()"))


async def test_people_are_told_once_what_is_asked(database: Database, post: Post) -> None:
    request = await asked(database)
    one, two = notifier(database, post, "team"), notifier(database, post, "team")

    await asyncio.gather(one.send_due(), two.send_due())
    await make_due(database)
    await one.send_due()

    ((block, message),) = post.sent
    assert (block, message.title) == ("team", "Approval needed: Patch the host")
    told = message.body.splitlines()
    for line in (
        "Where: /srv/a, /srv/b",
        "Why: mutate changes things and always needs an approval",
        "Asked by: tess",
        "Run: brave-otter of fix, node apply",
        "Needs: 2 approvals from user:ada or user:bob",
        "Who: user:ada, user:bob",
    ):
        assert line in told
    assert "@everyone" not in message.body
    assert "\u202e" not in message.body
    assert "secret plan" not in message.body, "a diff is for those who have signed in"
    (notice,) = await outbox(database, request)
    assert (notice["kind"], notice["tries"], notice["error"]) == ("asked", 1, None)
    assert notice["done_at"] is not None


async def test_link_leads_to_the_request_once(database: Database, post: Post) -> None:
    request = await asked(database)
    await notifier(database, post, "team", "boss").send_due()

    tokens = {found[1] for _, message in post.sent if (found := _LINK.search(message.body))}
    (token,) = tokens
    assert [block for block, _ in post.sent] == ["team", "boss"]
    stored = await database.fetch(text("SELECT * FROM penstock.approval_pass"))
    assert token not in str([dict(row) for row in stored])
    assert await take_link(database, token_hash(token), person="ada") == request.id
    assert await take_link(database, token_hash(token), person="bob") is None
    assert await take_link(database, token_hash("forged"), person="bob") is None
    assert await facts_of(database, "link.used") == [{"person": "ada"}]
    assert await facts_of(database, "link.refused") == [{"because": "used before", "person": "bob"}]


async def test_people_are_reminded_and_others_told(database: Database, post: Post) -> None:
    request = await asked(database, remind_s=(60.0,), escalate_after_s=120.0, escalate_to=("user:cy",))
    sender = notifier(database, post, "team")
    await sender.send_due()

    for _ in range(2):
        await age(database, "approval_request", request.id, 60, "opened_at", "timed_until", "next_at")
        assert await due_requests(database) == [request.id]
        await fire_timers(database, request.id, sender.judge)
        await sender.send_due()

    assert post.titles == [
        "Approval needed: Patch the host",
        "Still waiting for approval: Patch the host",
        "Escalated: approval needed: Patch the host",
    ]
    whom = [re.findall(r"^Who: (.*)$", message.body, re.MULTILINE) for _, message in post.sent]
    assert whom == [["user:ada, user:bob"]] * 2 + [["user:ada, user:bob, user:cy"]]


async def test_request_that_is_closed_is_not_told_of(database: Database, post: Post) -> None:
    request = await asked(database)
    await say(database, request)

    await notifier(database, post, "team").send_due()

    assert post.sent == []
    (notice,) = await outbox(database, request)
    assert (notice["done_at"] is not None, notice["tries"]) == (True, 0)


async def test_request_that_is_closed_while_telling_fails_is_not_told_of_again(
    database: Database, post: Post
) -> None:
    request = await asked(database)
    post.broken = "away"
    await notifier(database, post, "team").send_due()
    await say(database, request)
    await make_due(database)

    await notifier(database, post, "team").send_due()

    assert len(post.sent) == 1


async def test_without_blocks_nobody_is_told_and_nothing_piles_up(database: Database, post: Post) -> None:
    request = await asked(database)

    await notifier(database, post).send_due()

    assert post.sent == []
    assert [notice["done_at"] is not None for notice in await outbox(database, request)] == [True]
    assert await database.fetch(text("SELECT FROM penstock.approval_pass")) == []


@pytest.mark.parametrize(
    "broken", [f"refused by {ADDRESS}", ValueError(f"bad {ADDRESS}")], ids=["refused", "raised"]
)
async def test_what_fails_is_tried_eight_times_and_then_given_up(
    database: Database, post: Post, caplog: pytest.LogCaptureFixture, broken: Any
) -> None:
    request = await asked(database)
    post.broken = broken
    sender = notifier(database, post, "team")

    for tries in range(1, 9):
        await sender.send_due()
        await sender.send_due()  # too early for another try
        (notice,) = await outbox(database, request)
        assert (notice["tries"], notice["done_at"] is None) == (tries, tries < 8)
        await make_due(database)
    post.broken = None
    await sender.send_due()

    (notice,) = await outbox(database, request)
    assert notice["tries"] == 8
    assert notice["error"].startswith("block 'team'")
    assert "Approval needed" not in post.titles[8:]
    assert f"request {request.id}: nobody was told by block 'team'" in caplog.text
    assert "hunter2" not in caplog.text + str(notice)


async def test_what_failed_is_told_when_it_works_again(database: Database, post: Post) -> None:
    request = await asked(database)
    post.broken = "away"
    sender = notifier(database, post, "team")
    await sender.send_due()
    post.broken = None
    await make_due(database)

    await sender.send_due()

    (notice,) = await outbox(database, request)
    assert (notice["tries"], notice["error"], len(post.sent)) == (2, None, 2)
    assert notice["done_at"] is not None


async def test_block_that_cannot_be_used_keeps_nobody_else_from_being_told(
    database: Database, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await asked(database), await asked(database)

    await notifier(database, post, "gone", "wrong", "other", "team").send_due()

    assert [block for block, _ in post.sent] == ["team", "team"]
    for request in (first, second):
        (notice,) = await outbox(database, request)
        assert notice["error"] == (
            "Prefect has no block named 'gone'; block 'wrong' could not be used: ValueError;"
            " block 'other' holds no notification addresses"
        )
    assert "hunter2" not in caplog.text


async def test_notice_of_a_sender_that_died_is_sent_by_the_next_one(database: Database, post: Post) -> None:
    request = await asked(database)
    sender = notifier(database, post, "team")
    dying = Notifier(database, sender.judge, sender.links, ["team"], load=_dies, send=post.send)
    with pytest.raises(asyncio.CancelledError):
        await dying.send_due()
    await sender.send_due()
    assert post.sent == [], "it may still be at it"
    await make_due(database)

    await sender.send_due()

    (notice,) = await outbox(database, request)
    assert (len(post.sent), notice["tries"], notice["done_at"] is not None) == (1, 2, True)


async def _dies(name: str) -> Any:
    raise asyncio.CancelledError(name)
