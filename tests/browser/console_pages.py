"""The console's pages, used as a person uses them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import UUID

import uvicorn
from fastapi import FastAPI
from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page, Request, expect

from support.stack import free_port

REFUSED = "Failed to load resource"
"""How a browser's console begins to tell that a server refused something, which pages then show."""
NAMELESS = """() => [...document.querySelectorAll("input, select, textarea, button, a")]
    .filter((one) => one.checkVisibility())
    .filter((one) => !(one.labels?.length || one.textContent.trim() || one.ariaLabel))
    .map((one) => one.outerHTML)"""
REFRESH = "document.dispatchEvent(new Event('visibilitychange'))"


@dataclass
class Console:
    """The console in one browser."""

    page: Page
    base: str
    trouble: list[str] = field(default_factory=list[str])
    """What the browser complained of: errors of scripts, breaches of the policy."""
    sent: list[str] = field(default_factory=list[str])
    """Paths that something was posted to."""

    def listen(self) -> None:
        """Take down trouble and what is sent."""
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: self.trouble.append(f"dialog: {dialog.message}"))
        self.page.on("request", self._on_request)

    async def inbox(self, query: str = "") -> None:
        """Go to the inbox."""
        await self.page.goto(f"{self.base}/approvals{query}")

    async def card(self, request_id: UUID) -> None:
        """Go to a request."""
        await self.page.goto(f"{self.base}/approvals/{request_id}")

    async def refresh(self) -> None:
        """Have the page look for news now."""
        await self.page.evaluate(REFRESH)

    def button(self, name: str) -> Locator:
        """Find a button of the decision."""
        return self.page.get_by_label("Your decision", exact=True).get_by_role("button", name=name)

    @property
    def comment(self) -> Locator:
        """The field for a comment."""
        return self.page.locator("#comment")

    @property
    def outcome(self) -> Locator:
        """Where the page says what came of a decision."""
        return self.page.locator("#outcome")

    async def tells(self, *words: str) -> None:
        """Wait until the page says what came of a decision."""
        for some in words:
            await expect(self.outcome).to_contain_text(some)

    async def is_in_state(self, state: str) -> None:
        """Wait until the page shows a state of the request."""
        await expect(self.page.locator("#state .badge")).to_have_text(state)

    async def rows(self) -> list[str]:
        """Give the titles in the inbox."""
        return await self.page.locator(".row-title").all_inner_texts()

    async def overflow(self) -> int:
        """Give how many pixels the page is wider than its window."""
        return await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")

    async def nameless(self) -> list[str]:
        """List what can be used and has no name for those who do not see it."""
        return await self.page.evaluate(NAMELESS)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(REFUSED):
            self.trouble.append(message.text)

    def _on_request(self, request: Request) -> None:
        if request.method != "GET":
            self.sent.append(urlsplit(request.url).path)


async def open_console(context: BrowserContext, base: str, token: str) -> Console:
    """Open a page for somebody who has signed in."""
    await context.add_cookies([{"name": "penstock_session", "value": token, "url": base, "httpOnly": True}])
    console = Console(await context.new_page(), base)
    console.listen()
    return console


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncGenerator[str]:
    """Serve an application on loopback and give its address."""
    port = free_port()
    config = uvicorn.Config(app, port=port, lifespan="off", log_level="warning", ws="none")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  the tests have their own
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), "the server did not start"
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await task
