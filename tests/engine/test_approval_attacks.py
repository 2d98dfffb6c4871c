"""Ways past a gate: each is refused, and leaves a line in the audit chain."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.states import AwaitingRetry, Completed, Scheduled

from engine.flows import node, workflow
from engine.ruling import (
    Ruled,
    age,
    all_of,
    audit,
    change,
    names,
    next_request,
    person_of,
    say,
    shown,
    sweep,
    upkeep_of,
)
from engine.test_approval_outcomes import WORD, changing, each
from engine.test_approval_rules import completes, open_gate
from engine.test_gates import end_of, eventually, lines, mutate, start, suspended
from engine.test_runs import states
from penstock.approvals.chain import Head
from penstock.engine.auditing import verify
from penstock.errors import (
    AlreadyDecided,
    ApprovalClosed,
    ApprovalDenied,
    ApprovalError,
    InputInvalid,
    StaleDecision,
)
from penstock.store import audit as audit_table
from store.chains import tamper

pytestmark = pytest.mark.integration


async def refusals(ruled: Ruled, request: dict[str, Any]) -> list[tuple[str, str]]:
    """List who was refused and why, oldest first."""
    return [
        (one["person"], one["because"]) for one in await audit(ruled.services, "decision.refused", request)
    ]


async def bypasses(ruled: Ruled, run_id: UUID) -> list[str]:
    """List attempts to pass a gate of a run in Prefect, oldest first."""
    return [one["because"] for one in await audit(ruled.services, "gate.bypass", run_id=run_id)]


async def test_who_may_not_decide_cannot(ruled: Ruled, tmp_path: Path) -> None:
    approval = {"require": {"from": ["group:sre"]}, "forbid": ["requester", "last_editor"]}
    text = workflow([mutate(tmp_path / "f", approval=approval)])
    name = (await ruled.services.apply(text, file="test.yaml", by="edna")).name
    run_id = (await ruled.services.start(name, {}, requester="tess")).run_id
    request = await next_request(ruled.services, run_id)

    for person, words in {
        "tess": "tess asked for it and may not approve it",
        "edna": "edna applied the workflow and may not approve it",
        "cy": "cy is not among those who may approve: group:sre",
        "vic": "vic is no approver",
        "mallory": "mallory is not known here",
    }.items():
        for decision in ("approve", "reject", "send_back"):
            with pytest.raises(ApprovalDenied, match=words):
                await say(ruled.services, request, person, decision, comment="please")
        with pytest.raises(ApprovalDenied):
            await ruled.services.approvals.code(UUID(request["id"]), person=person_of(ruled.services, person))

    people = ("tess", "edna", "cy", "vic", "mallory")
    assert await refusals(ruled, request) == [(one, "approval_denied") for one in people for _ in range(3)]
    after = await shown(ruled.services, request)
    assert (after["state"], after["decisions"], lines(tmp_path / "f")) == ("open", [], [])
    assert await audit(ruled.services, "code.made", request) == []
    await ruled.services.cancel(run_id, by="test")


async def test_what_may_not_be_said_is_refused(ruled: Ruled, tmp_path: Path) -> None:
    nodes = [changing(tmp_path / "f", "plain", approval={"editable": WORD})]
    run_id, request = await open_gate(ruled, workflow(nodes))
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("send_back", {}, "comment: say what should be different"),
        ("send_back", {"comment": " \n"}, "comment: say what should be different"),
        ("approve", {"edits": {"word": "much too long"}}, "edits.word: "),
        ("approve", {"edits": {"word": 7}}, "edits.word: "),
        ("approve", {"edits": {"file": "/etc/passwd"}}, "edits.file: may not be changed"),
        ("approve", {"edits": {"unknown": "x"}}, "edits.unknown: may not be changed"),
        ("approve", {"edits": {}}, "edits: nothing is changed"),
        ("reject", {"edits": {"word": "x"}}, "edits: only with an approval"),
        ("send_back", {"edits": {"word": "x"}, "comment": "so"}, "edits: only with an approval"),
        ("reject", {"break_glass": True, "comment": "now"}, "(only an approval|no glass to)"),
        ("approve", {"break_glass": True, "comment": "now"}, "there is no glass to break"),
    ]

    for decision, more, words in wrong:
        with pytest.raises((InputInvalid, ApprovalDenied), match=words):
            await say(ruled.services, request, "ada", decision, **more)
    with pytest.raises(StaleDecision):
        await say(ruled.services, request, "ada", digest="0" * 64)

    found = await refusals(ruled, request)
    assert (len(found), {person for person, _ in found}) == (len(wrong) + 1, {"ada"})
    assert found[-1] == ("ada", "stale_decision")
    after = await shown(ruled.services, request)
    assert (after["state"], after["decisions"], lines(tmp_path / "f")) == ("open", [], [])
    await say(ruled.services, request, "ada", digest=request["digest"])
    await completes(ruled, run_id)
    assert lines(tmp_path / "f") == ["do plain"]


async def test_nobody_counts_twice_or_changes_sides(ruled: Ruled, tmp_path: Path) -> None:
    two = {"require": {"count": 2}}
    run_id, request = await open_gate(ruled, workflow([mutate(tmp_path / "f", approval=two)]))
    await ruled.approve(request, "ada", "ada")

    with pytest.raises(AlreadyDecided, match="ada has decided to approve"):
        await say(ruled.services, request, "ada", "reject")

    after = await shown(ruled.services, request)
    assert (after["state"], names(after["decisions"])) == ("open", ["ada"])
    assert await refusals(ruled, request) == [("ada", "already_decided")]
    assert len(await audit(ruled.services, "decision", request)) == 1
    await ruled.services.cancel(run_id, by="test")


async def test_of_two_people_at_once_exactly_one_decides(ruled: Ruled, tmp_path: Path) -> None:
    file = tmp_path / "f"
    run_id, request = await open_gate(ruled, workflow([mutate(file)]))

    answers = await asyncio.gather(
        say(ruled.services, request, "ada"),
        say(ruled.services, request, "bob", "reject"),
        say(ruled.services, request, "dan"),
        return_exceptions=True,
    )
    done = await end_of(ruled.services, run_id)

    assert sorted(type(answer).__name__ for answer in answers) == ["ApprovalClosed", "ApprovalClosed", "dict"]
    approved = (await shown(ruled.services, request))["state"] == "approved"
    assert (done["state"], lines(file)) == (("completed", ["changed"]) if approved else ("rejected", []))
    assert len(await audit(ruled.services, "decision", request)) == 1
    assert [because for _, because in await refusals(ruled, request)] == ["approval_closed"] * 2
    assert len(await audit(ruled.services, "grant.used", request)) == int(approved)


async def test_request_that_is_over_cannot_be_decided(ruled: Ruled, tmp_path: Path) -> None:
    text = workflow([mutate(tmp_path / "f", approval={"timeout": "1h"})])
    over = {
        state: await open_gate(ruled, text) for state in ("expired", "withdrawn", "rejected", "cancelled")
    }
    await age(ruled.services, over["expired"][1], 3600)
    await ruled.services.withdraw(over["withdrawn"][0], "it is over")
    await say(ruled.services, over["rejected"][1], "ada", "reject")
    await ruled.services.cancel(over["cancelled"][0], by="test")
    for state in ("withdrawn", "rejected", "cancelled"):
        assert (await end_of(ruled.services, over[state][0]))["state"] == state

    for state, (_, request) in over.items():
        with pytest.raises(ApprovalClosed, match=state if state != "cancelled" else "withdrawn"):
            await say(ruled.services, request, "bob")
        with pytest.raises(ApprovalClosed):
            await ruled.services.approvals.code(UUID(request["id"]), person=person_of(ruled.services, "bob"))
        assert await refusals(ruled, request) == [("bob", "approval_closed")], state
    assert len(await audit(ruled.services, "request.expired", over["expired"][1])) == 1
    await sweep(ruled.services)
    assert (await end_of(ruled.services, over["expired"][0]))["state"] == "rejected"
    assert lines(tmp_path / "f") == []


async def wakes(ruled: Ruled, run_id: UUID, act: Any) -> str:
    """Do something to a suspended run in Prefect, and give what it says when it is suspended again."""
    before = (await suspended(ruled.services, run_id)).state.id
    await act

    async def again() -> Any:
        state = (await ruled.services.client.read_flow_run(run_id)).state
        return state if state.name == "Suspended" and state.id != before else None

    return (await eventually(again)).message


async def test_prefects_own_buttons_open_no_gate(ruled: Ruled, tmp_path: Path) -> None:
    files, client = [tmp_path / name for name in "ab"], ruled.services.client
    nodes = [{**mutate(file), "id": file.name} for file in files]
    run_id = await start(ruled.services, workflow(nodes))
    first = await next_request(ruled.services, run_id)
    second = await next_request(ruled.services, run_id, first)

    for state in (Scheduled(name="Resuming"), AwaitingRetry(message="Retry from the UI")):
        said = await wakes(ruled, run_id, client.set_flow_run_state(run_id, state, force=True))
        assert "it was resumed without a decision" in said
    assert await bypasses(ruled, run_id) == ["it was resumed without a decision"] * 2
    said = await wakes(ruled, run_id, ruled.approve(first, "ada"))
    assert "without a decision" not in said
    assert sorted(map(lines, files)) == [[], ["changed"]]
    await ruled.approve(second, "bob")
    await completes(ruled, run_id)

    assert len(await bypasses(ruled, run_id)) == 2, "to wake a run by a decision is no attack"
    assert [lines(file) for file in files] == [["changed"], ["changed"]]


async def test_run_that_is_marked_as_completed_in_prefect_has_done_nothing(
    ruled: Ruled, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    run_id, request = await open_gate(ruled, workflow([mutate(file)]))

    await ruled.services.client.set_flow_run_state(run_id, Completed(), force=True)
    await upkeep_of(ruled.services).compare_waiting()
    done = await end_of(ruled.services, run_id)

    assert (done["state"], states(done)["mutate"]) == ("cancelled", "cancelled")
    assert "it was set to Completed in Prefect" in await bypasses(ruled, run_id)
    assert (await shown(ruled.services, request))["state"] == "withdrawn"
    with pytest.raises(ApprovalClosed):
        await ruled.approve(request, "ada")
    assert lines(file) == []


async def test_form_of_prefect_takes_only_a_fresh_code_of_somebody_who_may_decide(
    ruled: Ruled, tmp_path: Path
) -> None:
    file, client = tmp_path / "f", ruled.services.client
    two = workflow([mutate(file, approval={"require": {"count": 2}})])
    run_id, request = await open_gate(ruled, two)
    other, elsewhere = await open_gate(ruled, two)

    async def code(name: str, about: dict[str, Any] = request) -> str:
        person = person_of(ruled.services, name)
        return await ruled.services.approvals.code(UUID(about["id"]), person=person)

    async def form(code: str, decision: str = "approve") -> str:
        answer = {"decision": decision, "code": code}
        return await wakes(ruled, run_id, client.resume_flow_run(run_id, run_input=answer))

    used, replaced, leaving = await code("ada"), await code("bob"), await code("cy")
    fresh = await code("bob")
    wrong = "the code was wrong, or had been used"
    assert wrong in await form("0000-0000-0000-0000")
    assert wrong in await form(await code("dan", elsewhere))
    assert wrong in await form(replaced)
    await form(used)
    assert names((await shown(ruled.services, request))["decisions"]) == ["ada"]
    assert wrong in await form(used)
    ruled.people(cy=None)
    assert "cy is not known here" in await form(leaving)

    assert (await shown(ruled.services, request))["state"] == "open"
    assert len(await bypasses(ruled, run_id)) == 5
    assert await refusals(ruled, request) == [("cy", "approval_denied")]
    assert await bypasses(ruled, other) == []
    await client.resume_flow_run(run_id, run_input={"decision": "approve", "code": fresh})
    await completes(ruled, run_id)
    assert lines(file) == ["changed"]
    chain = str(await audit_table.latest(ruled.services.database, run_id=run_id))
    assert not any(one in chain for one in (used, replaced, leaving, fresh))
    await ruled.services.cancel(other, by="test")


async def test_approval_is_for_one_revision_of_the_workflow(ruled: Ruled, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("before", "after")]
    old, request = await open_gate(ruled, workflow([mutate(files[0])], name="reapplied"))
    new, changed = await open_gate(ruled, workflow([mutate(files[1])], name="reapplied"))
    assert (request["digest"] != changed["digest"], changed["alike"]) == (True, 1)

    with pytest.raises(StaleDecision):
        await ruled.approve(changed, "ada", digest=request["digest"])
    await ruled.approve(request, "ada", alike=True)
    await completes(ruled, old)

    assert [lines(file) for file in files] == [["changed"], []]
    assert (await shown(ruled.services, changed))["state"] == "open"
    await ruled.services.cancel(new, by="test")


async def test_file_that_the_plan_covers_and_that_changes_after_the_approval_is_asked_about_again(
    ruled: Ruled, tmp_path: Path
) -> None:
    file, sign = tmp_path / "f", tmp_path / "sign"
    sign.write_text("one")
    inputs = {"file": str(file), "text": str(sign)}
    run_id, first = await open_gate(ruled, workflow([node("drift", "drifting", inputs=inputs)]))

    with ruled.worker_held():
        assert (await ruled.approve(first, "ada"))["state"] == "approved"
        sign.write_text("two")
    second = await next_request(ruled.services, run_id, first)

    gone = await shown(ruled.services, first)
    assert (gone["state"], gone["reason"], gone["used_at"]) == ("void", "what would run has changed", None)
    assert second["card"]["changed"] == [{"what": "plan.summary", "before": "one", "after": "two"}]
    assert (second["decisions"], lines(file)) == ([], [])
    assert await audit(ruled.services, "grant.used", first) == []
    await ruled.approve(second, "bob")
    await completes(ruled, run_id)
    assert lines(file) == ["changed"]


FORGED = "state = 'approved', decided_at = now(), usable_until = now() + interval '1 day', next_at = NULL"


@pytest.mark.parametrize("used", ["", ", used_at = now()"], ids=["fresh", "used"])
async def test_approval_that_nobody_gave_opens_nothing(ruled: Ruled, tmp_path: Path, used: str) -> None:
    files = [tmp_path / name for name in "ab"]
    once = each("mutate", {"file": "{{ item }}"}, [str(files[1])], approval={"per": "node"})
    opened = [
        await open_gate(ruled, workflow([mutate(files[0])])),
        await open_gate(ruled, workflow([once])),
    ]

    for run_id, request in opened:
        await change(ruled.services, request, FORGED + used)
        await ruled.services.client.set_flow_run_state(run_id, Scheduled(name="Resuming"), force=True)
        again = await next_request(ruled.services, run_id, request)
        assert again["digest"] == request["digest"]
        assert [one["state"] for one in await all_of(ruled.services, run_id)][1:] == ["open"]

    assert [lines(file) for file in files] == [[], []]
    for run_id, request in opened:
        assert await audit(ruled.services, "grant.used", request) == []
        await ruled.services.cancel(run_id, by="test")


async def test_approval_that_is_too_old_opens_nothing(ruled: Ruled, tmp_path: Path) -> None:
    file = tmp_path / "f"
    run_id, request = await open_gate(ruled, workflow([mutate(file, approval={"valid": "1h"})]))

    with ruled.worker_held():
        await ruled.approve(request, "ada")
        await age(ruled.services, request, 3600)
    again = await next_request(ruled.services, run_id, request)

    gone = await shown(ruled.services, request)
    assert (gone["state"], gone["reason"], lines(file)) == ("void", "its time ran out", [])
    await ruled.approve(again, "ada")
    await completes(ruled, run_id)
    assert lines(file) == ["changed"]


async def test_approval_is_used_up_when_the_run_is_tried_again(ruled: Ruled, tmp_path: Path) -> None:
    file = tmp_path / "f"
    nodes = [changing(file, "it", approval={}), node("later", "fail", needs=["change"])]
    run_id, request = await open_gate(ruled, workflow(nodes))
    await ruled.approve(request, "ada")
    await end_of(ruled.services, run_id)

    await ruled.services.retry(run_id, start="change")
    again = await next_request(ruled.services, run_id, request)

    assert (again["decisions"], lines(file)) == ([], ["do it"])
    with pytest.raises(ApprovalError):
        await say(ruled.services, request, "bob")
    await say(ruled.services, again, "ada", "reject")
    await eventually(lambda: _rejected(ruled, run_id))
    assert lines(file) == ["do it"]


async def _rejected(ruled: Ruled, run_id: UUID) -> bool:
    return states(await ruled.services.show(run_id)).get("change") == "rejected"


async def test_changed_line_of_the_audit_chain_is_named(ruled: Ruled, tmp_path: Path) -> None:
    database = ruled.services.database
    run_id, request = await open_gate(ruled, workflow([mutate(tmp_path / "f")]))
    await say(ruled.services, request, "ada", "reject")
    await end_of(ruled.services, run_id)
    (row,) = [row for row in await audit_table.latest(database, request_id=UUID(request["id"])) if row.person]
    noted = Head(row.seq, row.hash)
    assert (await verify(database, noted=noted)).ok

    forge = "UPDATE penstock.audit_entry SET entry = :entry WHERE seq = :seq"
    forged = row.entry.replace('"reject"', '"approve"')
    assert forged != row.entry
    try:
        await tamper(database, forge, values={"seq": row.seq, "entry": forged})
        found = await verify(database, noted=noted)
    finally:
        await tamper(database, forge, values={"seq": row.seq, "entry": row.entry})

    assert found.broken is not None
    assert (found.broken.seq, found.broken.what) == (row.seq, "hash")
    assert (await verify(database)).ok
