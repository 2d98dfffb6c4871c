"""A run as a person follows it: its nodes, what it waits for, and the runs of its sub-workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from penstock.cli.exits import Exit, exit_of_state
from penstock.cli.text import one_line
from penstock.errors import NotFound
from penstock.store.states import RunState

if TYPE_CHECKING:
    from penstock.engine.services import Services
    from penstock.store.database import Database
    from penstock.store.events import Event

__all__ = ["Followed", "follow", "how_to_decide", "last_event", "waited_for", "words_of"]

_MARKS = {
    "node.succeeded": "✓",
    "node.failed": "✗",
    "node.rejected": "✗",
    "node.cancelled": "✗",
    "node.interrupted": "✗",
    "node.skipped": "-",
}
_RUN_WORDS = {
    "run.queued": "waits for a place",
    "run.suspended": "is suspended",
    "run.cancelling": "is being cancelled",
    "run.left": "was let go by its worker; another one goes on",
    "run.lost": "has lost its worker; another one goes on",
}
_APPROVAL_WORDS = {
    "approval.expired": "nobody decided in time",
    "approval.withdrawn": "the request for approval was withdrawn",
    "approval.void": "the request for approval is void",
}


@dataclass(frozen=True)
class Followed:
    """A run when it was followed to the end, or as far as people were needed."""

    shown: dict[str, Any]
    asks: Sequence[dict[str, Any]] = ()
    """The requests for approval that it waits for."""

    @property
    def exit(self) -> Exit:
        """The exit code of the command that followed it."""
        return Exit.WAITING if self.asks else exit_of_state(self.shown["state"])

    @property
    def data(self) -> dict[str, Any]:
        """The run for machines."""
        return {**self.shown, "approvals": list(self.asks)}


async def follow(
    opened: Services, run_id: UUID, tell: Callable[[str], None], *, wait: bool, after_id: int = 0
) -> Followed:
    """Tell what happens in a run until it has ended.

    Args:
        wait: Go on while only people can bring it forward; otherwise stop there as well.
        after_id: Tell only of events after this one.
    """
    watch = _Watch(opened, tell, wait=wait)
    try:
        asks = await watch.run(_Place(run_id, after_id=after_id))
    except ExceptionGroup as several:  # of listeners, which all fail for one reason
        raise several.exceptions[0] from None
    return Followed(await opened.show(run_id), asks)


async def last_event(database: Database, run_id: UUID) -> int:
    """Give the id of the newest event of a run; 0 when there is none."""
    from penstock.store.events import events_of  # noqa: PLC0415  quick start

    last = 0
    while found := await events_of(database, run_id, after_id=last):
        last = found[-1].id
    return last


async def waited_for(database: Database, run_id: UUID) -> list[UUID]:
    """List the requests for approval that a run and its sub-workflows wait for.

    Returns:
        Ids of the open requests; none while anything but people can bring the run forward.
    """
    from penstock.store.approvals import list_requests  # noqa: PLC0415  quick start
    from penstock.store.requests import children_of  # noqa: PLC0415
    from penstock.store.runs import get_run  # noqa: PLC0415

    try:
        suspended = (await get_run(database, run_id)).state is RunState.SUSPENDED
    except NotFound:  # no worker has entered it
        return []
    if not suspended:
        return []
    found = [request.id for request in (await list_requests(database, run_id=run_id, limit=1000)).requests]
    for child in await children_of(database, run_id):
        if child.state is not None and child.state.terminal:
            continue
        below = await waited_for(database, child.run_id) if child.run_id else []
        if not below:
            return []
        found += below
    return found


def how_to_decide(ask: dict[str, Any]) -> list[str]:
    """Say what a request for approval is about, and the commands that show and settle it."""
    return [
        f"waits for approval: {one_line(ask['title'])}",
        f"  penstock approvals show {ask['id']}",
        f"  penstock approvals approve {ask['id']}",
    ]


def words_of(event: Event) -> str:
    """Say in a few words what happened; nothing of what a person need not see."""
    data = event.data
    if event.type == "approval.decided":
        return f"{data['state']} by {data['person']}"
    if event.type == "approval.voted":
        return f"{data['person']} says {data['decision']}; more people must decide"
    why = data.get("message") or data.get("reason") or data.get("by") or data.get("worker")
    if event.type.startswith("node.") and event.type != "node.waiting_approval":
        attempt = data.get("attempt") or 0
        words = event.type.removeprefix("node.") + (f" (attempt {attempt})" if attempt > 1 else "")
    else:
        words = _RUN_WORDS.get(event.type) or _APPROVAL_WORDS.get(event.type) or ""
    return f"{words} ({one_line(why)})" if words and why else words


@dataclass(frozen=True)
class _Place:
    """A run in the tree of a run and its sub-workflows."""

    run_id: UUID
    label: str = ""
    """The nodes on the way to it; empty for the run itself."""
    after_id: int = 0

    def of(self, event: Event) -> str:
        """Name the node that an event is about, or the run."""
        item = event.data.get("item")
        node = f"{event.node_id}[{item}]" if item else event.node_id
        return " > ".join(part for part in (self.label, node) if part) or "the run"


class _Watch:
    """Listens to a run and, as they come, to the runs of its sub-workflows."""

    def __init__(self, opened: Services, tell: Callable[[str], None], *, wait: bool) -> None:
        self._opened = opened
        self._tell = tell
        self._wait = wait
        self._news: asyncio.Queue[tuple[_Place, Event | None]] = asyncio.Queue()
        self._listening: dict[UUID, asyncio.Task[None]] = {}

    async def run(self, root: _Place) -> list[dict[str, Any]]:
        """Watch until the run has ended, or waits for people alone; give what it asks them."""
        async with asyncio.TaskGroup() as group:
            self._listen(group, root)
            asks = await self._until_over(group, root)
            for task in self._listening.values():
                task.cancel()
        return asks

    async def _until_over(self, group: asyncio.TaskGroup, root: _Place) -> list[dict[str, Any]]:
        while True:
            place, event = await self._news.get()
            if event is None and place is root:
                return []
            if event is None:
                continue
            await self._tell_of(place, event)
            if event.type == "node.waiting":
                await self._listen_below(group, place)
            if event.type == "run.suspended" and not self._wait and (asks := await self._asks(root)):
                return asks

    def _listen(self, group: asyncio.TaskGroup, place: _Place) -> None:
        if place.run_id not in self._listening:
            self._listening[place.run_id] = group.create_task(self._pass_on(place))

    async def _listen_below(self, group: asyncio.TaskGroup, place: _Place) -> None:
        from penstock.store.requests import children_of  # noqa: PLC0415  quick start

        for child in await children_of(self._opened.database, place.run_id):
            if child.run_id is None or (child.state is not None and child.state.terminal):
                continue
            node = f"{child.node_id}[{child.item}]" if child.item else child.node_id
            label = f"{place.label} > {node}" if place.label else node
            self._listen(group, _Place(child.run_id, label))

    async def _pass_on(self, place: _Place) -> None:
        async with aclosing(self._opened.follow(place.run_id)) as events:
            async for event in events:
                if event.id > place.after_id:
                    await self._news.put((place, event))
        await self._news.put((place, None))

    async def _tell_of(self, place: _Place, event: Event) -> None:
        if event.type == "approval.requested":
            await self._tell_of_request(place, event)
        elif words := words_of(event):
            self._tell(f"  {_MARKS.get(event.type, '…')} {place.of(event)} {words}")

    async def _tell_of_request(self, place: _Place, event: Event) -> None:
        ask = await self._opened.approvals.show(UUID(event.data["id"]))
        what, *commands = how_to_decide(ask)
        self._tell(f"  ? {place.of(event)} {what}")
        if self._wait and ask["state"] == "open":
            for command in commands:
                self._tell(f"    {command}")

    async def _asks(self, root: _Place) -> list[dict[str, Any]]:
        asked = await waited_for(self._opened.database, root.run_id)
        return [await self._opened.approvals.show(request_id) for request_id in asked]
