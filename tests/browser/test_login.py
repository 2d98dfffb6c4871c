"""Signing in and out in a real browser: its own headers, cookies and rules for pages."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import httpx
import pytest
from playwright.async_api import Page, expect

from support.stack import StackUnderTest

pytestmark = [pytest.mark.integration, pytest.mark.browser]


async def test_link_signs_in_and_a_button_out(page: Page, stack: StackUnderTest) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    base = f"http://127.0.0.1:{stack.settings.port}"
    printed = await asyncio.to_thread(stack.cli, "login", "--json")
    asked = json.loads(printed.stdout)

    await page.goto(f"{base}/approvals?view=decided")
    await expect(page).to_have_url(f"{base}/login?next={quote('/approvals?view=decided', safe='')}")
    await page.goto(f"{asked['url']}&next={quote('/approvals?view=decided', safe='')}")
    await page.get_by_role("button", name=f"Sign in as {asked['person']}").click()
    await expect(page).to_have_url(f"{base}/approvals?view=decided")
    await expect(page.get_by_role("banner")).to_contain_text(asked["person"])
    (cookie,) = [dict(one) for one in await page.context.cookies(base)]
    stolen = {"penstock_session": str(cookie["value"])}
    async with httpx.AsyncClient(base_url=base, cookies=stolen) as thief:
        before = await thief.get("/api/me")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page).to_have_url(f"{base}/login")
        after = await thief.get("/api/me")

    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("penstock_session", True, "Lax")
    assert await page.context.cookies(base) == []
    assert (before.status_code, after.status_code) == (200, 401)
    await page.goto(f"{base}/approvals")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert complaints == []
