from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from penstock.engine.environment import ui_url
from penstock.sandbox import tools
from penstock.settings import load_settings
from support.checkouts import Repository, demand
from support.stack import StackUnderTest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the UI looks for its makers' servers
)
expect.set_options(timeout=30_000)  # a busy machine is slow, not broken
PICTURES = "PENSTOCK_SCREENSHOTS"
"""Variable with the folder that keeps the pictures; unset means that they are thrown away."""


@pytest.fixture(scope="session")
def browser_path() -> str:
    """Find a browser; it is looked for before a stack is started for nothing."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    demand(found, "chromium")
    demand(shutil.which("bwrap"), "bubblewrap")
    demand(not tools.missing(tools.tools_dir(load_settings())), "the scanners' environment")
    return str(found)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a repository in which there is something to find."""
    made = Repository(tmp_path_factory.mktemp("checkout") / "shop")
    made.commit({"pay.py": "import pickle\n\n\ndef load(raw):\n    return pickle.loads(raw)\n"})
    return made.root


@pytest.fixture
async def page(browser_path: str, stack: StackUnderTest) -> AsyncGenerator[Page]:
    """Open a browser on the stack's Prefect UI."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        page = await browser.new_page(
            base_url=ui_url(stack.settings), viewport={"width": 1400, "height": 900}
        )
        page.set_default_timeout(30_000)
        yield page
        await browser.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Give the folder for pictures."""
    return Path(os.environ.get(PICTURES) or tmp_path)
