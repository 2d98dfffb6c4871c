from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from penstock.errors import LeaseLost
from penstock.store.database import Database
from penstock.store.leases import free_runs, peers, reap, register_worker, renew_worker, retire_worker
from penstock.store.nodes import finish_node, start_node
from penstock.store.runs import events_of, finish_run, get_run, reopen_run
from penstock.store.states import NodeState, RunState
from penstock.store.workflows import Revision
from store.entering import LONG_S, age, enter, register, types_of


async def lapse(database: Database, worker_id: UUID, seconds: float = LONG_S + 1) -> None:
    """Let a worker's lease run out."""
    await age(database, "worker", worker_id, seconds, "expires_at")


async def old_hand(database: Database) -> UUID:
    """Register a worker whose lease has held for longer than it is long."""
    worker_id = await register(database, "old-hand")
    await age(database, "worker", worker_id, LONG_S + 1, "held_since")
    return worker_id


async def test_worker_is_listed_in_its_pool(database: Database) -> None:
    first, second = await register(database, "w1"), await register(database, "w2")
    await register_worker(database, uuid4(), name="w3", pool="other", process="p", ttl_s=1)
    await lapse(database, second)

    assert [(peer.id, peer.name, peer.process, peer.expired) for peer in await peers(database, "main")] == [
        (first, "w1", f"host:{first}", False),
        (second, "w2", f"host:{second}", True),
    ]


async def test_register_worker_twice_keeps_one(database: Database) -> None:
    worker_id = uuid4()
    for _ in range(2):
        await register_worker(database, worker_id, name="w1", pool="main", process="p", ttl_s=10)

    assert [peer.id for peer in await peers(database, "main")] == [worker_id]


async def test_renew_worker_extends_the_lease(database: Database) -> None:
    worker_id = await register(database)
    await lapse(database, worker_id)

    assert await renew_worker(database, worker_id, LONG_S)
    assert [peer.expired for peer in await peers(database, "main")] == [False]


async def test_renew_worker_that_is_gone_says_so(database: Database) -> None:
    worker_id = await register(database)
    await retire_worker(database, worker_id)

    assert not await renew_worker(database, worker_id, LONG_S)


async def test_retired_worker_leaves_its_runs_to_others(database: Database, revision: Revision) -> None:
    worker_id = await register(database)
    entry = await enter(database, revision, worker_id=worker_id)
    await retire_worker(database, worker_id)
    await retire_worker(database, worker_id)

    run = await get_run(database, entry.run.id)
    assert (run.state, run.worker_id, run.token) == (RunState.RUNNING, None, entry.run.token + 1)
    assert await types_of(database, run.id) == ["run.started", "run.left"]
    with pytest.raises(LeaseLost):
        await start_node(database, run.id, "scan", attempt=1, token=entry.run.token)


async def test_worker_that_was_retired_enters_nothing(database: Database, revision: Revision) -> None:
    worker_id = await register(database)
    await retire_worker(database, worker_id)

    with pytest.raises(LeaseLost, match="not registered"):
        await enter(database, revision, worker_id=worker_id)


async def test_reap_takes_runs_of_an_expired_worker(database: Database, revision: Revision) -> None:
    reaper, lost = await old_hand(database), await register(database, "lost")
    entry = await enter(database, revision, worker_id=lost)
    await lapse(database, lost)

    (reaped,) = await reap(database, by=reaper)

    run = await get_run(database, entry.run.id)
    assert (reaped.run_id, reaped.crashes) == (run.id, 1)
    assert (run.state, run.worker_id, run.token, run.crashes) == (RunState.RUNNING, None, 2, 1)
    assert [peer.id for peer in await peers(database, "main")] == [reaper]
    event = (await events_of(database, run.id))[-1]
    assert (event.type, event.data) == ("run.lost", {"worker": "lost"})
    with pytest.raises(LeaseLost):
        await finish_run(database, run.id, RunState.COMPLETED, token=entry.run.token)


async def test_reap_waits_until_its_own_lease_has_held(database: Database, revision: Revision) -> None:
    """After an outage all leases have run out; whoever comes back first spares the others."""
    reaper, other = await old_hand(database), await register(database, "other")
    await enter(database, revision, worker_id=other)
    await lapse(database, reaper)
    await lapse(database, other)

    assert await reap(database, by=reaper) == []
    await renew_worker(database, reaper, LONG_S)
    assert await reap(database, by=reaper) == []
    assert await renew_worker(database, other, LONG_S)


async def test_reap_takes_the_dead_whatever_their_lease(database: Database, revision: Revision) -> None:
    reaper, dead, alive = [await register(database, name) for name in ("r", "dead", "alive")]
    entries = [await enter(database, revision, worker_id=worker) for worker in (dead, alive)]

    reaped = await reap(database, by=reaper, dead=[dead])

    assert [run.run_id for run in reaped] == [entries[0].run.id]
    assert (await get_run(database, entries[1].run.id)).worker_id == alive


async def test_reap_never_takes_its_own_runs(database: Database, revision: Revision) -> None:
    reaper = await register(database)
    await enter(database, revision, worker_id=reaper)

    assert await reap(database, by=reaper, dead=[reaper]) == []


async def test_reap_by_many_at_once_counts_a_crash_once(database: Database, revision: Revision) -> None:
    reapers = [await old_hand(database) for _ in range(6)]
    lost = await register(database, "lost")
    runs = {(await enter(database, revision, worker_id=lost)).run.id for _ in range(5)}
    await lapse(database, lost)

    found = await asyncio.gather(*(reap(database, by=reaper) for reaper in reapers))

    assert sorted(run.run_id for reaped in found for run in reaped) == sorted(runs)
    assert {run.crashes for reaped in found for run in reaped} == {1}


async def test_reap_and_renewal_at_once_agree(database: Database, revision: Revision) -> None:
    reaper = await old_hand(database)
    workers = [await register(database, f"w{index}") for index in range(10)]
    held = {worker: (await enter(database, revision, worker_id=worker)).run.id for worker in workers}
    for worker in workers:
        await lapse(database, worker)

    reaped, renewed = await asyncio.gather(
        reap(database, by=reaper),
        asyncio.gather(*(renew_worker(database, worker, LONG_S) for worker in workers)),
    )

    kept = {worker for worker, stays in zip(workers, renewed, strict=True) if stays}
    assert {run.run_id for run in reaped} == {held[worker] for worker in workers if worker not in kept}
    assert {peer.id for peer in await peers(database, "main")} == {reaper, *kept}


async def test_crashes_count_in_a_row_without_progress(database: Database, revision: Revision) -> None:
    reaper = await register(database)
    run_id = uuid4()
    counts: list[int] = []
    for progress in (False, False, False, True, False):
        worker = await register(database, "lost")
        entry = await enter(database, revision, run_id, worker_id=worker)
        if progress:
            await finish_node(database, run_id, "scan", NodeState.SUCCEEDED, attempt=1, token=entry.run.token)
        counts += [run.crashes for run in await reap(database, by=reaper, dead=[worker])]

    assert counts == [1, 2, 3, 1, 2]


async def test_time_with_a_lost_worker_counts_until_its_lease_ran_out(
    database: Database, revision: Revision
) -> None:
    reaper, lost = await register(database, "r"), await register(database, "lost", ttl_s=100)
    entry = await enter(database, revision, worker_id=lost)
    await age(database, "run", entry.run.id, 1000, "entered_at")
    await age(database, "worker", lost, 300, "expires_at")

    await reap(database, by=reaper, dead=[lost])

    run = await get_run(database, entry.run.id)
    assert run.active_s == pytest.approx(800, abs=30)
    assert run.entered_at is None


async def test_free_runs_are_those_that_nobody_holds(database: Database, revision: Revision) -> None:
    reaper, lost = await register(database, "r"), await register(database, "lost")
    reaped = (await enter(database, revision, worker_id=lost)).run.id
    await enter(database, revision, worker_id=reaper)
    ended = (await enter(database, revision)).run.id
    await finish_run(database, ended, RunState.FAILED)
    await reap(database, by=reaper, dead=[lost])
    reopened = (await enter(database, revision)).run.id
    await finish_run(database, reopened, RunState.FAILED)
    await reopen_run(database, reopened)

    assert await free_runs(database, older_than_s=60) == []
    await age(database, "run", reaped, 61, "updated_at")
    await age(database, "run", reopened, 61, "updated_at")
    assert [(run.id, run.crashes) for run in await free_runs(database, older_than_s=60)] == [
        (reaped, 1),
        (reopened, 0),
    ]
