"""Standing grants: approvals in advance, each use of which counts once."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from penstock.errors import Conflict, NotFound, StoreError
from penstock.store.approvals import ApprovalRequest, get_approval
from penstock.store.database import Database
from penstock.store.runs import Entry
from penstock.store.standing import Standing, grant_standing, list_standing, revoke_standing, usable_standing
from penstock.store.states import ApprovalState
from penstock.store.workflows import Revision
from store.asking import DEADLOCKS, TWO, ask, facts_of, noted, say, use, words
from store.entering import age, enter

S = ApprovalState


async def grant(database: Database, person: str = "ann", **changes: Any) -> Standing:
    values: dict[str, Any] = {
        "agent": "patcher",
        "targets": ["host-*"],
        "workflow": None,
        "person": person,
        "claims": ["okta"],
        "comment": "while I am away",
        "seconds": 3600.0,
        "max_uses": 5,
        **changes,
    }
    return await grant_standing(database, **values)


async def uses_of(database: Database, standing: Standing) -> int:
    return next(one.uses for one in await list_standing(database, every=True) if one.id == standing.id)


async def usable(database: Database, agent: str = "patcher", workflow: str = "fix") -> list[UUID]:
    return [one.id for one in await usable_standing(database, agent, workflow)]


async def test_grant_holds_what_was_said(database: Database) -> None:
    made = await grant(database, targets=["a*", "b\x00"], workflow="fix", comment="o\ud800k")

    assert (made.agent, made.targets, made.workflow) == ("patcher", ("a*", "b\ufffd"), "fix")
    assert (made.person, made.claims, made.comment) == ("ann", {"okta"}, "o\ufffdk")
    assert ((made.expires_at - made.created_at).total_seconds(), made.max_uses, made.uses) == (3600, 5, 0)
    assert (made.usable, made.revoked_at, made.revoked_by) == (True, None, None)
    assert [one.id for one in await list_standing(database)] == [made.id]
    (facts,) = await facts_of(database, "standing.created")
    assert facts == {
        "person": "ann",
        "id": str(made.id),
        "agent": "patcher",
        "targets": ["a*", "b\ufffd"],
        "workflow": "fix",
        "comment": "o\ufffdk",
        "expires_at": facts["expires_at"],
        "max_uses": 5,
    }


@pytest.mark.parametrize("wrong", [{"targets": []}, {"max_uses": -1}])
async def test_grant_for_nothing_is_refused(database: Database, wrong: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="refused"):
        await grant(database, **wrong)
    assert await noted(database) == []


async def test_lists_show_what_can_be_used_unless_all_is_wanted(database: Database) -> None:
    first, over, revoked, spent, last = [await grant(database) for _ in range(4)] + [
        await grant(database, max_uses=0)
    ]
    await age(database, "standing_grant", over.id, 3601, "expires_at")
    await revoke_standing(database, revoked.id, by="bob")

    assert [one.id for one in await list_standing(database)] == [spent.id, first.id]
    listed = await list_standing(database, every=True)
    assert [one.id for one in listed] == [last.id, spent.id, revoked.id, over.id, first.id]
    assert [one.usable for one in listed] == [False, True, False, False, True]
    assert [one.id for one in await list_standing(database, every=True, limit=2)] == [last.id, spent.id]


async def test_usable_are_those_for_agent_and_workflow_the_first_to_end_first(database: Database) -> None:
    late, early = await grant(database, seconds=200), await grant(database, seconds=100, workflow="fix")
    await grant(database, agent="other")
    await grant(database, workflow="other")
    await grant(database, max_uses=0)
    over, revoked = await grant(database), await grant(database)
    await age(database, "standing_grant", over.id, 3601, "expires_at")
    await revoke_standing(database, revoked.id, by="bob")

    assert await usable(database) == [early.id, late.id]
    assert await usable(database, workflow="new") == [late.id]


async def test_one_use_is_one_approval(database: Database, entry: Entry) -> None:
    standing = await grant(database)

    request = await ask(database, entry, standing=(standing.id,))
    again = await ask(database, entry, standing=(standing.id,))

    (said,) = request.decisions
    assert (request.state, said.person, said.via, said.claims) == (S.APPROVED, "ann", "standing", {"okta"})
    assert said.comment == f"standing grant {standing.id}, use 1 of 5"
    assert (again.id, await uses_of(database, standing)) == (request.id, 1)
    assert await use(database, entry, request)
    assert await noted(database, request) == ["request.opened", "standing.used", "decision", "grant.used"]
    assert await facts_of(database, "standing.used") == [
        {"person": "ann", "id": str(standing.id), "uses": 1, "max_uses": 5, "digest": "d1"}
    ]


@pytest.mark.parametrize("why", ["spent", "over", "revoked", "unknown"])
async def test_grant_that_cannot_be_used_any_more_counts_for_nothing(
    database: Database, entry: Entry, why: str
) -> None:
    """It may have ended after the worker chose it."""
    standing = await grant(database, max_uses=0 if why == "spent" else 1)
    if why == "over":
        await age(database, "standing_grant", standing.id, 3601, "expires_at")
    if why == "revoked":
        await revoke_standing(database, standing.id, by="bob")

    request = await ask(database, entry, standing=(uuid4() if why == "unknown" else standing.id,))

    assert (request.state, request.decisions) == (S.OPEN, ())
    assert await uses_of(database, standing) == 0
    assert "standing.used" not in await noted(database)


async def test_person_of_a_standing_grant_counts_once(database: Database, entry: Entry) -> None:
    ann, bob = await grant(database), await grant(database, "bob")

    request = await ask(database, entry, judge=TWO, standing=(ann.id,))
    assert (await say(database, request, "ann", judge=TWO)).state is S.OPEN
    both = await ask(
        database, entry, item="a", judge=TWO, standing=(bob.id,), given=(words("ann", via="edit"),)
    )

    assert len((await get_approval(database, request.id)).decisions) == 1
    assert both.state is S.APPROVED


async def test_uses_are_counted_exactly_under_load(database: Database, revision: Revision) -> None:
    standing = await grant(database, max_uses=5)
    entries = [await enter(database, revision) for _ in range(50)]

    requests: list[ApprovalRequest] = await asyncio.gather(
        *(ask(database, one, standing=(standing.id,)) for one in entries)
    )

    approved = [request for request in requests if request.state is S.APPROVED]
    assert len(approved) == await uses_of(database, standing) == 5
    numbers = {request.decisions[0].comment.rsplit(", ", 1)[1] for request in approved}
    assert numbers == {f"use {number} of 5" for number in range(1, 6)}
    kinds = await noted(database)
    assert (kinds.count("standing.used"), kinds.count("request.opened")) == (5, 50)
    assert await usable(database) == []


async def test_uses_and_revocations_at_once_do_not_wait_for_each_other(
    database: Database, revision: Revision
) -> None:
    """Whoever holds the head of the audit chain waits for no row of a grant."""
    for _ in range(3):
        pair = [await grant(database) for _ in range(2)]
        ids = tuple(one.id for one in pair)
        entries = [await enter(database, revision) for _ in range(6)]
        for entry in entries:
            await ask(database, entry, digest="d0")  # the request that becomes void
        await asyncio.gather(
            *(ask(database, one, standing=ids if n % 2 else ids[::-1]) for n, one in enumerate(entries)),
            *(revoke_standing(database, one, by="bob") for one in ids),
        )

    assert (await database.fetch(DEADLOCKS))[0]["deadlocks"] == 0


async def test_revoked_grant_says_by_whom(database: Database) -> None:
    standing = await grant(database)
    for _ in range(201):
        await grant(database)

    revoked = await revoke_standing(database, standing.id, by="bob")

    assert (revoked.id, revoked.revoked_by, revoked.usable) == (standing.id, "bob", False)
    with pytest.raises(Conflict, match="revoked before, by bob"):
        await revoke_standing(database, standing.id, by="cy")
    with pytest.raises(NotFound):
        await revoke_standing(database, uuid4(), by="bob")
    assert await facts_of(database, "standing.revoked") == [{"person": "bob", "id": str(standing.id)}]


async def test_grant_is_revoked_by_one_of_many_at_once(database: Database) -> None:
    standing = await grant(database)

    answers = await asyncio.gather(
        *(revoke_standing(database, standing.id, by=f"p{n}") for n in range(8)), return_exceptions=True
    )

    (won,) = [one for one in answers if isinstance(one, Standing)]
    lost = [str(one) for one in answers if isinstance(one, Conflict)]
    assert len(lost) == 7
    assert all(one.endswith(f"revoked before, by {won.revoked_by}") for one in lost)
    assert (await noted(database)).count("standing.revoked") == 1
