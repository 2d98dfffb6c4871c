"""What people see of a workflow in the Prefect UI."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from support.stack import StackUnderTest

pytestmark = [pytest.mark.integration, pytest.mark.browser]

WORKFLOW = Path(__file__).with_name("repository_health.yaml")
NODES = ("scan_code", "scan_secrets", "tell_team", "page_security", "report")


@pytest.fixture(scope="session")
def deployment(browser_path: str, stack: StackUnderTest) -> str:
    """Apply the workflow and give the path of its deployment's page."""
    del browser_path  # without a browser there is no use in a stack
    done = stack.cli("workflows", "apply", str(WORKFLOW))
    assert done.returncode == 0, done.stderr
    found = re.search(r"/deployments/deployment/[0-9a-f-]+", done.stdout)
    assert found, done.stdout
    return found[0]


@pytest.fixture(scope="session")
def run_path(stack: StackUnderTest, deployment: str, repository: Path) -> str:
    """Run the workflow and give the path of the run's page."""
    del deployment
    done = stack.cli("run", "repository-health", "--input", f"repository={repository}", "--json")
    assert done.returncode == 0, done.stderr
    return f"/runs/flow-run/{json.loads(done.stdout)['run_id']}"


async def test_form_shows_the_inputs_of_the_workflow(page: Page, deployment: str, pictures: Path) -> None:
    await page.goto(f"{deployment}/run")

    await expect(page.get_by_text("Repository", exact=True)).to_be_visible()
    await expect(page.get_by_text("Path of the git repository to scan.")).to_be_visible()
    await expect(page.get_by_text("Least severity (Optional)")).to_be_visible()
    await expect(page.get_by_text("Most findings (Optional)")).to_be_visible()
    await page.locator("textarea").first.fill("/srv/repositories/shop")
    await page.get_by_role("button", name="warning").press("ArrowDown")
    for choice in ("info", "critical"):
        await expect(page.get_by_text(choice, exact=True)).to_be_visible()
    await page.wait_for_timeout(500)  # the list fades in
    await page.screenshot(path=pictures / "form.png")


async def test_run_started_from_the_form_completes(page: Page, deployment: str, repository: Path) -> None:
    await page.goto(f"{deployment}/run")
    await page.locator("textarea").first.fill(str(repository))
    await page.locator("input[type=text]").first.fill("started-by-hand")
    await page.get_by_role("button", name="Submit").click()
    await expect(page).not_to_have_url(re.compile("/run$"))

    await page.goto(deployment)
    await page.get_by_role("link", name="started-by-hand").first.click()

    await expect(page.get_by_text("Completed").first).to_be_visible()


async def test_run_page_shows_the_nodes_by_name(page: Page, run_path: str, pictures: Path) -> None:
    await page.goto(run_path)
    await page.get_by_text("Task Runs", exact=True).click()
    await expect(page.get_by_text("(5 Completed)")).to_be_visible()
    await page.reload()  # the head of the page was drawn before all of them were recorded
    await page.get_by_text("Task Runs", exact=True).click()

    for node in NODES:
        await expect(page.get_by_text(node, exact=True).first).to_be_visible()
    await expect(page.get_by_text("Skipped", exact=True).first).to_be_visible()
    await page.wait_for_timeout(2000)  # the graph is a canvas: nothing tells when it is drawn
    await page.screenshot(path=pictures / "run.png")


async def test_artifacts_tab_leads_to_the_table_of_nodes(page: Page, run_path: str, pictures: Path) -> None:
    await page.goto(run_path)
    await page.get_by_text("Artifacts", exact=True).click()
    await page.get_by_text("run-repository-health", exact=True).first.click()

    rows = page.get_by_role("row")
    for node in NODES:
        await expect(rows.filter(has_text=node)).to_have_count(1)
    await expect(rows.filter(has_text="page_security")).to_contain_text("its condition is false")
    await page.screenshot(path=pictures / "artifact.png")
