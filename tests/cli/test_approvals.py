"""Requests for approval, seen and decided from the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest

from cli.commands import ME, asked, gated, penstock
from engine.flows import workflow
from engine.test_gates import end_of, lines, start
from penstock.approvals.people import Person
from penstock.cli.session import account, person
from penstock.engine.waiting import code_hash
from penstock.store.passes import take_code
from support.stack import StackUnderTest

pytestmark = pytest.mark.integration

SECONDS = {"seconds": {"type": "number", "maximum": 1}}


async def decide(services: Any, request_id: str, decision: str = "approve", **more: Any) -> dict[str, Any]:
    """Decide as somebody else, who is not at this computer."""
    return await services.approvals.decide(
        UUID(request_id), decision, person=Person("bob"), via="api", **more
    )


async def shown(stack: StackUnderTest, request_id: str) -> dict[str, str]:
    """Give the facts that `show` prints, by label; several with one label are lines."""
    code, output, _ = await penstock(stack, "approvals", "show", request_id)
    assert code == 0
    facts: dict[str, str] = {}
    for line in output.splitlines():
        if line.startswith("  ") and not line.startswith("    "):
            label, value = line[2:11].rstrip(), line[12:].strip()
            facts[label] = "\n".join(filter(None, (facts.get(label), value)))
    return facts


def test_account_is_that_of_the_process_whatever_the_environment_says() -> None:
    with patch.dict(os.environ, dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"), "eve")):
        assert person() == ME != "eve"


def test_account_without_a_name_has_its_number() -> None:
    assert account(2**31 - 7) == f"user-{2**31 - 7}"


async def test_two_people_approve_and_the_run_goes_on(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([gated(file, require={"count": 2})], name="two-people"))
    request_id = (await asked(services, run_id))["id"]

    listed = await penstock(stack, "approvals", "list")
    first = await penstock(stack, "approvals", "approve", request_id[:13], "--comment", "looks good")
    again = await penstock(stack, "approvals", "approve", request_id)
    open_still = await penstock(stack, "approvals", "show", request_id)
    await decide(services, request_id)
    late = await penstock(stack, "approvals", "approve", request_id, "--json")

    (row,) = [line for line in listed[1].splitlines() if line.startswith(request_id)]
    for words in ("two-people", "apply", "Change the file", "tess", "2 approvals"):
        assert words in row
    assert first[:2] == again[:2] == (0, "counted: apply still needs 1 more approval\n")
    assert f"{ME}: approve (cli" in open_still[1]
    assert "looks good" in open_still[1]
    assert f"Append to {file}" in open_still[1]
    assert (late[0], json.loads(late[1])["state"]) == (0, "approved")
    assert (await end_of(services, run_id))["state"] == "completed"
    assert lines(file) == ["changed"]


async def test_approval_that_is_enough_says_that_the_run_goes_on(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    run_id = await start(services, workflow([gated(tmp_path / "f")]))
    request = await asked(services, run_id)

    done = await penstock(stack, "approvals", "approve", request["id"], "--digest", request["digest"])

    assert done[:2] == (0, f"approved: run {run_id} goes on with apply\n")
    assert (await end_of(services, run_id))["state"] == "completed"
    facts = await shown(stack, request["id"])
    assert facts["state"] == f"approved by {ME}"


async def test_rejection_ends_it_and_cannot_be_taken_back(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    run_id = await start(services, workflow([gated(file, require={"count": 2})]))
    request_id = (await asked(services, run_id))["id"]
    await decide(services, request_id)

    rejected = await penstock(stack, "approvals", "reject", request_id, "--comment", "not today")
    too_late = await penstock(stack, "approvals", "approve", request_id)
    found = await penstock(stack, "approvals", "list", "--state", "rejected", "--state", "expired", "--json")
    table = await penstock(stack, "approvals", "list", "--state", "rejected")

    assert rejected[0] == 0
    assert "apply will not run" in rejected[1]
    assert too_late[0] == 1
    assert f"'Change the file' is rejected by {ME}\n" in too_late[2]
    (mine,) = [item for item in json.loads(found[1]) if item["id"] == request_id]
    assert [said["comment"] for said in mine["decisions"]] == ["", "not today"]
    (row,) = [line for line in table[1].splitlines() if line.startswith(request_id)]
    assert row.endswith(f"rejected by {ME}")
    assert (await end_of(services, run_id))["state"] == "rejected"
    assert lines(file) == []


async def test_what_is_sent_back_is_planned_anew_with_the_note(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    text = workflow([gated(f"{tmp_path}/f-{{{{ approval.round }}}}")], name="again")
    run_id = await start(services, text)
    first = (await asked(services, run_id))["id"]

    silent = await penstock(stack, "approvals", "send-back", first)
    empty = await penstock(stack, "approvals", "send-back", first, "--comment", "  ")
    sent = await penstock(stack, "approvals", "send-back", first, "--comment", "not\n\x1b[31mthere")
    second = (await asked(services, run_id, but=first))["id"]
    facts = await shown(stack, second)
    as_json = await penstock(stack, "approvals", "show", second, "--json")
    await penstock(stack, "approvals", "approve", second)

    assert (silent[0], empty[0]) == (2, 2)
    assert "say what should be different" in empty[2]
    assert sent[:2] == (0, f"sent back: apply of run {run_id} is planned again with your note\n")
    assert facts["sent back"] == f"by {ME}: not \\x1b[31mthere"
    assert f"inputs.file from {tmp_path}/f-1 to {tmp_path}/f-2" in facts["changed"]
    card = json.loads(as_json[1])["card"]
    assert (card["round"], card["note"]) == (2, {"person": ME, "text": "not\n\x1b[31mthere"})
    assert (await end_of(services, run_id))["state"] == "completed"
    assert (lines(tmp_path / "f-1"), lines(tmp_path / "f-2")) == ([], ["changed"])
    assert (await shown(stack, first))["state"] == f"sent back by {ME}"


async def test_inputs_that_may_be_changed_are_changed_with_the_approval(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    rest: Mapping[str, Any] = {"editable": SECONDS, "require": {"count": 2}}
    run_id = await start(services, workflow([gated(file, **rest)]))
    first = (await asked(services, run_id))["id"]

    output = (await penstock(stack, "approvals", "show", first))[1]
    done = await penstock(stack, "approvals", "approve", first, "--edit", "seconds=0.25", "--comment", "slow")
    second = (await asked(services, run_id, but=first))["id"]
    facts = await shown(stack, second)
    await decide(services, second)

    assert f"penstock approvals approve {first} --edit seconds=…  (number)" in output
    assert done[:2] == (0, f"edited: apply of run {run_id} is planned again with the changed inputs\n")
    assert facts["state"] == "open, needs 1 more approval"
    assert facts["edited"].startswith(f"by {ME}: seconds from ")
    assert facts["edited"].endswith(" to 0.25")
    assert facts["changed"].startswith("inputs.seconds from 0")
    assert (await end_of(services, run_id))["state"] == "completed"
    request = await services.approvals.show(UUID(second))
    assert (request["edits"], request["card"]["inputs"]["seconds"]) == ({"seconds": 0.25}, 0.25)
    assert [(said["person"], said["via"]) for said in request["decisions"]] == [(ME, "edit"), ("bob", "api")]
    assert (await shown(stack, first))["state"] == f"edited by {ME}"


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        (("file=/etc/passwd",), "--edit file: may not be changed (what may be: seconds)"),
        (("seconds=soon",), "--edit seconds: 'soon' is not JSON"),
        (("seconds",), "--edit 'seconds': write name=value"),
        (("seconds=1", "seconds=1"), "--edit 'seconds' is given twice"),
        (("seconds=2",), "edits.seconds: "),
        (('seconds="1"',), "edits.seconds: "),
    ],
)
async def test_wrong_edits_are_bad_usage_and_decide_nothing(
    services: Any, stack: StackUnderTest, tmp_path: Path, *, edits: tuple[str, ...], words: str
) -> None:
    run_id = await start(services, workflow([gated(tmp_path / "f", editable=SECONDS)]))
    request_id = (await asked(services, run_id))["id"]

    options = [option for edit in edits for option in ("--edit", edit)]
    code, _, messages = await penstock(stack, "approvals", "approve", request_id, *options)

    assert code == 2
    assert words in messages
    found = await services.approvals.show(UUID(request_id))
    assert (found["state"], found["decisions"]) == ("open", [])
    await services.cancel(run_id, by="test")


async def test_glass_is_not_broken_where_no_freeze_is_on(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    run_id = await start(services, workflow([gated(tmp_path / "f")]))
    request_id = (await asked(services, run_id))["id"]

    refused = await penstock(
        stack, "approvals", "approve", request_id, "--break-glass", "--comment", "outage", "--json"
    )

    assert refused[0] == 1
    assert json.loads(refused[1])["error"]["code"] == "approval_denied"
    assert "no freeze is on" in refused[2]
    assert (await services.approvals.show(UUID(request_id)))["decisions"] == []
    await services.cancel(run_id, by="test")


async def test_one_decision_counts_for_all_that_are_alike(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    applied = await services.apply(workflow([gated(file)]), file="test.yaml", by="test")
    runs = [(await services.start(applied.name, {}, requester="tess")).run_id for _ in range(2)]
    first, second = [await asked(services, run_id) for run_id in runs]
    facts = await shown(stack, first["id"])

    done = await penstock(stack, "approvals", "approve", first["id"], "--alike")

    assert first["digest"] == second["digest"]
    assert facts["alike"] == "2 open requests for exactly this; --alike decides all"
    assert done[:2] == (0, f"approved, and 1 alike: run {runs[0]} goes on with apply\n")
    assert [(await end_of(services, run_id))["state"] for run_id in runs] == ["completed"] * 2
    assert lines(file) == ["changed"] * 2
    decided = await services.approvals.show(UUID(second["id"]))
    assert [said["person"] for said in decided["decisions"]] == [ME]


async def test_digest_of_something_else_decides_nothing(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    run_id = await start(services, workflow([gated(tmp_path / "f")]))
    request_id = (await asked(services, run_id))["id"]

    answers = [
        await penstock(stack, "approvals", *words, "--digest", "0" * 64, "--json")
        for words in (
            ("approve", request_id),
            ("reject", request_id),
            ("send-back", request_id, "--comment", "x"),
        )
    ]

    assert [code for code, _, _ in answers] == [1] * 3
    assert {json.loads(output)["error"]["code"] for _, output, _ in answers} == {"stale_decision"}
    assert all("look again" in messages for _, _, messages in answers)
    assert (await services.approvals.show(UUID(request_id)))["state"] == "open"
    await services.cancel(run_id, by="test")


async def test_card_tells_what_came_of_such_things_before(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    applied = await services.apply(workflow([gated(file)]), file="test.yaml", by="test")
    first = (await services.start(applied.name, {}, requester="tess")).run_id
    await decide(services, (await asked(services, first))["id"])
    await end_of(services, first)

    second = (await services.start(applied.name, {}, requester="tess")).run_id
    request = await asked(services, second)
    facts = await shown(stack, request["id"])

    assert len(request["card"]["history"]) == 1
    assert facts["before"].endswith(f" succeeded, approved by bob (run {first})")
    await services.cancel(second, by="test")


@pytest.mark.parametrize("words", [("approve",), ("reject",), ("send-back", "--comment", "x"), ("code",)])
async def test_somebody_whom_the_people_file_does_not_name_decides_nothing(
    services: Any, stack: StackUnderTest, tmp_path: Path, words: tuple[str, ...]
) -> None:
    people = tmp_path / "people.yaml"
    people.write_text("apiVersion: penstock/v1\nkind: People\nusers: {somebody: {role: approver}}\n")
    closed = StackUnderTest(stack.pid, {**stack.environment, "PENSTOCK_PEOPLE": str(people)}, stack.settings)
    run_id = await start(services, workflow([gated(tmp_path / "f")]))
    request_id = (await asked(services, run_id))["id"]

    code, _, messages = await penstock(closed, "approvals", *words, request_id)

    assert code == 1
    assert f"{ME} is not in the people file" in messages
    assert (await services.approvals.show(UUID(request_id)))["state"] == "open"
    await services.cancel(run_id, by="test")


@pytest.mark.parametrize(("role", "code"), [("viewer", 1), ("approver", 0)])
async def test_role_in_the_people_file_decides_who_may(
    services: Any, stack: StackUnderTest, tmp_path: Path, *, role: str, code: int
) -> None:
    people = tmp_path / "people.yaml"
    people.write_text(f"apiVersion: penstock/v1\nkind: People\nusers: {{{ME}: {{role: {role}}}}}\n")
    closed = StackUnderTest(stack.pid, {**stack.environment, "PENSTOCK_PEOPLE": str(people)}, stack.settings)
    run_id = await start(services, workflow([gated(tmp_path / "f")]))
    request_id = (await asked(services, run_id))["id"]

    facts = await shown(closed, request_id)
    answer = await penstock(closed, "approvals", "approve", request_id)

    assert answer[0] == code
    assert facts.get("you") == (f"may not decide: {ME} is no approver" if code else None)
    await services.cancel(run_id, by="test")


async def test_code_is_good_for_the_person_who_asked_for_it(
    services: Any, stack: StackUnderTest, tmp_path: Path
) -> None:
    run_id = await start(services, workflow([gated(tmp_path / "f")]))
    request_id = (await asked(services, run_id))["id"]

    earlier = await penstock(stack, "approvals", "code", request_id)
    exit_code, output, messages = await penstock(stack, "approvals", "code", request_id)

    assert exit_code == 0
    assert "put it into the form" in messages
    assert await take_code(services.database, run_id, code_hash(earlier[1])) is None
    taken = await take_code(services.database, run_id, code_hash(output))
    assert taken is not None
    assert (str(taken.request.id), taken.person) == (request_id, ME)
    await services.cancel(run_id, by="test")
    assert (await penstock(stack, "approvals", "code", request_id))[0] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("approve", str(uuid4())), "there is no request for approval"),
        (("send-back", str(uuid4()), "--comment", "x"), "there is no request for approval"),
        (("approve", str(uuid4()), "--edit", "a=1"), "there is no request for approval"),
        (("show", "abc"), "'abc' is not the id of an approval"),
        (("list", "--state", "lost"), "there is no state 'lost'"),
    ],
    ids=["approve", "send-back", "edit", "show", "list"],
)
async def test_unknown_requests_and_states_are_bad_usage(
    stack: StackUnderTest, arguments: tuple[str, ...], words: str
) -> None:
    code, _, messages = await penstock(stack, "approvals", *arguments)

    assert code == 2
    assert words in messages
