"""Requests for approval as they are found: listed, alike, of one run, used before."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import InputInvalid
from penstock.store.approvals import (
    PastUse,
    alike_of,
    get_approval,
    list_requests,
    past_uses,
    requests_of_run,
    time_of,
    used_request,
)
from penstock.store.database import Database
from penstock.store.nodes import NodeChange, write_nodes
from penstock.store.runs import Entry
from penstock.store.states import NodeState
from penstock.store.workflows import Revision
from store.asking import TWO, ask, say, use
from store.entering import age, enter


async def test_list_requests_pages_from_the_newest(database: Database, entry: Entry) -> None:
    asked = [(await ask(database, entry, item=str(index))).id for index in range(5)]

    first = await list_requests(database, limit=2)
    second = await list_requests(database, limit=2, cursor=first.cursor)
    third = await list_requests(database, limit=2, cursor=second.cursor)

    assert [found.id for page in (first, second, third) for found in page.requests] == asked[::-1]
    assert third.cursor is None
    with pytest.raises(InputInvalid, match="cursor"):
        await list_requests(database, cursor="x")


async def test_list_requests_filters_by_state_and_run(database: Database, revision: Revision) -> None:
    mine, other = await enter(database, revision), await enter(database, revision)
    decided, due, waiting, back = [await ask(database, mine, item=item, expires_in_s=60) for item in "abcd"]
    foreign = await ask(database, other)
    await say(database, decided)
    await say(database, back, decision="send_back")
    await age(database, "approval_request", due.id, 61, "expires_at")

    async def ids(*states: str, **filters: Any) -> set[Any]:
        page = await list_requests(database, states=states, **filters)
        return {found.id for found in page.requests}

    assert await ids("open") == {waiting.id, foreign.id}
    assert await ids("expired") == {due.id}
    assert await ids("sent_back") == {back.id}
    assert await ids("approved", "open", run_id=mine.run.id) == {decided.id, waiting.id}
    assert await ids() == {decided.id, due.id, waiting.id, foreign.id, back.id}


@pytest.mark.parametrize(
    ("card", "listed"),
    [
        ({"plan": {"summary": "s", "diff": "+x"}, "why": "w"}, {"plan": {"summary": "s"}, "why": "w"}),
        ({"plan": None}, {"plan": None}),
        ({}, {}),
    ],
)
async def test_list_is_without_the_diffs(
    database: Database, entry: Entry, card: dict[str, Any], listed: dict[str, Any]
) -> None:
    request = await ask(database, entry, card=card)

    (found,) = (await list_requests(database)).requests

    assert found.card == listed
    assert (await get_approval(database, request.id)).card == card


async def test_requests_of_a_run_are_the_open_ones_with_all(database: Database, entry: Entry) -> None:
    decided, due, first, second = [await ask(database, entry, item=i, expires_in_s=60) for i in "abcd"]
    await say(database, decided)
    await age(database, "approval_request", due.id, 61, "expires_at")

    found = await requests_of_run(database, entry.run.id)

    assert [one.id for one in found] == [first.id, second.id]
    assert found[0].card == first.card


async def test_alike_are_open_with_the_same_digest_and_terms(database: Database, revision: Revision) -> None:
    entries = [await enter(database, revision) for _ in range(5)]
    one, two, three = [await ask(database, entry) for entry in entries[:3]]
    await ask(database, entries[3], digest="d2")
    await ask(database, entries[4], terms={"policy": "p2"})

    assert await alike_of(database, one.id) == [two.id, three.id]
    assert await alike_of(database, one.id, limit=1) == [two.id]
    assert (await get_approval(database, two.id)).alike == 3
    await say(database, three)
    assert await alike_of(database, one.id) == [two.id]
    assert (await get_approval(database, two.id)).alike == 2


async def test_past_uses_tell_what_came_of_it(database: Database, revision: Revision) -> None:
    runs = [await enter(database, revision) for _ in range(4)]
    targets = (["a", "b"], ["b", "c"], ["c"], ["b"])
    requests = [await ask(database, run, targets=to) for run, to in zip(runs, targets, strict=True)]
    for run, request in zip(runs[:3], requests[:3], strict=True):
        await write_nodes(database, run.run.id, [NodeChange("apply", NodeState.RUNNING, run.run.epoch)])
        await say(database, request, judge=TWO)
        await say(database, request, "bob", judge=TWO)
        assert await use(database, run, request)

    second, first = await past_uses(database, "patcher", ["b", "x"])

    assert second == PastUse(second.at, runs[1].run.id, "fix", "running", ("ann", "bob"))
    assert (first.run_id, first.at < second.at) == (runs[0].run.id, True)
    assert [one.run_id for one in await past_uses(database, "patcher", ["c"], limit=1)] == [runs[2].run.id]
    assert await past_uses(database, "other", ["b"]) == []
    assert await past_uses(database, "patcher", ["b%", "x"]) == []
    assert await past_uses(database, "patcher", []) == []


async def test_time_is_that_of_the_database(database: Database, entry: Entry) -> None:
    before = await time_of(database)
    request = await ask(database, entry)

    assert before <= request.opened_at <= await time_of(database)


async def test_request_under_which_a_node_ran_is_that_of_the_last_use(
    database: Database, entry: Entry
) -> None:
    first = await say(database, await ask(database, entry))
    assert await used_request(database, entry.run.id, "apply", "") is None
    assert await use(database, entry, first)
    await age(database, "approval_request", first.id, 4000, "usable_until")

    second = await say(database, await ask(database, entry))

    found = await used_request(database, entry.run.id, "apply", "")
    assert found is not None
    assert (found.id, second.round) == (first.id, 2)
    assert await use(database, entry, second)
    found = await used_request(database, entry.run.id, "apply", "")
    assert found is not None
    assert found.id == second.id
    assert await used_request(database, entry.run.id, "apply", "a") is None
