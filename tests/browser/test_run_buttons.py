"""Runs cancelled, retried, approved and rejected by clicks in the Prefect UI, in both of its interfaces."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from difflib import unified_diff
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from playwright.async_api import Page, expect
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from browser.run_pages import NewerRunPage, OlderRunPage, RunPage
from engine.flows import node, workflow
from engine.test_gates import code_for, decide, end_of, eventually, lines, mutate, requests, start, suspended
from engine.test_runs import prefect_state, states
from engine.test_steering import healing, is_in_state, running_node

pytestmark = [pytest.mark.integration, pytest.mark.browser]

_SOON = timedelta(seconds=5)
_FIX = Path(__file__).with_name("fix_payments.yaml")
_DIFF = re.compile(r"-import pickle\s+\+import json\s.*\+ +return json.loads\(raw\)", re.DOTALL)
_LONG = workflow([node("list"), node("compare", "hang", needs=["list"])], name="compare-hosts")
_HOSTILE = "![x](http://127.0.0.1:1/x) <img src=x> [l](http://127.0.0.1:1/l) http://127.0.0.1:1/m **b** `c`"


@pytest.fixture(params=[OlderRunPage, NewerRunPage], ids=["older", "newer"])
def interface(request: pytest.FixtureRequest) -> type[RunPage]:
    """Give one of the two interfaces."""
    return request.param


@pytest.fixture
def visit(page: Page, interface: type[RunPage]) -> Callable[[UUID], RunPage]:
    """Give what makes the page of a run."""
    return lambda run_id: interface(page, run_id)


@pytest.fixture
def album(interface: type[RunPage], pictures: Path, tmp_path: Path) -> Path:
    """Give the folder for pictures; only those of the older interface are kept, where links lead to."""
    return pictures if interface is OlderRunPage else tmp_path


async def picture(page: Page, path: Path) -> None:
    await page.wait_for_timeout(2000)  # the graph is a canvas: nothing tells when it is drawn
    await page.screenshot(path=path)


async def recorded(services: Any, run_id: UUID, count: int) -> bool:
    """Say whether Prefect shows so many task runs of a run as ended, which it does some time later."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    found = await services.client.read_task_runs(flow_run_filter=wanted)
    return sum(task_run.state.is_final() for task_run in found) >= count


async def suspended_again(services: Any, run_id: UUID, before: Any) -> str:
    """Wait until the run is suspended once more and give the reason."""

    async def found() -> Any:
        state = (await services.client.read_flow_run(run_id)).state
        return state if state.name == "Suspended" and state.id != before.state.id else None

    return (await eventually(found)).message


async def test_cancel_button_ends_a_running_run_within_seconds(
    services: Any, visit: Callable[[UUID], RunPage], album: Path
) -> None:
    run_id = await start(services, _LONG)
    await eventually(lambda: running_node(services, run_id, "compare"))
    run_page = visit(run_id)
    await run_page.open()

    await run_page.cancel()
    shown = await end_of(services, run_id)

    assert (shown["state"], states(shown)) == ("cancelled", {"list": "succeeded", "compare": "cancelled"})
    (pressed,) = [
        state for state in await services.client.read_flow_run_states(run_id) if state.name == "Cancelling"
    ]
    assert datetime.fromisoformat(shown["ended_at"]) - pressed.timestamp < _SOON
    await run_page.shows("Cancelled")
    await eventually(lambda: recorded(services, run_id, 2))
    await run_page.open()
    await run_page.shows("Cancelled")
    await picture(run_page.page, album / "cancelled-run.png")


async def test_retry_button_goes_on_from_the_failed_node(
    services: Any, visit: Callable[[UUID], RunPage], tmp_path: Path
) -> None:
    trace, sign = tmp_path / "trace", tmp_path / "sign"
    run_id = await start(services, healing(trace, sign))
    first = await end_of(services, run_id)
    await prefect_state(services, first)
    sign.touch()
    run_page = visit(run_id)
    await run_page.open()
    await run_page.shows("Failed")

    await run_page.retry()
    await eventually(lambda: is_in_state(services, run_id, "completed"))

    shown = await services.show(run_id)
    attempts = {name: item["attempts"] for name, item in shown["nodes"].items()}
    assert lines(trace) == ["first", "middle", "report", "middle", "last", "report"]
    assert (attempts["first"], attempts["middle"]) == (1, 2)
    await run_page.shows("Completed")


async def test_form_decides_with_a_code_and_no_wrong_one(
    services: Any, visit: Callable[[UUID], RunPage], tmp_path: Path
) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([mutate(file, approval={"title": "Append a line"})]))
    (request,) = await requests(services, run_id)
    before = await suspended(services, run_id)
    run_page = visit(run_id)
    await run_page.open()

    form = await run_page.resume()
    for words in ("Append a line", f"Append to {file}", f"penstock approvals code {request['id']}"):
        await expect(form.get_by_text(words)).to_be_visible()
    await run_page.submit(form, "approve", "0000-0000-0000-0000")
    why = await suspended_again(services, run_id, before)
    assert why.startswith("the code was wrong, or had been used")
    assert lines(file) == []

    await run_page.open()  # else the form may be that of the round before
    form = await run_page.resume()
    await expect(form.get_by_text("The code was wrong, or had been used.")).to_be_visible()
    code = await code_for(services, request, "grace")
    await run_page.submit(form, "approve", code, comment="go on")
    shown = await end_of(services, run_id)

    assert (shown["state"], lines(file)) == ("completed", ["changed"])
    decided = await services.approvals.show(UUID(request["id"]))
    assert [(one["person"], one["via"], one["comment"]) for one in decided["decisions"]] == [
        ("grace", "prefect", "go on")
    ]
    await run_page.shows("Completed")


async def test_form_shows_the_diff_and_rejects_it(
    services: Any, visit: Callable[[UUID], RunPage], repository: Path, album: Path
) -> None:
    old = (repository / "pay.py").read_text()
    new = old.replace("pickle", "json")
    diff = unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), "a/pay.py", "b/pay.py")
    run_id = await start(services, _FIX.read_text(), repository=str(repository), patch="".join(diff))
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)
    await eventually(lambda: recorded(services, run_id, 2))
    run_page = visit(run_id)
    await run_page.open()
    await run_page.shows("Suspended")
    await picture(run_page.page, album / "waiting-run.png")

    form = await run_page.resume()
    await expect(form.get_by_text(request["title"])).to_be_visible()
    await form.get_by_text("Patch pay.py on branch main").hover()
    await run_page.page.mouse.wheel(0, 5000)
    await expect(form.locator("pre").filter(has_text=_DIFF)).to_be_in_viewport(ratio=0.6)
    await run_page.page.set_viewport_size({"width": 1400, "height": 1350})
    await picture(run_page.page, album / "approve-in-prefect.png")
    code = await code_for(services, request, "grace")
    await run_page.submit(form, "reject", code, comment="keep pickle")
    shown = await end_of(services, run_id)

    assert (shown["state"], shown["nodes"]["fix"]["state"]) == ("rejected", "rejected")
    assert "rejected by grace: keep pickle" in shown["message"]
    assert (repository / "pay.py").read_text() == old
    await run_page.shows("Rejected")


async def test_form_shows_words_of_others_as_text(
    services: Any, visit: Callable[[UUID], RunPage], tmp_path: Path
) -> None:
    approval = {"title": "{{ inputs.alert }}", "require": {"count": 2}}
    text = workflow([mutate(tmp_path / "f", approval=approval)], inputs={"alert": {"type": "string"}})
    run_id = await start(services, text, alert=_HOSTILE)
    (request,) = await requests(services, run_id)
    before = await suspended(services, run_id)
    await decide(services, request, person="grace")
    code = await code_for(services, request, "grace")
    run_page = visit(run_id)
    await run_page.open()

    form = await run_page.resume()
    await expect(form.get_by_text("<img src=x>").first).to_be_visible()
    await expect(form.locator("img, a")).to_have_count(0)
    await run_page.submit(form, "reject", code)
    assert _HOSTILE in await suspended_again(services, run_id, before)

    await run_page.open()  # else the form may be that of the round before
    form = await run_page.resume()
    await expect(form.get_by_text("Grace has decided to approve")).to_contain_text("<img src=x>")
    await expect(form.locator("img, a")).to_have_count(0)
    await services.cancel(run_id, by="test")
