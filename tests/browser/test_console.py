"""The console in a real browser: the real gateway, its login and a real store, without an engine."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import pytest
from playwright.async_api import Browser, async_playwright, expect
from sqlalchemy import text

from browser.conftest import FLAGS
from browser.console_pages import Console, open_console, serving
from gateway.console_kit import EDITABLE, RISK, Desk, make_plan, open_desk
from gateway.test_console import hostile
from penstock.approvals.terms import Clause
from penstock.store.database import Database
from penstock.store.sessions import make_link
from penstock.store.tokens import token_hash
from support.postgres import database, database_url, postgres_server, postgres_template

__all__ = ["database", "database_url", "postgres_server", "postgres_template"]

pytestmark = [pytest.mark.integration, pytest.mark.browser]

Visit = Callable[..., Awaitable[Console]]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
LONG = "A" * 3000


@pytest.fixture
async def desk(database: Database, tmp_path: Path) -> Desk:
    return await open_desk(database, tmp_path)


@pytest.fixture
async def browser(browser_path: str) -> AsyncGenerator[Browser]:
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        yield opened
        await opened.close()


@pytest.fixture
async def visit(browser: Browser, desk: Desk) -> AsyncGenerator[Visit]:
    """Open consoles; in the end none may have had trouble."""
    opened: list[Console] = []

    async def open_one(person: str = "ada", **options: Any) -> Console:
        chosen: dict[str, Any] = {"viewport": DESKTOP, **options}
        context = await browser.new_context(**chosen)
        context.set_default_timeout(30_000)
        opened.append(await open_console(context, base, await desk.session(person)))
        return opened[-1]

    async with AsyncExitStack() as stack:
        base = await stack.enter_async_context(serving(desk.app))
        yield open_one
        for console in opened:
            await console.page.close()
    assert [console.trouble for console in opened] == [[] for _ in opened]


async def decisions(desk: Desk, request_id: UUID) -> list[tuple[Any, ...]]:
    shown = await desk.services.approvals.show(request_id)
    return [(said["person"], said["decision"], said["comment"]) for said in shown["decisions"]]


async def test_approve_by_one_click(desk: Desk, visit: Visit) -> None:
    request = await desk.ask()
    console = await visit()
    await console.card(request.id)
    assert await console.nameless() == []

    await console.comment.fill("looks right")
    await console.button("Approve").click()

    await console.tells("Approved. The run goes on.")
    await console.is_in_state("Approved")
    run_url = desk.services.approvals.links.run(request.run_id)
    await expect(console.outcome.get_by_role("link")).to_have_attribute("href", run_url)
    await expect(console.outcome).to_be_focused()
    await expect(console.comment).to_have_count(0)
    assert await decisions(desk, request.id) == [("ada", "approve", "looks right")]
    assert desk.engine.woken == [request.run_id]


async def test_double_click_decides_once(desk: Desk, visit: Visit) -> None:
    request = await desk.ask(clauses=[Clause("workflow", "two people", count=2)])
    console = await visit()
    await console.card(request.id)

    await console.button("Approve").dblclick()

    await console.tells("Your approval is recorded.", "1 more approval")
    await expect(console.page.locator("#why-not")).to_have_text("you have approved it already")
    await expect(console.button("Approve")).to_be_disabled()
    assert console.sent == [f"/api/approvals/{request.id}/respond"]
    assert await decisions(desk, request.id) == [("ada", "approve", "")]


async def test_buttons_rest_while_a_decision_is_under_way(desk: Desk, visit: Visit) -> None:
    request = await desk.ask()
    console, arrived, go_on = await visit(), asyncio.Event(), asyncio.Event()

    async def hold(route: Any) -> None:
        arrived.set()
        await go_on.wait()
        await route.continue_()

    await console.page.route("**/respond", hold)
    await console.card(request.id)
    await console.button("Approve").click()
    await arrived.wait()

    await console.tells("Sending")
    for name in ("Approve", "Reject", "Send back"):
        await expect(console.button(name).first).to_be_disabled()
    await console.page.keyboard.press("r")
    go_on.set()
    await console.tells("Approved.")
    assert len(console.sent) == 1


async def test_keys_lead_from_the_inbox_to_a_decision(desk: Desk, visit: Visit) -> None:
    first, second = await desk.ask("First"), await desk.ask("Second")
    console = await visit()
    keys = console.page.keyboard
    await console.inbox()

    for key, title in (("j", "First"), ("j", "Second"), ("j", "Second"), ("k", "First"), ("j", "Second")):
        await keys.press(key)
        await expect(console.page.get_by_role("link", name=title)).to_be_focused()
    await keys.press("Enter")
    await console.page.wait_for_url(f"**/approvals/{second.id}")
    await keys.press("a")
    await expect(console.page.get_by_role("alertdialog")).to_contain_text("Approve this?")
    await expect(console.page.locator("#confirm-yes")).to_be_focused()
    await keys.press("Escape")
    await expect(console.page.get_by_role("alertdialog")).to_be_hidden()
    assert console.sent == []
    await keys.press("a")
    await keys.press("a")
    await console.tells("Approved.")
    await keys.press("u")
    await expect(console.page.locator(".row-title")).to_have_text(["First", "Second"])

    await console.card(first.id)
    await keys.press("r")
    await keys.press("Enter")
    await console.tells("Rejected. fix does not run.")
    assert await decisions(desk, first.id) == [("ada", "reject", "")]


async def test_help_shows_the_keys(visit: Visit) -> None:
    console = await visit()
    await console.inbox()

    await console.page.keyboard.press("?")

    await expect(console.page.get_by_role("dialog", name="Keys")).to_contain_text("approve")
    await console.page.keyboard.press("Escape")
    await expect(console.page.get_by_role("dialog")).to_be_hidden()
    await console.page.get_by_role("button", name="Keys").click()
    await console.page.get_by_role("button", name="Close").click()
    await expect(console.page.get_by_role("dialog")).to_be_hidden()


async def test_sending_back_needs_a_note(desk: Desk, visit: Visit) -> None:
    request = await desk.ask()
    console = await visit()
    await console.card(request.id)

    await console.button("Send back").click()
    await console.tells("Write a note first")
    await expect(console.comment).to_be_focused()
    await console.comment.press_sequentially("smaller, as in r and a")
    await console.page.keyboard.press("Control+Enter")

    await console.tells("Sent back.")
    await console.is_in_state("Sent back")
    assert await decisions(desk, request.id) == [("ada", "send_back", "smaller, as in r and a")]


async def test_note_can_be_sent_back_by_keys_alone(desk: Desk, visit: Visit) -> None:
    request = await desk.ask()
    console = await visit()
    await console.card(request.id)

    await console.page.keyboard.press("s")
    await console.page.keyboard.type("less")
    await console.page.keyboard.press("Escape")
    await console.page.keyboard.press("s")
    await expect(console.page.get_by_role("alertdialog")).to_contain_text("Send it back")
    await console.page.keyboard.press("s")

    await console.tells("Sent back.")
    assert await decisions(desk, request.id) == [("ada", "send_back", "less")]


async def test_inputs_are_changed_in_a_form(desk: Desk, visit: Visit) -> None:
    request = await desk.ask(terms={"editable": EDITABLE})
    console = await visit()
    await console.card(request.id)
    await console.page.keyboard.press("e")
    form = console.page.locator("#edit")
    assert await console.nameless() == []

    await form.get_by_role("button", name="Approve with edits").click()
    await console.tells("Nothing is changed yet.")
    await form.get_by_label("batch").fill("60")
    await form.get_by_label("labels").fill("[")
    await form.get_by_role("button", name="Approve with edits").click()
    await expect(form.get_by_label("batch")).to_be_focused()
    await expect(form.get_by_text("50", exact=False)).to_be_visible()
    await expect(form.get_by_text("This is no JSON")).to_be_visible()
    await form.get_by_label("batch").fill("7")
    await form.get_by_label("labels").fill('["a"]')
    await form.get_by_label("Mode").select_option("fast")
    await form.get_by_label("Tell the team").uncheck()
    await form.get_by_label("Branch").press("Enter")

    await console.tells("Approved with your edits.")
    await console.is_in_state("Edited")
    (said,) = (await desk.services.approvals.show(request.id))["decisions"]
    assert said["edits"] == {"batch": 7, "labels": ["a"], "mode": "fast", "notify": False}


async def test_glass_is_broken_with_a_reason(desk: Desk, visit: Visit) -> None:
    until = datetime.now(UTC) + timedelta(hours=5)
    freeze = Clause("freeze w.yaml/x", "Holidays", 2, break_glass=True, until=until)
    request = await desk.ask(clauses=[freeze, RISK])
    console = await visit()
    await console.card(request.id)

    await console.button("Break the glass").click()
    await console.button("Break the glass and approve").click()
    assert console.sent == []
    await console.page.get_by_label("Reason", exact=True).fill("it burns")
    await console.page.get_by_label("I approve it in spite of the freeze").check()
    await console.button("Break the glass and approve").click()

    await console.tells("Your approval is recorded.")
    await expect(console.page.locator(".decisions")).to_contain_text("breaking the glass")
    assert await decisions(desk, request.id) == [("ada", "approve", "it burns")]


async def test_requests_that_are_alike_are_decided_together(desk: Desk, visit: Visit) -> None:
    storm = [await desk.ask("Storm", digest="same") for _ in range(3)]
    console = await visit()
    await console.inbox()
    assert await console.rows() == ["Storm"]
    await console.page.get_by_role("link", name="Storm").click()

    await console.page.get_by_label("Decide all 3 requests that are alike").check()
    await console.button("Approve").click()

    await console.tells("Approved.", "3 requests")
    assert [await decisions(desk, one.id) for one in storm] == [[("ada", "approve", "")]] * 3


async def test_code_for_the_prefect_form_is_shown(desk: Desk, visit: Visit) -> None:
    request = await desk.ask()
    console = await visit()
    await console.card(request.id)

    await console.button("Code for the Prefect UI").click()

    await expect(console.outcome.locator("code")).to_have_text(re.compile(r"[0-9a-f]{4}(-[0-9a-f]{4}){3}"))
    await console.is_in_state("Open")


async def test_somebody_else_was_faster(desk: Desk, visit: Visit) -> None:
    request = await desk.ask()
    console = await visit()
    await console.card(request.id)
    await desk.say(request, "bob")

    await console.button("Reject").click()

    await console.tells("is approved by bob")
    await console.is_in_state("Approved")
    await expect(console.comment).to_have_count(0)
    assert await decisions(desk, request.id) == [("bob", "approve", "")]


async def test_news_arrive_by_themselves(desk: Desk, visit: Visit) -> None:
    request = await desk.ask(clauses=[Clause("workflow", "two people", count=2)])
    console = await visit()
    await console.card(request.id)
    await console.comment.fill("I was about to say")

    await desk.say(request, "bob")

    await expect(console.page.locator(".decisions")).to_contain_text("bob approved")
    await expect(console.comment).to_have_value("I was about to say")
    await console.comment.focus()
    await desk.say(request, "tess", "reject")
    await console.tells("has changed since you opened it")
    await expect(console.outcome).to_be_focused()
    await console.is_in_state("Rejected")


async def test_storm_that_grows_does_not_disturb_who_types(desk: Desk, visit: Visit) -> None:
    request = await desk.ask(digest="same")
    console = await visit()
    await console.card(request.id)
    await console.comment.fill("I was about to")

    await desk.ask(digest="same")

    await expect(console.page.get_by_label("Decide all 2 requests that are alike")).not_to_be_checked()
    await expect(console.comment).to_be_focused()
    await expect(console.comment).to_have_value("I was about to")
    await expect(console.outcome).to_be_empty()


async def test_void_request_leads_to_the_newer_one(desk: Desk, visit: Visit) -> None:
    old = await desk.ask(digest="old")
    console = await visit()
    await console.card(old.id)
    new = await desk.ask(digest="new", run_id=old.run_id)

    await console.button("Approve").click()

    await console.tells("is void")
    await console.page.get_by_role("link", name="Open the newer request").click()
    await console.page.wait_for_url(f"**/approvals/{new.id}")
    await console.button("Approve").click()
    await console.tells("Approved.")


async def test_gateway_that_does_not_answer_leaves_nobody_wondering(desk: Desk, visit: Visit) -> None:
    request = await desk.ask()
    console = await visit()
    await console.card(request.id)
    await console.page.route("**/approvals/**", lambda route: route.abort())

    await console.button("Approve").click()
    await console.tells("Penstock did not answer.", "counts once")
    await console.refresh()
    await expect(console.page.locator("#stale")).to_contain_text("not up to date")

    await console.page.unroute_all()
    await console.button("Approve").click()
    await console.tells("Approved.")
    await expect(console.page.locator("#stale")).to_be_hidden()


async def test_who_may_not_decide_sees_why(desk: Desk, visit: Visit) -> None:
    request = await desk.ask(clauses=[Clause("workflow", "not who asks", forbid=("requester",))])
    console = await visit("tess")
    await console.card(request.id)

    await expect(console.page.locator("#why-not")).to_be_visible()
    for name in ("Approve", "Reject", "Send back"):
        await expect(console.button(name)).to_be_disabled()
    for key in "aarrss":
        await console.page.keyboard.press(key)
    assert console.sent == []


async def test_session_that_has_ended_is_told(desk: Desk, visit: Visit) -> None:
    request = await desk.ask()
    console = await visit()
    await console.card(request.id)
    await desk.database.fetch(text("DELETE FROM penstock.web_session RETURNING hash"))

    await console.button("Approve").click()

    await console.tells("You are signed out.")
    again = console.outcome.get_by_role("link", name="Sign in again")
    await expect(again).to_have_attribute("href", f"/login?next=%2Fapprovals%2F{request.id}")
    await again.click()
    await expect(console.page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert await decisions(desk, request.id) == []


async def test_sign_out_by_its_button(visit: Visit) -> None:
    console = await visit()
    await console.inbox()

    await console.page.get_by_role("button", name="Sign out").click()

    await expect(console.page.get_by_role("heading", name="Sign in")).to_be_visible()
    await console.inbox()
    await expect(console.page.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_inbox_refreshes_itself_and_keeps_the_place(desk: Desk, visit: Visit) -> None:
    await desk.ask("Here from the start")
    console = await visit()
    await console.inbox()
    await console.page.keyboard.press("j")

    await desk.ask("Came later", expires_in_s=60.0)

    await expect(console.page.locator(".row-title")).to_have_text(["Came later", "Here from the start"])
    await expect(console.page.get_by_role("link", name="Here from the start")).to_be_focused()
    await expect(console.page).to_have_title(re.compile(r"\(2\)"))


async def test_hidden_page_asks_for_nothing(visit: Visit) -> None:
    console = await visit()
    asked: list[str] = []
    await console.page.clock.install()
    await console.inbox()
    console.page.on("request", lambda request: asked.append(urlsplit(request.url).path))

    await console.page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
    )
    await console.page.clock.run_for(60_000)
    assert "/approvals" not in asked
    await console.page.evaluate("Object.defineProperty(document, 'hidden', {value: false})")
    async with console.page.expect_request("**/approvals"):
        await console.refresh()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_words_of_others_stay_text_and_fit(desk: Desk, visit: Visit, viewport: dict[str, int]) -> None:
    card = {**hostile(), "note": {"person": LONG, "text": LONG}, "undo": LONG}
    plan = make_plan(
        summary=LONG, targets=[LONG], diff=f"--- a/{LONG}\n+++ b/x\n@@ -1 +1 @@\n-{LONG}\n+{LONG}\n"
    )
    evil = await desk.ask(LONG, card=card, clauses=[Clause(LONG, LONG, of=(f"user:{LONG}", "user:ada"))])
    long = await desk.ask("Long", card={"plan": plan, "inputs": {LONG: LONG}}, terms={"editable": {LONG: {}}})
    console = await visit(viewport=viewport)

    for request in (evil, long):
        await console.card(request.id)
        assert await console.overflow() <= 0
        await expect(console.page.locator("main script, main img, iframe")).to_have_count(0)
    await console.page.keyboard.press("e")
    assert await console.overflow() <= 0
    await console.inbox()
    assert await console.overflow() <= 0


async def test_phone_has_the_decision_at_hand(desk: Desk, visit: Visit) -> None:
    request = await desk.ask(terms={"editable": EDITABLE})
    console = await visit(viewport=PHONE, has_touch=True, is_mobile=True)
    await console.inbox()
    await console.page.get_by_role("link", name=request.title).tap()

    for name in ("Approve", "Reject", "Send back"):
        await expect(console.button(name).first).to_be_in_viewport(ratio=1)
    await expect(console.page.get_by_role("heading", level=1)).to_be_in_viewport(ratio=1)
    await console.page.locator(".card-foot").scroll_into_view_if_needed()
    covered = "document.querySelector('.card').getBoundingClientRect().bottom - window.innerHeight"
    await console.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert await console.page.evaluate(covered) <= 0
    await console.button("Approve").first.tap()

    await console.tells("Approved.")
    await expect(console.outcome).to_be_in_viewport(ratio=1)
    assert await console.overflow() <= 0


async def test_dark_and_light(desk: Desk, visit: Visit) -> None:
    await desk.ask()
    grounds: list[str] = []
    for scheme in ("dark", "light"):
        console = await visit(color_scheme=scheme)
        await console.inbox()
        grounds.append(await console.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert grounds == ["rgb(15, 19, 25)", "rgb(245, 246, 248)"]


async def test_link_signs_in_and_leads_to_the_request(desk: Desk, visit: Visit) -> None:
    request, token = await desk.ask(), secrets.token_urlsafe(32)
    await make_link(desk.database, token_hash(token), person="bob", lifetime_s=60)
    console = await visit()
    await console.page.context.clear_cookies()

    await console.card(request.id)
    await expect(console.page.get_by_role("heading", name="Sign in")).to_be_visible()
    query = urlencode({"token": token, "next": f"/approvals/{request.id}"})
    await console.page.goto(f"{console.base}/login/link?{query}")
    await console.page.get_by_role("button", name="Sign in as bob").click()

    await console.page.wait_for_url(f"**/approvals/{request.id}")
    await console.button("Approve").click()
    await console.tells("Approved.")
    assert await decisions(desk, request.id) == [("bob", "approve", "")]
