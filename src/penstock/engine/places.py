"""How many runs with one key there may be: the `concurrency` of a workflow."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.engine.closing import Closing
from penstock.engine.endings import Ending
from penstock.engine.facts import RunFacts
from penstock.store.database import Database
from penstock.store.slots import Slot, take_slot
from penstock.store.states import RunState

__all__ = ["PLACE_WAIT_S", "Turn", "take_place"]

PLACE_WAIT_S = 600.0
"""A queued run is called when a place comes free; it looks by itself after so many seconds."""


@dataclass(frozen=True)
class Turn:
    """Whether a run may go on."""

    taken: bool
    message: str = ""
    """What it waits for."""
    ending: Ending | None = None
    """How it ends when it neither goes on nor waits."""


async def take_place(database: Database, closing: Closing, facts: RunFacts, token: int) -> Turn:
    """Take one of the places that the workflow's `concurrency` has, or say what the run does instead."""
    limits = facts.workflow.workflow.concurrency
    key = facts.workflow.render_concurrency_key(facts.scope({}))
    if limits is None or key is None:
        return Turn(taken=True)
    slot = await take_slot(
        database,
        facts.id,
        token,
        workflow=facts.workflow.workflow.name,
        key=key,
        limit=limits.limit,
        release_while_waiting=limits.release_while_waiting,
    )
    if slot.taken:
        return Turn(taken=True)
    return await _conflict(closing, facts, slot, key, limits.on_conflict)


async def _conflict(closing: Closing, facts: RunFacts, slot: Slot, key: str, on_conflict: str) -> Turn:
    others = ", ".join(str(holder) for holder in slot.holders)
    if on_conflict == "reject":
        message = f"not started: run {others} with key {key!r} is not over (on_conflict: reject)"
        return Turn(taken=False, ending=Ending(RunState.CANCELLED, message))
    if on_conflict == "attach":
        message = f"not started: run {others} with key {key!r} stands for it (on_conflict: attach)"
        return Turn(taken=False, ending=Ending(RunState.CANCELLED, message))
    if on_conflict == "cancel_running":
        for holder in slot.holders:
            await closing.cancel(holder, by=f"run {facts.id} with the same concurrency key")
    return Turn(taken=False, message=f"waits for a place with key {key!r}; {slot.ahead} ahead of it")
