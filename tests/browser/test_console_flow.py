"""A fix of a real repository, from the gate to the commit, decided in the console.

With `PENSTOCK_SCREENSHOTS` set to a folder it leaves the pictures of the documentation there.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest
from playwright.async_api import Browser, async_playwright, expect

from browser.conftest import FLAGS
from browser.console_pages import Console, open_console
from engine.test_gates import decide, end_of, requests, start, suspended
from penstock.store.sessions import open_session
from penstock.store.tokens import token_hash
from support.checkouts import Repository
from support.stack import StackUnderTest

pytestmark = [pytest.mark.integration, pytest.mark.browser]

FIX = Path(__file__).with_name("fix_payments.yaml").read_text()
ASKED = """approval:
      title: "{{ inputs.title }}"
      require: {count: 2}
      timeout: 100m
      editable: {create_backup: {type: boolean, title: Keep a backup branch}}"""
ALIKE = "      create_backup: false\n"
"""Without a branch that is named after the run, what is asked for is the same in each run."""
BEFORE = '''"""Payments, as they come from the queue."""

import pickle


def load(raw):
    return pickle.loads(raw)


def total(payments):
    return sum(payment["cents"] for payment in payments) / 100
'''
SAFE = BEFORE.replace("pickle", "json")
EXACT = SAFE.replace(
    """def total(payments):
    return sum(payment["cents"] for payment in payments) / 100
""",
    '''def total(payments: list[dict[str, int]]) -> Decimal:
    """Add up, without rounding."""
    return Decimal(sum(payment["cents"] for payment in payments)) / 100
''',
).replace("import json\n", "import json\nfrom decimal import Decimal\n")
TESTS = "from pay import load, total\n\nassert total(load(b'[{\"cents\": 5}]')) * 20 == 1\n"


@dataclass(frozen=True)
class Bench:
    """Where fixes are asked for."""

    services: Any
    repository: Repository
    base: str

    async def ask(
        self, name: str, title: str, before: Mapping[str, str], after: Mapping[str, str], more: str = ""
    ) -> dict[str, Any]:
        """Start a workflow that fixes files, and wait until it asks for approval."""
        text = FIX.replace("name: fix-payments", f"name: {name}")
        text = text.replace('approval: {title: "Read payments as JSON, not as pickle"}', ASKED)
        text = text.replace("inputs:\n", "inputs:\n  title: {type: string}\n", 1)
        patch = "".join(_diff(file, before.get(file, ""), content) for file, content in after.items())
        inputs = {"repository": str(self.repository.root), "patch": patch, "title": title}
        run_id = await start(self.services, f"{text.rstrip()}\n{more}", **inputs)
        (request,) = await requests(self.services, run_id)
        await suspended(self.services, run_id)
        return request


def _diff(file: str, before: str, after: str) -> str:
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(unified_diff(old, new, f"a/{file}" if before else "/dev/null", f"b/{file}"))


@pytest.fixture
async def browser(browser_path: str) -> AsyncGenerator[Browser]:
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        yield opened
        await opened.close()


@pytest.fixture
def bench(stack: StackUnderTest, services: Any) -> Generator[Bench]:
    with TemporaryDirectory(prefix="git-") as folder:  # its name is short, for the pictures
        repository = Repository(Path(folder) / "payments")
        repository.commit({"pay.py": BEFORE})
        yield Bench(services, repository, f"http://127.0.0.1:{stack.settings.port}")


async def visit(bench: Bench, browser: Browser, person: str, *, width: int, height: int) -> Console:
    token = secrets.token_urlsafe(32)
    database = bench.services.database
    await open_session(database, token_hash(token), person=person, via="link", lifetime_s=600)
    context = await browser.new_context(viewport={"width": width, "height": height}, color_scheme="light")
    return await open_console(context, bench.base, token)


async def test_fix_is_approved_in_the_console(bench: Bench, browser: Browser, pictures: Path) -> None:
    services = bench.services
    first = await bench.ask("fix-payments", "Read payments as JSON", {"pay.py": BEFORE}, {"pay.py": SAFE})
    for person in ("grace", "ada"):
        await decide(services, first, person=person)
    await end_of(services, UUID(first["run_id"]))
    fix = await bench.ask(
        "fix-payments",
        "Add up payments without rounding",
        {"pay.py": SAFE},
        {"pay.py": EXACT, "test_pay.py": TESTS},
    )
    await decide(services, fix, person="grace", comment="The sums of last week agree.")
    late = await bench.ask("tidy-payments", "Drop the test of rounding", {}, {"old_test.py": TESTS})
    pins = [
        await bench.ask("pin-payments", "Pin what payments need", {}, {"pins": "a==1\n"}, ALIKE) for _ in "ab"
    ]
    await decide(services, late, "reject", person="grace", comment="Keep it for now.")

    console = await visit(bench, browser, "ada", width=1280, height=900)
    phone = await visit(bench, browser, "ada", width=390, height=844)
    for one, name in ((console, ""), (phone, "-phone")):
        await one.inbox()
        await expect(one.page.get_by_role("link", name=fix["title"])).to_be_visible()
        await expect(one.page.get_by_text("2 alike")).to_be_visible()
        await one.page.screenshot(path=pictures / f"approvals-inbox{name}.png")
        await one.page.get_by_role("link", name=fix["title"]).click()
        await expect(one.page.get_by_role("heading", level=1)).to_have_text(fix["title"])
        await expect(one.page.locator(".history li")).to_have_count(1)
        await one.page.screenshot(path=pictures / f"approval-card{name}.png")
        assert await one.overflow() <= 0
    await console.comment.fill("Go on.")
    await console.button("Approve").first.click()
    await console.tells("Approved. The run goes on.")
    shown = await end_of(services, UUID(fix["run_id"]))
    await console.refresh()

    assert shown["state"] == "completed"
    assert bench.repository.git("show", "main:pay.py") == EXACT.strip()
    await expect(console.page.locator("#status")).to_contain_text("ran under this approval")
    decided = await services.approvals.show(UUID(fix["id"]))
    assert [(said["person"], said["comment"]) for said in decided["decisions"]] == [
        ("grace", "The sums of last week agree."),
        ("ada", "Go on."),
    ]
    assert console.trouble == phone.trouble == []
    await phone.refresh()
    await expect(phone.outcome).to_contain_text("has changed since you opened it")
    for pin in pins:
        await services.cancel(UUID(pin["run_id"]), by="test")
