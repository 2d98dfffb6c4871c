"""The page of a run in Prefect's two user interfaces, used as a person uses it.

A browser that knows nothing yet gets the newer one at `/`; links to runs lead to the older one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from playwright.async_api import Locator, Page, expect

FIELDS = ("Decision", "Code", "Comment (Optional)")


@dataclass(frozen=True)
class RunPage(ABC):
    """The page of one run."""

    page: Page
    run_id: UUID
    path: ClassVar[str]

    @property
    @abstractmethod
    def head(self) -> Locator:
        """The part of the page that holds the run's state and buttons."""

    @abstractmethod
    async def cancel(self) -> None:
        """Cancel the run, and say so again when asked."""

    @abstractmethod
    async def retry(self) -> None:
        """Retry the run, and say so again when asked."""

    @abstractmethod
    async def resume(self) -> Locator:
        """Press Resume and give the form that appears."""

    @abstractmethod
    async def submit(self, form: Locator, decision: str, code: str, comment: str = "") -> None:
        """Fill in the form and send it."""

    async def open(self) -> None:
        """Go to the page, also when it is open, so that it shows the state of now."""
        await self.page.goto(self.path.format(self.run_id))

    async def shows(self, state: str) -> None:
        """Wait until the page shows a state of the run."""
        await expect(self.head.get_by_text(state, exact=True).first).to_be_visible()


class OlderRunPage(RunPage):
    """The page in the older interface; its fields have no names, only an order."""

    path = "/runs/flow-run/{}"

    @property
    def head(self) -> Locator:
        return self.page.get_by_role("banner")

    async def cancel(self) -> None:
        await self._press("Cancel", "Confirm")

    async def retry(self) -> None:
        await self._press("Retry", "Retry")

    async def resume(self) -> Locator:
        await self._button("Resume").click()
        form = self.page.get_by_role("dialog")
        for field in FIELDS:
            await expect(form.get_by_text(field, exact=True)).to_be_visible()
        return form

    async def submit(self, form: Locator, decision: str, code: str, comment: str = "") -> None:
        await form.get_by_role("group").first.get_by_role("button").press("ArrowDown")
        await self.page.get_by_role("option", name=decision).click()
        await form.get_by_role("textbox").nth(0).fill(code)
        await form.get_by_role("textbox").nth(1).fill(comment)
        await form.get_by_role("button", name="Submit").click()
        await expect(form).to_be_hidden()

    async def _press(self, button: str, confirmation: str) -> None:
        await self._button(button).click()
        await self.page.get_by_role("dialog").get_by_role("button", name=confirmation).click()

    def _button(self, name: str) -> Locator:
        return self.head.get_by_role("button", name=name, exact=True)


class NewerRunPage(RunPage):
    """The page in the newer interface, which keeps its buttons in a menu."""

    path = "/v2/runs/flow-run/{}"

    @property
    def head(self) -> Locator:
        return self.page.get_by_role("main")

    async def cancel(self) -> None:
        await self._choose("Cancel", "Cancel Flow Run")

    async def retry(self) -> None:
        await self._choose("Retry", "Retry")

    async def resume(self) -> Locator:
        await self._choose("Resume")
        form = self.page.get_by_role("dialog", name="Resume Flow Run")
        for field in FIELDS:
            await expect(form.get_by_text(field, exact=True)).to_be_visible()
        return form

    async def submit(self, form: Locator, decision: str, code: str, comment: str = "") -> None:
        await form.get_by_role("button", name="Select Decision").click()
        await self.page.get_by_role("option", name=decision).click()
        await form.get_by_role("textbox", name="Code").fill(code)
        await form.get_by_role("textbox", name="Comment").fill(comment)
        await form.get_by_role("button", name="Resume").click()
        await expect(form).to_be_hidden()

    async def _choose(self, item: str, confirmation: str = "") -> None:
        await self.head.get_by_role("button", name="Open menu").click()
        await self.page.get_by_role("menuitem", name=item).click()
        if confirmation:
            asked = self.page.get_by_role("alertdialog")
            await asked.get_by_role("button", name=confirmation, exact=True).click()
