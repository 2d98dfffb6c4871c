"""The Prefect UI behind the gateway's login, in a real browser: no code is needed to approve there.

With `PENSTOCK_SCREENSHOTS` set to a folder it leaves the picture of the documentation there.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from playwright.async_api import Locator, Page, expect

from browser.run_pages import NewerRunPage, OlderRunPage, RunPage
from browser.test_run_buttons import recorded
from engine.flows import node, workflow
from engine.test_gates import decide, end_of, eventually, lines, mutate, requests, start, suspended
from support.stack import StackUnderTest

pytestmark = [pytest.mark.integration, pytest.mark.browser]


class _Older(OlderRunPage):
    """The page behind the gateway: its form wants no code."""

    suffix = ""
    path = "/prefect/runs/flow-run/{}"

    async def form(self) -> Locator:
        """Press Resume and give the form that appears."""
        await self._button("Resume").click()
        return self.page.get_by_role("dialog")

    async def send(self, form: Locator, decision: str, comment: str) -> None:
        """Fill in the form and send it."""
        await form.get_by_role("group").first.get_by_role("button").press("ArrowDown")
        await self.page.get_by_role("option", name=decision).click()
        await form.get_by_role("textbox").fill(comment)
        await form.get_by_role("button", name="Submit").click()


class _Newer(NewerRunPage):
    """The page behind the gateway: its form wants no code."""

    suffix = "-newer"
    path = "/prefect/v2/runs/flow-run/{}"

    async def form(self) -> Locator:
        """Press Resume and give the form that appears."""
        await self._choose("Resume")
        return self.page.get_by_role("dialog", name="Resume Flow Run")

    async def send(self, form: Locator, decision: str, comment: str) -> None:
        """Fill in the form and send it."""
        await form.get_by_role("button", name="Select Decision").click()
        await self.page.get_by_role("option", name=decision).click()
        await form.get_by_role("textbox", name="Comment").fill(comment)
        await form.get_by_role("button", name="Resume").click()


@dataclass
class Visitor:
    """A browser before the gateway, and what stands behind it."""

    page: Page
    stack: StackUnderTest
    services: Any
    pictures: Path
    trouble: list[str] = field(default_factory=list[str])
    """What scripts complain of, and what they want of others than the gateway."""

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.stack.settings.port}"

    def listen(self) -> None:
        """Take down trouble."""
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on(
            "request", lambda one: self.trouble.extend([one.url] if self._is_foreign(one.url) else [])
        )

    def _is_foreign(self, url: str) -> bool:
        return not url.startswith((f"{self.base}/", "data:", f"blob:{self.base}/"))

    async def sign_in(self, wanted: str) -> str:
        """Open a page of the gateway that wants a login, sign in, and give the person."""
        printed = await asyncio.to_thread(self.stack.cli, "login", "--json")
        asked = json.loads(printed.stdout)
        await self.page.goto(f"{self.base}{wanted}")
        await expect(self.page.get_by_role("heading", name="Sign in")).to_be_visible()
        await self.page.goto(f"{asked['url']}&next={wanted}")
        await self.page.get_by_role("button", name=f"Sign in as {asked['person']}").click()
        await expect(self.page).to_have_url(re.compile(f"^{re.escape(self.base + wanted)}"))
        return asked["person"]


@pytest.fixture
def visitor(page: Page, stack: StackUnderTest, services: Any, pictures: Path) -> Visitor:
    made = Visitor(page, stack, services, pictures)
    made.listen()
    return made


@pytest.mark.parametrize("interface", [_Older, _Newer], ids=["older", "newer"])
async def test_vote_that_is_not_enough_is_counted_and_told(
    visitor: Visitor, interface: type[_Older | _Newer], tmp_path: Path
) -> None:
    file, services, page = tmp_path / "f", visitor.services, visitor.page
    run_id = await start(services, workflow([mutate(file, approval={"require": {"count": 2}})]))
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)
    run_page = interface(page, run_id)

    person = await visitor.sign_in(interface.path.format(run_id))
    await run_page.shows("Suspended")
    form = await run_page.form()
    await run_page.send(form, "approve", "go on")
    await expect(page.get_by_text("counted: it still needs 1 more approval").first).to_be_visible()
    await expect(form).to_be_visible()
    await decide(services, request, person="grace")
    shown = await end_of(services, run_id)

    assert (shown["state"], lines(file)) == ("completed", ["changed"])
    decided = await services.approvals.show(UUID(request["id"]))
    assert [(said["person"], said["via"], said["comment"]) for said in decided["decisions"]] == [
        (person, "prefect", "go on"),
        ("grace", "api", ""),
    ]
    assert visitor.trouble == []


@pytest.mark.parametrize("interface", [_Older, _Newer], ids=["older", "newer"])
async def test_approval_without_a_code_completes_the_run(
    visitor: Visitor, interface: type[_Older | _Newer], tmp_path: Path
) -> None:
    file, services, page = tmp_path / "f", visitor.services, visitor.page
    run_id = await start(services, workflow([mutate(file), node("after", needs=["mutate"])]))
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)
    run_page = interface(page, run_id)

    person = await visitor.sign_in(interface.path.format(run_id))
    await run_page.shows("Suspended")
    form = await run_page.form()
    await expect(form.get_by_text("Append to")).to_be_visible()
    await expect(form.get_by_text("Code", exact=True)).to_have_count(0)
    await page.screenshot(path=visitor.pictures / f"approve-signed-in{interface.suffix}.png")
    await run_page.send(form, "approve", "")
    await expect(form).to_be_hidden()
    shown = await end_of(services, run_id)

    assert (shown["state"], lines(file)) == ("completed", ["changed"])
    (said,) = (await services.approvals.show(UUID(request["id"])))["decisions"]
    assert (said["person"], said["via"]) == (person, "prefect")
    await eventually(lambda: recorded(services, run_id, 2))
    await page.reload()
    await run_page.shows("Completed")
    await page.wait_for_timeout(2000)  # the graph is a canvas: nothing tells when it is drawn
    await page.screenshot(path=visitor.pictures / f"run-through-gateway{interface.suffix}.png")
    assert visitor.trouble == []


@pytest.mark.parametrize(
    "place", ["", "v2/dashboard", "runs", "deployments", "blocks", "automations", "settings"]
)
async def test_other_pages_come_up(visitor: Visitor, place: str) -> None:
    await visitor.sign_in("/approvals")
    await visitor.page.goto(f"{visitor.base}/prefect/{place}")

    await expect(visitor.page.get_by_text("Deployments", exact=True).first).to_be_visible()
    await expect(visitor.page).to_have_url(re.compile(f"^{re.escape(visitor.base)}/prefect/"))
    assert visitor.trouble == []


async def test_old_address_of_a_run_leads_to_the_ui(page: Page, stack: StackUnderTest, services: Any) -> None:
    """The UI was at the root of Prefect's own server; pages that somebody has kept lead to it."""
    run_id = await start(services, workflow([node("only")]))
    await end_of(services, run_id)

    await page.goto(f"http://127.0.0.1:{stack.settings.prefect.port}/runs/flow-run/{run_id}?x=1")

    await expect(page).to_have_url(
        f"http://127.0.0.1:{stack.settings.prefect.port}/prefect/runs/flow-run/{run_id}?x=1"
    )
    run_page: RunPage = OlderRunPage(page, run_id)
    await run_page.shows("Completed")
