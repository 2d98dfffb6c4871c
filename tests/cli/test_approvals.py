"""Requests for approval, seen and decided from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.commands import asked, gated, penstock
from engine.flows import workflow
from engine.test_gates import end_of, lines, start
from penstock.engine.waiting import code_hash
from penstock.store.approvals import take_code
from support.stack import StackUnderTest

pytestmark = pytest.mark.integration


async def test_two_people_approve_and_the_run_goes_on(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([gated(file, require={"count": 2})], name="two-people"))
    request_id = (await asked(services, run_id))["id"]

    listed = await penstock(stack, "approvals", "list")
    first = await penstock(stack, "approvals", "approve", request_id[:13], "--comment", "looks good")
    open_still = await penstock(stack, "approvals", "show", request_id)
    second = await penstock(stack, "approvals", "approve", request_id, person="bob")

    (row,) = [line for line in listed[1].splitlines() if line.startswith(request_id)]
    for words in ("two-people", "apply", "Change the file", "tess", "2 approvals"):
        assert words in row
    assert first[:2] == (0, "counted: 1 of 2; apply still needs 1 approval\n")
    assert "ann: approve (cli" in open_still[1]
    assert "looks good" in open_still[1]
    assert f"Append to {file}" in open_still[1]
    assert second[:2] == (0, f"approved: run {run_id} goes on with apply\n")
    assert (await end_of(services, run_id))["state"] == "completed"
    assert lines(file) == ["changed"]


async def test_rejection_ends_it_and_cannot_be_taken_back(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([gated(file)]))
    request_id = (await asked(services, run_id))["id"]

    rejected = await penstock(stack, "approvals", "reject", request_id, "--comment", "not today")
    too_late = await penstock(stack, "approvals", "approve", request_id, person="bob")
    found = await penstock(stack, "approvals", "list", "--state", "rejected", "--state", "expired", "--json")

    assert rejected[0] == 0
    assert "apply will not run" in rejected[1]
    assert too_late[0] == 1
    assert "'Change the file' is rejected by ann" in too_late[2]
    (mine,) = [item for item in json.loads(found[1]) if item["id"] == request_id]
    assert mine["decisions"][0]["comment"] == "not today"
    assert (await end_of(services, run_id))["state"] == "rejected"
    assert lines(file) == []


async def test_code_is_good_for_the_person_who_asked_for_it(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    run_id = await start(services, workflow([gated(tmp_path / "f")]))
    request_id = (await asked(services, run_id))["id"]

    exit_code, output, _ = await penstock(stack, "approvals", "code", request_id, person="bob")

    assert exit_code == 0
    taken = await take_code(services.database, run_id, code_hash(output))
    assert taken is not None
    assert (str(taken[0].id), taken[1]) == (request_id, "bob")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("approve", "00000000-0000-0000-0000-000000000000"), "there is no request for approval"),
        (("show", "abc"), "'abc' is not the id of an approval"),
        (("list", "--state", "lost"), "there is no state 'lost'"),
    ],
)
async def test_unknown_requests_and_states_are_bad_usage(
    stack: StackUnderTest, arguments: tuple[str, ...], words: str
) -> None:
    code, _, messages = await penstock(stack, "approvals", *arguments)

    assert code == 2
    assert words in messages
