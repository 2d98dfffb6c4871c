"""What may come of a request: sent back, edited, out of time, withdrawn, one for all items."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from engine.flows import node, workflow
from engine.ruling import age, all_of, audit, names, next_request, notices, shown, sweep
from engine.test_gates import decide, end_of, eventually, lines, mutate, requests, start, suspended
from engine.test_runs import prefect_state, states
from penstock.errors import ApprovalDenied, ApprovalError, Conflict, NotFound
from penstock.store.runs import events_of

pytestmark = pytest.mark.integration

WORD = {"word": {"type": "string", "maxLength": 8}}
HOUR_S = 3600.0


def noted(file: Path, **rest: Any) -> dict[str, Any]:
    """Write a gated node that heeds a note."""
    inputs = {"file": str(file), "word": "{{ approval.note | default('first') }}"}
    return node("change", "change", inputs=inputs, **{"approval": {}, **rest})


def changing(file: Path, word: str, id_: str = "change", **rest: Any) -> dict[str, Any]:
    return node(id_, "change", inputs={"file": str(file), "word": word}, **rest)


async def test_request_that_is_sent_back_is_planned_again_with_the_note(
    services: Any, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    approval = {"title": "Round {{ approval.round }}"}
    run_id = await start(services, workflow([noted(file, approval=approval)]))
    (first,) = await requests(services, run_id)

    await decide(services, first, "send_back", comment="second")
    second = await next_request(services, run_id, first)

    assert ((await shown(services, first))["state"], second["state"]) == ("sent_back", "open")
    assert (second["title"], second["card"]["round"]) == ("Round 2", 2)
    assert second["card"]["note"] == {"person": "ada", "text": "second"}
    assert {"what": "inputs.word", "before": "first", "after": "second"} in second["card"]["changed"]
    assert lines(file) == []
    await decide(services, second)
    done = await end_of(services, run_id)
    assert (done["state"], lines(file)) == ("completed", ["do second"])


async def test_edited_input_is_approved_as_it_would_run_and_undone_as_it_ran(
    services: Any, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    text = workflow(
        [
            changing(file, "plain", approval={"editable": WORD}, undo="automatic"),
            node("later", "fail", needs=["change"]),
        ]
    )
    run_id = await start(services, text)
    (first,) = await requests(services, run_id)

    edited = await decide(services, first, edits={"word": "better"}, comment="so")
    done = await end_of(services, run_id)

    assert edited["state"] == "edited"
    assert lines(file) == ["do better", "undo better"]
    assert states(done) == {"change": "undone", "later": "failed"}
    _, second = await all_of(services, run_id)
    second = await shown(services, second)
    assert (second["state"], second["edits"]) == ("approved", {"word": "better"})
    assert second["digest"] != first["digest"]
    assert [(one["person"], one["via"], one["comment"]) for one in second["decisions"]] == [
        ("ada", "edit", "so")
    ]
    assert second["card"]["edited"] == {
        "person": "ada",
        "inputs": {"word": {"before": "plain", "after": "better"}},
    }
    assert second["card"]["plan"]["targets"] == ["better"]


async def test_edited_input_is_undone_as_it_ran_also_when_the_run_was_tried_again(
    services: Any, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    text = workflow(
        [
            changing(file, "plain", approval={"editable": WORD}, undo="automatic"),
            mutate(file, needs=["change"]),
        ]
    )
    run_id = await start(services, text)
    (first,) = await requests(services, run_id)
    await decide(services, first, edits={"word": "better"})
    await eventually(lambda: asyncio.to_thread(file.exists))
    second = await next_request(services, run_id, first)
    await suspended(services, run_id)
    await services.withdraw(run_id, "not now")
    await end_of(services, run_id)
    assert lines(file) == ["do better"], "a run that was withdrawn keeps its changes"

    await services.retry(run_id)
    third = await next_request(services, run_id, first, second)
    await decide(services, third, "reject")
    await eventually(lambda: _is(services, run_id, "rejected"))

    assert lines(file) == ["do better", "undo better"]


async def _is(services: Any, run_id: UUID, state: str) -> bool:
    return (await services.show(run_id))["state"] == state


async def test_edit_with_a_quorum_of_two_waits_for_the_second_person(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    approval = {"require": {"count": 2}, "editable": WORD}
    run_id = await start(services, workflow([changing(file, "plain", approval=approval)]))
    (first,) = await requests(services, run_id)
    await decide(services, first, person="bob")

    await decide(services, first, edits={"word": "better"})
    second = await next_request(services, run_id, first)

    assert names(second["decisions"]) == ["ada"], "what bob approved is not what would run now"
    assert second["needs"] == "1 more approval"
    assert (await decide(services, second))["state"] == "open"
    await decide(services, second, person="bob")
    assert (await end_of(services, run_id))["state"] == "completed"
    assert lines(file) == ["do better"]


async def test_gate_out_of_time_rejects_or_fails_as_the_workflow_says(services: Any, tmp_path: Path) -> None:
    fails = {"approval": {"timeout": "1h", "on_timeout": "fail"}}
    gates = {
        "rejects": {"approval": {"timeout": "1h"}},
        "fails": fails,
        "goes_on": {**fails, "on_error": "continue"},
    }
    runs: dict[str, UUID] = {}
    for name, rest in gates.items():
        text = workflow([mutate(tmp_path / name, **rest), node("after", needs=["mutate"])])
        runs[name] = await start(services, text)
    asked = {name: (await requests(services, run_id))[0] for name, run_id in runs.items()}
    for name, run_id in runs.items():
        await suspended(services, run_id)
        await age(services, asked[name], HOUR_S)

    await sweep(services)
    ends = {name: await end_of(services, run_id) for name, run_id in runs.items()}

    assert {name: (end["state"], *states(end).values()) for name, end in ends.items()} == {
        "rejects": ("rejected", "skipped", "rejected"),
        "fails": ("failed", "skipped", "failed"),
        "goes_on": ("completed", "succeeded", "failed"),
    }
    for name, end in ends.items():
        assert "nobody decided in time" in end["nodes"]["mutate"]["error"]["message"]
        assert (await shown(services, asked[name]))["state"] == "expired"
        assert len(await audit(services, "request.expired", asked[name])) == 1
        assert lines(tmp_path / name) == []


async def test_people_are_reminded_and_others_asked_as_time_goes_by(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    approval = {
        "require": {"from": ["user:ada"]},
        "remind": ["1h", "2h"],
        "timeout": "4h",
        "on_timeout": "escalate",
        "escalate": {"to": ["user:bob"]},
    }
    run_id = await start(services, workflow([mutate(file, approval=approval)]))
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)

    await age(services, request, HOUR_S)
    await asyncio.gather(sweep(services), sweep(services))
    assert await notices(services, request) == ["asked", "reminder"]
    with pytest.raises(ApprovalDenied, match="bob is not among those who may approve: user:ada"):
        await decide(services, request, person="bob")
    await age(services, request, 3 * HOUR_S)  # the second reminder was missed, and it is time to escalate
    await sweep(services)

    later = await shown(services, request)
    assert (later["state"], later["escalated_at"] is not None) == ("open", True)
    assert Counter(await notices(services, request)) == {"asked": 1, "reminder": 2, "escalated": 1}
    kinds = [event.type for event in await events_of(services.database, run_id)]
    assert (kinds.count("approval.reminder"), kinds.count("approval.escalated")) == (2, 1)
    assert len(await audit(services, "request.escalated", request)) == 1
    await decide(services, request, person="bob")
    assert (await end_of(services, run_id))["state"] == "completed"
    assert lines(file) == ["changed"]


async def test_gate_that_nobody_answers_even_after_the_escalation_is_rejected(
    services: Any, tmp_path: Path
) -> None:
    approval = {"timeout": "1h", "on_timeout": "escalate", "escalate": {"to": ["user:bob"]}}
    run_id = await start(services, workflow([mutate(tmp_path / "f", approval=approval)]))
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)

    for _ in range(2):
        await age(services, request, HOUR_S)
        await sweep(services)

    assert (await end_of(services, run_id))["state"] == "rejected"


def each(agent: str, inputs: dict[str, Any], items: list[str], **rest: Any) -> dict[str, Any]:
    """Write a node that asks once for all its items."""
    return node("each", agent, inputs=inputs, foreach={"in": items, "as": "item"}, **rest)


async def test_one_request_covers_all_items_of_a_node(services: Any, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in "abc"]
    once = each("mutate", {"file": "{{ item }}"}, files, approval={"per": "node"})
    run_id = await start(services, workflow([once, node("last", needs=["each"])]))

    (request,) = await requests(services, run_id)
    await suspended(services, run_id)

    assert (request["node"], request["card"]["plan"]["targets"]) == ("each", files)
    assert set(request["card"]["inputs"]) == {"each[0]", "each[1]", "each[2]"}
    await decide(services, request)
    done = await end_of(services, run_id)
    assert done["state"] == "completed"
    assert [lines(Path(file)) for file in files] == [["changed"]] * 3
    assert [one["id"] for one in await all_of(services, run_id)] == [request["id"]]
    assert len(await audit(services, "grant.used", request)) == 1


async def test_one_request_for_all_items_is_sent_back_or_rejected_as_one(
    services: Any, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    inputs = {"file": str(file), "word": "{{ item }} {{ approval.note | default('first') }}"}
    once = each("change", inputs, ["a", "b"], approval={"per": "node"})
    run_id = await start(services, workflow([once]))
    (first,) = await requests(services, run_id)

    await decide(services, first, "send_back", comment="second")
    second = await next_request(services, run_id, first)
    assert second["card"]["plan"]["targets"] == ["a second", "b second"]
    await decide(services, second, "reject")
    done = await end_of(services, run_id)

    assert (done["state"], lines(file)) == ("rejected", [])
    assert states(done)["each"] == "rejected"


async def test_item_whose_plan_has_changed_meanwhile_asks_by_itself(services: Any, tmp_path: Path) -> None:
    file, signs = tmp_path / "f", [tmp_path / "a", tmp_path / "b"]
    for sign in signs:
        sign.write_text("one")
    inputs = {"file": str(file), "text": "{{ item }}"}
    once = each("drifting", inputs, [str(sign) for sign in signs], approval={"per": "node"})
    run_id = await start(services, workflow([once]))
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)
    signs[1].write_text("two")

    await decide(services, request)
    again = await next_request(services, run_id, request)
    state = (await suspended(services, run_id)).state

    assert (again["node"], again["card"]["plan"]["summary"]) == ("each[1]", "two")
    assert lines(file) == ["changed"], "the other item has run"
    await asyncio.sleep(1)
    assert (await suspended(services, run_id)).state.id == state.id, "nothing wakes it while it waits"
    await decide(services, again)
    assert (await end_of(services, run_id))["state"] == "completed"
    assert lines(file) == ["changed", "changed"]
    assert len(await all_of(services, run_id)) == 2


async def test_run_whose_question_is_withdrawn_ends_as_withdrawn(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    text = workflow(
        [mutate(file), node("after", needs=["mutate"]), node("report", needs=["after"], run="always")]
    )
    run_id = await start(services, text)
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)

    assert await services.withdraw(run_id, "the alert is over") == 1
    done = await end_of(services, run_id)

    assert (done["state"], lines(file)) == ("withdrawn", [])
    assert states(done) == {"mutate": "withdrawn", "after": "skipped", "report": "succeeded"}
    assert "the alert is over" in done["message"]
    state = await prefect_state(services, done)
    assert (state.type.value, state.name) == ("CANCELLED", "Withdrawn")
    assert (await shown(services, request))["reason"] == "the alert is over"
    assert await audit(services, "grant.used", request) == []
    with pytest.raises(ApprovalError):
        await decide(services, request)
    with pytest.raises(Conflict, match="waits for no approval"):
        await services.withdraw(run_id, "again")


async def test_question_of_a_sub_workflow_is_asked_answered_and_withdrawn(
    services: Any, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    child = (await services.apply(workflow([mutate(file)]), file="test.yaml", by="test")).name
    parent = workflow([{"id": "part", "workflow": child}, node("after", needs=["part"])])
    runs = [await start(services, parent), await start(services, parent)]
    parts = [UUID(await eventually(lambda run_id=run_id: _part(services, run_id))) for run_id in runs]
    asked = [(await requests(services, part))[0] for part in parts]
    for run_id in (*runs, *parts):
        await suspended(services, run_id)

    await decide(services, asked[0])
    assert await services.withdraw(runs[1], "it is over") == 1
    ends = [await end_of(services, run_id) for run_id in runs]

    assert [end["state"] for end in ends] == ["completed", "withdrawn"]
    assert states(ends[1]) == {"part": "withdrawn", "after": "skipped"}
    assert (await services.show(parts[1]))["state"] == "withdrawn"
    assert (await prefect_state(services, ends[1])).name == "Withdrawn"
    assert lines(file) == ["changed"]


async def _part(services: Any, run_id: UUID) -> str:
    """Give the run of the node `part`, once there is one."""
    try:
        reason = (await services.show(run_id))["nodes"].get("part", {}).get("reason") or ""
    except NotFound:
        return ""
    return reason.split()[3] if reason.startswith("waits for run") else ""


async def test_gate_of_an_error_branch_holds_and_opens(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    mend = node("mend", "change", inputs={"file": str(file), "word": "{{ error.node }}"}, approval={})
    text = workflow([node("broken", "fail", on_error="mending")], error_branches={"mending": [mend]})
    run_id = await start(services, text)
    (request,) = await requests(services, run_id)
    await suspended(services, run_id)

    assert (request["node"], lines(file)) == ("mend", [])
    await decide(services, request)
    done = await end_of(services, run_id)

    assert (done["state"], lines(file)) == ("failed", ["do broken"])
    assert states(done) == {"broken": "failed", "mend": "succeeded"}


async def test_card_tells_what_came_of_it_the_last_time(services: Any, tmp_path: Path) -> None:
    file = tmp_path / "f"
    text = workflow([mutate(file)])
    first = await start(services, text)
    (request,) = await requests(services, first)
    await decide(services, request)
    await end_of(services, first)

    second = await start(services, text)
    (again,) = await requests(services, second)

    (past,) = again["card"]["history"]
    assert (past["run_id"], past["state"], past["approved_by"]) == (str(first), "succeeded", ["ada"])
    await services.cancel(second, by="test")
