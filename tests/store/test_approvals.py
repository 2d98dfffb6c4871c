"""Requests for approval, decisions about them and grants, one after another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from penstock.errors import (
    AlreadyDecided,
    ApprovalClosed,
    ApprovalDenied,
    InputInvalid,
    LeaseLost,
    NotFound,
    StaleDecision,
)
from penstock.store.approvals import (
    ApprovalRequest,
    decide,
    get_approval,
    latest_request,
    use_grant,
    verdict_of,
)
from penstock.store.database import Database
from penstock.store.listening import Listener
from penstock.store.runs import Entry, events_of, finish_run, reopen_run
from penstock.store.states import ApprovalState, RunState, Verdict
from penstock.store.tables import SIGNAL_CHANNEL
from penstock.store.workflows import Revision
from store.asking import ONE, TWO, Judge, ask, facts_of, noted, notices_of, say, use, words
from store.entering import age, enter, types_of

S = ApprovalState


async def again(database: Database, revision: Revision, entry: Entry) -> Entry:
    """Have the run fail, be opened again and entered."""
    await finish_run(database, entry.run.id, RunState.FAILED)
    await reopen_run(database, entry.run.id)
    return await enter(database, revision, entry.run.id)


async def latest(database: Database, entry: Entry) -> ApprovalRequest | None:
    return await latest_request(database, entry.run.id, "apply", "", entry.run.epoch)


async def seen(database: Database, request: ApprovalRequest) -> ApprovalRequest:
    return await get_approval(database, request.id)


async def run_of(database: Database, request: ApprovalRequest, seconds: float) -> None:
    """Let the time go by in which a request can be decided."""
    await age(database, "approval_request", request.id, seconds, "expires_at")


async def test_request_holds_what_was_asked(database: Database, entry: Entry) -> None:
    assert await latest(database, entry) is None
    request = await ask(database, entry, expires_in_s=60, next_in_s=30, edits={"n": [1.5, "\ud800"]})

    for found in (await seen(database, request), await latest(database, entry)):
        assert found is not None
        assert replace(found, read_at=request.read_at) == request
    assert (request.state, request.round, request.decisions, request.alike) == (S.OPEN, 1, (), 1)
    assert request.card == {"plan": {"summary": "a\x00b", "diff": "+x"}}
    assert (request.agent, request.targets, request.terms) == ("patcher", ("host-a",), {"policy": "p1"})
    assert request.edits == {"n": [1.5, "\ud800"]}
    assert request.expires_at is not None
    assert (request.expires_at - request.opened_at).total_seconds() == 60
    assert await types_of(database, entry.run.id) == ["run.started", "approval.requested"]
    assert await notices_of(database, request) == ["asked"]
    (facts,) = await facts_of(database, "request.opened")
    assert (facts["digest"], facts["node"], facts["targets"], facts["terms"], facts["round"]) == (
        "d1",
        "apply",
        ["host-a"],
        {"policy": "p1"},
        1,
    )


async def test_open_request_again_finds_the_one_that_was_approved(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    assert (await ask(database, entry)).id == request.id
    await say(database, request)

    assert (await ask(database, entry)).state is S.APPROVED
    assert await noted(database) == ["request.opened", "decision"]


@pytest.mark.parametrize("approved", [False, True])
@pytest.mark.parametrize("change", [{"digest": "d2"}, {"terms": {"policy": "p2"}}], ids=["digest", "terms"])
async def test_whatever_changes_makes_the_request_void(
    database: Database, entry: Entry, change: dict[str, Any], *, approved: bool
) -> None:
    first = await ask(database, entry)
    if approved:
        await say(database, first)

    second = await ask(database, entry, **change)

    gone = await seen(database, first)
    assert (gone.state, gone.reason) == (S.VOID, "what would run has changed")
    assert (second.round, second.state) == (2, S.OPEN)
    assert not await use(database, entry, first)
    assert "approval.void" in await types_of(database, entry.run.id)
    (facts,) = await facts_of(database, "request.void")
    assert facts == {"reason": gone.reason, "digest": "d1", "person": None}


async def test_approval_that_is_not_enough_any_more_is_asked_for_anew(
    database: Database, entry: Entry
) -> None:
    """Who has approved may have lost the right, or somebody wrote it into the table."""
    first = await say(database, await ask(database, entry))

    second = await ask(database, entry, judge=TWO)

    assert (second.round, second.state, second.decisions) == (2, S.OPEN, ())
    assert (await seen(database, first)).state is S.VOID
    assert not await use(database, entry, first)


async def test_items_are_asked_about_apart(database: Database, entry: Entry) -> None:
    requests = [await ask(database, entry, item=item) for item in ("a", "b", "")]

    assert [request.round for request in requests] == [1, 1, 1]
    assert {request.state for request in requests} == {S.OPEN}
    assert [request.label for request in requests] == ["apply[a]", "apply[b]", "apply"]


async def test_approvals_that_are_given_count_from_the_beginning(database: Database, entry: Entry) -> None:
    bob = words("bob", via="edit", groups=frozenset({"sre"}), claims=frozenset({"okta"}))

    waiting = await ask(database, entry, judge=TWO, given=(bob,))
    done = await ask(database, entry, judge=TWO, given=(bob, words("cy")), item="a", valid_s=60)

    assert (waiting.state, done.state) == (S.OPEN, S.APPROVED)
    assert [(said.person, said.via, said.groups, said.claims) for said in waiting.decisions] == [
        ("bob", "edit", {"sre"}, {"okta"})
    ]
    assert done.usable_until is not None
    assert done.decided_at is not None
    assert (done.usable_until - done.decided_at).total_seconds() == 60
    assert await use(database, entry, done)
    assert await noted(database, done) == ["request.opened", "decision", "decision", "grant.used"]


async def test_approval_that_was_not_used_in_time_is_asked_for_anew(database: Database, entry: Entry) -> None:
    first = await say(database, await ask(database, entry), valid_s=60)
    await age(database, "approval_request", first.id, 61, "usable_until")

    assert not await use(database, entry, first)
    second = await ask(database, entry)

    gone = await seen(database, first)
    assert (second.state, second.round) == (S.OPEN, 2)
    assert (gone.state, gone.reason) == (S.VOID, "its time ran out")


async def test_request_that_nobody_decided_in_time_is_asked_anew(database: Database, entry: Entry) -> None:
    first = await ask(database, entry, expires_in_s=60)
    await run_of(database, first, 61)
    assert (await seen(database, first)).state is S.EXPIRED

    assert (await ask(database, entry)).round == 2
    assert (await seen(database, first)).decided_at is not None
    assert await noted(database, first) == ["request.opened", "request.expired"]


async def test_request_of_an_earlier_epoch_does_not_count(
    database: Database, revision: Revision, entry: Entry
) -> None:
    first = await say(database, await ask(database, entry))
    later = await again(database, revision, entry)

    assert await latest(database, later) is None
    assert not await use(database, later, first)
    assert not await use(database, later, first, epoch=entry.run.epoch)
    second = await ask(database, later)
    assert (second.round, second.epoch) == (2, 2)
    gone = await seen(database, first)
    assert (gone.state, gone.reason) == (S.VOID, "the run was opened again")


async def test_grant_is_for_retries_of_one_epoch(
    database: Database, revision: Revision, entry: Entry
) -> None:
    request = await ask(database, entry, expires_in_s=60)
    assert not await use(database, entry, request)
    await say(database, request)
    assert not await use(database, entry, request, digest="d2")

    assert await use(database, entry, request)
    first = (await seen(database, request)).used_at
    await run_of(database, request, 61)
    assert await use(database, entry, request)

    assert (await seen(database, request)).used_at == first
    assert (await types_of(database, entry.run.id)).count("approval.used") == 1
    (facts,) = await facts_of(database, "grant.used")
    assert (facts["node"], facts["digest"], facts["epoch"]) == ("apply", "d1", 1)
    assert not await use(database, await again(database, revision, entry), request)


async def test_grant_that_was_used_is_not_used_again_when_its_time_has_run_out(
    database: Database, entry: Entry
) -> None:
    request = await say(database, await ask(database, entry), valid_s=60)
    assert await use(database, entry, request)

    await age(database, "approval_request", request.id, 61, "usable_until")

    assert not await use(database, entry, request)
    assert (await noted(database)).count("grant.used") == 1


async def test_grant_is_for_the_worker_that_holds_the_run(
    database: Database, revision: Revision, entry: Entry
) -> None:
    request = await say(database, await ask(database, entry))
    await enter(database, revision, entry.run.id)

    with pytest.raises(LeaseLost):
        await use(database, entry, request)
    assert (await seen(database, request)).used_at is None
    assert "grant.used" not in await noted(database)


async def test_decision_is_kept_with_who_and_how(database: Database, entry: Entry) -> None:
    asked = await ask(database, entry)
    groups, claims = frozenset({"sre", "dba"}), frozenset({"okta"})
    request = await say(database, asked, comment="o\x00k\ud800", groups=groups, claims=claims)

    (said,) = request.decisions
    assert (request.state, said.person, said.decision) == (S.APPROVED, "ann", Verdict.APPROVE)
    assert (said.comment, said.via, said.at) == ("o\ufffdk\ufffd", "cli", request.decided_at)
    assert (said.groups, said.claims, said.edits, said.break_glass) == (groups, claims, None, False)
    (facts,) = await facts_of(database, "decision")
    assert facts == {
        "person": "ann",
        "decision": "approve",
        "comment": "o\x00k\ud800",
        "via": "cli",
        "groups": ["dba", "sre"],
        "digest": "d1",
        "node": "apply",
        "policy": "p1",
        "state": "approved",
    }
    (event,) = [one for one in await events_of(database, entry.run.id) if one.type == "approval.decided"]
    assert event.data == {
        "id": str(request.id),
        "state": "approved",
        "person": "ann",
        "decision": "approve",
    }


async def test_quorum_needs_distinct_people(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    for _ in range(2):
        assert (await say(database, request, judge=TWO)).state is S.OPEN

    assert (await say(database, request, "bob", judge=TWO)).state is S.APPROVED
    assert (await types_of(database, entry.run.id))[2:] == ["approval.voted", "approval.decided"]
    assert await noted(database) == ["request.opened", "decision", "decision"]


@pytest.mark.parametrize(
    ("decision", "more", "state", "about"),
    [
        ("reject", {}, S.REJECTED, "is rejected by bob"),
        ("send_back", {"comment": "smaller"}, S.SENT_BACK, "is sent back by bob"),
        ("approve", {"edits": {"hosts": ["a", "\x00"]}}, S.EDITED, "is edited by bob"),
    ],
)
async def test_one_person_closes_it_in_another_way(
    database: Database, entry: Entry, *, decision: str, more: dict[str, Any], state: ApprovalState, about: str
) -> None:
    request = await ask(database, entry, next_in_s=0)
    await say(database, request, judge=TWO)

    async with database.listen(SIGNAL_CHANNEL) as signals:
        assert (await anext(signals)).missed
        closed = await say(database, request, "bob", decision, judge=TWO, **more)
        assert (await anext(signals)).payload == str(entry.run.id)

    assert (closed.state, closed.usable_until) == (state, None)
    assert closed.decisions[-1].edits == more.get("edits")
    assert not await use(database, entry, closed)
    with pytest.raises(ApprovalClosed, match=f"'Patch the host' {about}$"):
        await say(database, request, "cy", judge=TWO)
    facts = (await facts_of(database, "decision"))[-1]
    assert (facts["decision"], facts["state"], facts.get("edits")) == (decision, state, more.get("edits"))


@pytest.mark.parametrize("decision", ["send_back", "edits"])
async def test_what_follows_a_closed_request_is_a_new_round(
    database: Database, entry: Entry, decision: str
) -> None:
    first = await ask(database, entry)
    if decision == "edits":
        await say(database, first, edits={"n": 1})
    else:
        await say(database, first, decision=decision)

    second = await ask(database, entry)

    assert (second.round, second.state, second.decisions) == (2, S.OPEN, ())
    assert (await seen(database, first)).state in {S.SENT_BACK, S.EDITED}
    assert "request.void" not in await noted(database)


async def test_decision_comes_too_late(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await say(database, request, "ann")

    with pytest.raises(ApprovalClosed, match="approved by ann"):
        await say(database, request, "bob", "reject")
    assert (await say(database, request, "ann")).state is S.APPROVED
    assert await noted(database, request) == ["request.opened", "decision", "decision.refused"]


@pytest.mark.parametrize("change", [{"decision": "reject"}, {"edits": {"n": 1}}, {"decision": "send_back"}])
async def test_person_does_not_decide_otherwise_afterwards(
    database: Database, entry: Entry, change: dict[str, Any]
) -> None:
    request = await ask(database, entry)
    await say(database, request, judge=TWO)

    with pytest.raises(AlreadyDecided, match="ann has decided to approve"):
        await say(database, request, judge=TWO, **change)
    assert (await seen(database, request)).state is S.OPEN
    (facts,) = await facts_of(database, "decision.refused")
    assert (facts["because"], facts["person"], facts["state"]) == ("already_decided", "ann", "open")


async def test_earlier_approval_can_be_made_to_break_the_glass(database: Database, entry: Entry) -> None:
    judge = Judge(frozen=True)
    request = await ask(database, entry)
    assert (await say(database, request, judge=judge, comment="fine")).state is S.OPEN

    broken = await say(
        database,
        request,
        judge=judge,
        break_glass=True,
        comment="outage",
        claims=frozenset({"okta"}),
    )
    repeated = await say(database, request, judge=judge, break_glass=True, comment="outage")

    (said,) = broken.decisions
    assert (broken.state, said.break_glass, said.comment, said.claims) == (
        S.APPROVED,
        True,
        "outage",
        {"okta"},
    )
    assert (repeated.state, repeated.decisions) == (broken.state, broken.decisions)
    assert [facts.get("break_glass") for facts in await facts_of(database, "decision")] == [None, True]
    with pytest.raises(ApprovalClosed):
        await say(database, request, judge=judge)


async def test_approval_that_breaks_the_glass_can_bring_other_inputs(
    database: Database, entry: Entry
) -> None:
    judge = Judge(frozen=True)
    request = await ask(database, entry)
    await say(database, request, judge=judge)

    edited = await say(database, request, judge=judge, break_glass=True, edits={"n": 1})

    assert (edited.state, edited.decisions[0].edits) == (S.EDITED, {"n": 1})


async def test_glass_is_not_broken_after_a_rejection(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    await say(database, request, decision="reject")

    with pytest.raises(ApprovalClosed):
        await say(database, request, break_glass=True)


async def test_digest_that_was_seen_must_be_the_one_that_is_asked_for(
    database: Database, entry: Entry
) -> None:
    request = await ask(database, entry)

    with pytest.raises(StaleDecision, match="look again"):
        await say(database, request, digest="d0")
    assert (await seen(database, request)).decisions == ()
    assert (await say(database, request, digest="d1")).state is S.APPROVED
    (facts,) = await facts_of(database, "decision.refused")
    assert (facts["because"], facts["digest"], facts["person"]) == ("stale_decision", "d1", "ann")


async def test_whom_the_judge_refuses_is_noted_and_changes_nothing(database: Database, entry: Entry) -> None:
    request = await ask(database, entry)
    for _ in range(2):
        with pytest.raises(ApprovalDenied, match="eve may not"):
            await say(database, request, "eve", judge=Judge(refuses=frozenset({"eve"})))

    found = await seen(database, request)
    assert (found.state, found.decisions) == (S.OPEN, ())
    refused = await facts_of(database, "decision.refused")
    assert [(facts["because"], facts["message"], facts["person"]) for facts in refused] == [
        ("approval_denied", "eve may not", "eve")
    ] * 2
    assert await types_of(database, entry.run.id) == ["run.started", "approval.requested"]


async def test_decision_after_the_time_ran_out_closes_the_request(
    database: Database, entry: Entry, signals: Listener
) -> None:
    request = await ask(database, entry, expires_in_s=60)
    await run_of(database, request, 61)

    with pytest.raises(ApprovalClosed, match="expired"):
        await say(database, request)
    assert (await seen(database, request)).decided_at is not None
    assert (await types_of(database, entry.run.id))[-1] == "approval.expired"
    assert await noted(database, request) == ["request.opened", "request.expired", "decision.refused"]
    assert (await anext(signals)).payload == str(entry.run.id)


def test_decision_is_one_of_three() -> None:
    assert [verdict_of(name) for name in ("approve", "reject", "send_back")] == list(Verdict)
    with pytest.raises(InputInvalid, match="'maybe' is no decision; give one of approve, reject, send_back"):
        verdict_of("maybe")


async def test_end_of_the_run_withdraws_what_is_open(database: Database, entry: Entry) -> None:
    decided, still_open = await ask(database, entry, item="a"), await ask(database, entry, item="b")
    await say(database, decided)
    await finish_run(database, entry.run.id, RunState.CANCELLED)

    assert (await seen(database, decided)).state is S.APPROVED
    assert (await seen(database, still_open)).state is S.WITHDRAWN
    assert (await types_of(database, entry.run.id))[-2:] == ["approval.withdrawn", "run.cancelled"]
    assert await noted(database, still_open) == ["request.opened", "request.withdrawn"]


async def test_only_a_closing_vote_signals(database: Database, entry: Entry, signals: Listener) -> None:
    request = await ask(database, entry)
    await say(database, request, "ann", judge=TWO)
    await database.notify(SIGNAL_CHANNEL, "between")
    await say(database, request, "bob", judge=TWO)

    assert [(await anext(signals)).payload for _ in range(2)] == ["between", str(entry.run.id)]


async def test_unknown_request_is_not_found(database: Database) -> None:
    for call in (
        get_approval(database, uuid4()),
        use_grant(database, uuid4(), digest="d", epoch=1, token=1),
        decide(database, uuid4(), words(), judge=ONE),
    ):
        with pytest.raises(NotFound):
            await call
    assert await noted(database) == []
