"""People and policies at work: more conditions, votes that no longer count, freezes, standing grants."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text as sql

from engine.flows import node, workflow
from engine.ruling import Ruled, all_of, audit, change, names, next_request, person_of, say, shown, sweep
from engine.test_approval_outcomes import WORD, changing, each
from engine.test_gates import end_of, eventually, lines, mutate, requests, start, suspended
from engine.test_runs import states
from penstock.engine.noting import RulesNoter
from penstock.errors import ApprovalDenied, InputInvalid

pytestmark = pytest.mark.integration

SECURITY = {"from": ["group:security"]}


async def open_gate(ruled: Ruled, text: str, **inputs: Any) -> tuple[UUID, dict[str, Any]]:
    """Start a run with one gate and wait until it waits there."""
    run_id = await start(ruled.services, text, **inputs)
    (request,) = await requests(ruled.services, run_id)
    await suspended(ruled.services, run_id)
    return run_id, request


async def completes(ruled: Ruled, run_id: UUID) -> None:
    done = await end_of(ruled.services, run_id)
    assert done["state"] == "completed", done


async def test_policy_adds_a_condition_to_a_gate(ruled: Ruled, tmp_path: Path) -> None:
    file = tmp_path / "f"
    ruled.rule({"targets": [f"{tmp_path}/*"]}, SECURITY, why="These files are theirs")

    run_id, request = await open_gate(ruled, workflow([mutate(file)]))

    assert [clause["source"] for clause in request["clauses"]] == ["risk", "policy test/more"]
    assert request["card"]["why"].endswith("; These files are theirs")
    waits = await ruled.approve(request, "ada")
    assert (waits["state"], waits["needs"]) == ("open", "1 approval from group:security")
    assert (await ruled.approve(request, "cy"))["state"] == "approved"
    await completes(ruled, run_id)
    assert lines(file) == ["changed"]


async def test_policy_puts_a_gate_before_an_agent_that_needs_none(ruled: Ruled, tmp_path: Path) -> None:
    file = tmp_path / "f"
    ruled.rule({"types": ["MODIFICATION"], "targets": [f"{tmp_path}/guarded"]})
    text = workflow(
        [changing(file, "free", "free"), changing(file, f"{tmp_path}/guarded", "held"), node("look")]
    )

    run_id, request = await open_gate(ruled, text)

    assert (request["node"], request["clauses"][0]["source"]) == ("held", "policy test/more")
    assert lines(file) == ["do free"]
    await ruled.approve(request, "ada")
    await completes(ruled, run_id)
    assert lines(file) == ["do free", f"do {tmp_path}/guarded"]


async def test_policy_that_comes_after_the_approval_voids_it(ruled: Ruled, tmp_path: Path) -> None:
    files = [tmp_path / name for name in "ab"]
    one = workflow([mutate(files[0])])
    items = each("mutate", {"file": "{{ item }}"}, [str(files[1])], approval={"per": "node"})
    first = [await open_gate(ruled, one), await open_gate(ruled, workflow([items]))]

    with ruled.worker_held():
        for _, request in first:
            assert (await ruled.approve(request, "ada"))["state"] == "approved"
        ruled.rule({"targets": [f"{tmp_path}/*"]}, SECURITY)
    second = [await next_request(ruled.services, run_id, request) for run_id, request in first]

    assert [lines(file) for file in files] == [[], []]
    gone = await shown(ruled.services, first[0][1])
    assert (gone["state"], gone["reason"]) == ("void", "the policies ask for more now")
    assert [request["clauses"][-1]["source"] for request in second] == ["policy test/more"] * 2
    for (run_id, _), request in zip(first, second, strict=True):
        await ruled.approve(request, "cy")
        await completes(ruled, run_id)
    assert [lines(file) for file in files] == [["changed"], ["changed"]]


async def test_vote_of_somebody_who_is_gone_counts_no_longer(ruled: Ruled, tmp_path: Path) -> None:
    file = tmp_path / "f"
    run_id, request = await open_gate(ruled, workflow([mutate(file, approval={"require": {"count": 2}})]))
    await ruled.approve(request, "ada")

    ruled.people(ada=None)
    waits = await ruled.approve(request, "bob")
    assert (waits["state"], waits["needs"]) == ("open", "1 more approval")
    with ruled.worker_held():
        assert (await ruled.approve(request, "cy"))["state"] == "approved"
        ruled.people(ada=None, cy={"groups": ["security"]})  # one who may only look
    again = await next_request(ruled.services, run_id, request)

    gone = await shown(ruled.services, request)
    assert (gone["state"], gone["used_at"]) == ("void", None)
    assert lines(file) == []
    await ruled.approve(again, "bob", "dan")
    await completes(ruled, run_id)
    assert lines(file) == ["changed"]


async def test_people_of_different_groups_have_to_agree(ruled: Ruled, tmp_path: Path) -> None:
    both = {"count": 2, "from": ["group:sre", "group:security"], "distinct_groups": True}
    run_id, request = await open_gate(ruled, workflow([mutate(tmp_path / "f", approval={"require": both})]))

    waits = await ruled.approve(request, "ada", "bob")
    assert (waits["state"], waits["clauses"][0]["missing"]) == ("open", 1)
    assert (await ruled.approve(request, "cy"))["state"] == "approved"
    await completes(ruled, run_id)


async def test_freeze_holds_whatever_is_approved_until_two_break_the_glass(
    ruled: Ruled, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    ruled.frozen({"targets": [f"{tmp_path}/*"]}, break_glass={"from": ["group:security"]})
    run_id, request = await open_gate(ruled, workflow([mutate(file)]))

    waits = await ruled.approve(request, "ada")
    assert waits["needs"] == "2 approvals that break the freeze calm/holidays from group:security"
    with pytest.raises(InputInvalid, match="give the reason for breaking the glass"):
        await ruled.approve(request, "cy", break_glass=True)
    with pytest.raises(ApprovalDenied, match="bob is not among those who may break"):
        await ruled.approve(request, "bob", break_glass=True, comment="now")
    await ruled.approve(request, "dan")
    await ruled.approve(request, "cy", break_glass=True, comment="the site is down")
    assert lines(file) == []
    settled = await ruled.approve(request, "dan", break_glass=True, comment="I see it too")
    assert settled["state"] == "approved"
    await completes(ruled, run_id)

    assert lines(file) == ["changed"]
    said = await audit(ruled.services, "decision", request)
    assert [(one["person"], one.get("break_glass", False)) for one in said] == [
        ("ada", False),
        ("dan", False),
        ("cy", True),
        ("dan", True),
    ]


async def test_what_a_freeze_held_up_goes_on_by_itself_when_it_ends(ruled: Ruled, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("gated", "free")]
    ruled.frozen({"targets": [f"{tmp_path}/*", "free"]})
    gated, approved = await open_gate(ruled, workflow([mutate(files[0])]))
    free, held = await open_gate(ruled, workflow([changing(files[1], "free")]))
    still, waiting = await open_gate(ruled, workflow([mutate(files[0])]))
    assert (await ruled.approve(approved, "ada"))["state"] == "open"
    assert [clause["source"] for clause in held["clauses"]] == ["freeze calm/holidays"]

    ruled.clear()
    for request in (approved, held, waiting):
        await thaw(ruled, request)
    await sweep(ruled.services)
    await completes(ruled, gated)
    await completes(ruled, free)

    assert [lines(file) for file in files] == [["changed"], ["do free"]]
    after = [(await shown(ruled.services, one))["state"] for one in (approved, held, waiting)]
    assert after == ["approved", "void", "open"]
    assert len(await audit(ruled.services, "request.thawed", approved)) == 1
    await ruled.approve(waiting, "bob")
    await completes(ruled, still)


async def thaw(ruled: Ruled, request: dict[str, Any]) -> None:
    """Let the end of a freeze come for a request."""
    path = ["clauses", str(len(request["clauses"]) - 1), "until"]
    ended = "terms = jsonb_set(terms, CAST(:path AS text[]), to_jsonb(now())), next_at = now()"
    await change(ruled.services, request, ended, path=path)


async def test_edit_that_leads_elsewhere_meets_the_policies_of_that_place(
    ruled: Ruled, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    ruled.rule({"targets": ["guarded"]}, SECURITY)
    run_id, first = await open_gate(ruled, workflow([changing(file, "plain", approval={"editable": WORD})]))

    await ruled.approve(first, "ada", edits={"word": "guarded"})
    second = await next_request(ruled.services, run_id, first)

    assert [clause["source"] for clause in second["clauses"]] == ["workflow", "policy test/more"]
    assert (names(second["decisions"]), second["needs"]) == (["ada"], "1 approval from group:security")
    await ruled.approve(second, "cy")
    await completes(ruled, run_id)
    assert lines(file) == ["do guarded"]


async def standing(ruled: Ruled, target: Path | str, name: str = "ada", **more: Any) -> dict[str, Any]:
    """Approve changes of a target in advance."""
    person = person_of(ruled.services, name)
    given = {"seconds": 600.0, "max_uses": 1, **more}
    return await ruled.services.standing.grant("mutate", [str(target)], person=person, **given)


async def uses(ruled: Ruled, grant: dict[str, Any]) -> int:
    known = await ruled.services.standing.list(every=True)
    return next(one["uses"] for one in known if one["id"] == grant["id"])


async def test_standing_grant_is_one_approval_for_so_many_uses(ruled: Ruled, tmp_path: Path) -> None:
    file = tmp_path / "f"
    grant = await standing(ruled, f"{tmp_path}/*", max_uses=2)
    two = {"require": {"count": 2}}

    run_id = await start(ruled.services, workflow([mutate(file)]))
    await completes(ruled, run_id)
    waits, request = await open_gate(ruled, workflow([mutate(file, approval=two)]))
    _, unused = await open_gate(ruled, workflow([mutate(file)]))

    (used,) = await all_of(ruled.services, run_id)
    used = await shown(ruled.services, used)
    assert [(one["person"], one["via"]) for one in used["decisions"]] == [("ada", "standing")]
    assert (names(request["decisions"]), request["needs"]) == (["ada"], "1 more approval")
    assert (unused["decisions"], await uses(ruled, grant)) == ([], 2)
    assert [one["uses"] for one in await audit(ruled.services, "standing.used", used)] == [1]
    await ruled.approve(request, "bob")
    await completes(ruled, waits)


async def test_standing_grant_that_does_not_fit_is_not_used(ruled: Ruled, tmp_path: Path) -> None:
    services, file = ruled.services, tmp_path / "f"
    revoked, expired = await standing(ruled, file), await standing(ruled, file)
    elsewhere = await standing(ruled, tmp_path / "g")
    other = await standing(ruled, file, workflow="another")
    await services.standing.revoke(UUID(revoked["id"]), person=person_of(services, "bob"))
    ended = sql("UPDATE penstock.standing_grant SET expires_at = now() WHERE id = :id")
    await services.database.fetch(ended, {"id": UUID(expired["id"])})
    own = await standing(ruled, tmp_path / "own", "tess")
    looker = await standing(ruled, tmp_path / "looked", "dan")
    ruled.people(dan={"groups": ["sre"]})
    cold = await standing(ruled, tmp_path / "cold")
    ruled.frozen({"targets": [str(tmp_path / "cold")]})

    gates = [
        mutate(file),
        mutate(tmp_path / "own", approval={"forbid": ["requester"]}),
        mutate(tmp_path / "looked"),
        mutate(tmp_path / "cold"),
    ]
    nodes = [{**gate, "id": f"n{number}"} for number, gate in enumerate(gates)]
    run_id = await start(services, workflow(nodes))
    asked = await requests(services, run_id, count=4)

    assert [names(request["decisions"]) for request in asked] == [[], [], [], ["ada"]]
    assert asked[3]["needs"].startswith("2 approvals that break the freeze")
    counted = [await uses(ruled, one) for one in (revoked, expired, elsewhere, other, own, looker, cold)]
    assert counted == [0, 0, 0, 0, 0, 0, 1]
    assert [lines(tmp_path / name) for name in ("f", "own", "looked", "cold")] == [[]] * 4
    await services.cancel(run_id, by="test")


async def test_standing_grants_are_given_by_approvers_and_for_something(ruled: Ruled) -> None:
    with pytest.raises(ApprovalDenied, match="vic is no approver"):
        await standing(ruled, "/f", "vic")
    with pytest.raises(InputInvalid, match=r"\* alone would be everything"):
        await standing(ruled, "*")
    grant = await standing(ruled, "/f")
    with pytest.raises(ApprovalDenied, match="vic is no approver"):
        await ruled.services.standing.revoke(UUID(grant["id"]), person=person_of(ruled.services, "vic"))


async def test_one_more_must_approve_where_nobody_knows_who_asked(ruled: Ruled, tmp_path: Path) -> None:
    services, file = ruled.services, tmp_path / "f"
    text = workflow([mutate(file, approval={"forbid": ["requester"]})])
    applied = await services.apply(text, file="test.yaml", by="test")
    run_id = (await services.start(applied.name, {})).run_id  # as Prefect's own form starts it
    (request,) = await requests(services, run_id)

    assert "nobody knows who asked" in request["card"]["why"]
    await ruled.approve(request, "ada")
    assert ((await shown(services, request))["state"], lines(file)) == ("open", [])
    await ruled.approve(request, "bob")
    await completes(ruled, run_id)

    assert lines(file) == ["changed"]


async def test_requests_that_are_alike_are_decided_at_once(ruled: Ruled, tmp_path: Path) -> None:
    services, files = ruled.services, [tmp_path / "same", tmp_path / "other"]
    gate = node("mutate", "mutate", inputs={"file": "{{ inputs.file }}"})
    text = workflow([gate], inputs={"file": {"type": "string"}})
    alike = [await open_gate(ruled, text, file=str(files[0])) for _ in range(2)]
    other, different = await open_gate(ruled, text, file=str(files[1]))

    assert (await shown(services, alike[0][1]))["alike"] == 2
    decided = await say(services, alike[0][1], "ada", alike=True)

    assert decided["decided"] == 2
    await asyncio.gather(*(completes(ruled, run_id) for run_id, _ in alike))
    assert lines(files[0]) == ["changed", "changed"]
    assert ((await shown(services, different))["state"], lines(files[1])) == ("open", [])
    assert states(await services.show(other))["mutate"] == "waiting_approval"
    await services.cancel(other, by="test")


async def test_rules_in_force_stand_in_the_audit_chain(ruled: Ruled) -> None:
    noter = RulesNoter(ruled.services.database, ruled.services.rules, "this-test")
    versions: list[str] = []
    for write in (lambda: ruled.rule({"workflows": ["nobody"]}), ruled.clear):
        write()
        versions.append(ruled.services.rules.current().version)
        await noter.note()
        await noter.note()

    mine = [one["version"] for one in await loaded(ruled) if one["process"] == "this-test"]
    assert mine == versions
    assert versions[0] != versions[1]
    await eventually(lambda: _other_than(ruled, "this-test"))


async def loaded(ruled: Ruled) -> list[dict[str, Any]]:
    return await audit(ruled.services, "policy.loaded")


async def _other_than(ruled: Ruled, process: str) -> bool:
    """Say whether the stack's worker has noted rules as well."""
    return any(one["process"] != process for one in await loaded(ruled))
