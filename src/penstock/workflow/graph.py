"""Which node waits for which, in what order they run, and what may start now."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

RunMode = Literal["on_success", "always", "on_failure"]


class Outcome(StrEnum):
    """How a node ended."""

    SUCCEEDED = "succeeded"
    CONTINUED = "continued"
    """It failed and `on_error: continue` lets its dependents run."""
    FAILED = "failed"
    REJECTED = "rejected"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    @property
    def passes(self) -> bool:
        """Whether dependents with `run: on_success` go on."""
        return self in (Outcome.SUCCEEDED, Outcome.CONTINUED)

    @property
    def failed(self) -> bool:
        """Whether dependents with `run: on_failure` start."""
        return self in (Outcome.CONTINUED, Outcome.FAILED, Outcome.REJECTED)


@dataclass(frozen=True)
class Link:
    """What one node waits for."""

    hard: tuple[str, ...] = ()
    """Nodes under `needs`, and nodes it reads without a default: they must succeed."""
    soft: tuple[str, ...] = ()
    """Nodes it only reads with a default: they must end."""
    run: RunMode = "on_success"

    @property
    def all(self) -> tuple[str, ...]:
        """Every node that must end first."""
        return (*self.hard, *self.soft)


@dataclass(frozen=True)
class Ready:
    """What to do next."""

    start: tuple[str, ...]
    skip: Mapping[str, str]
    """Node -> why it is skipped."""


@dataclass(frozen=True)
class Graph:
    """Nodes and their links; made of links that have no cycle.

    ```python
    graph = Graph({"scan": Link(), "notify": Link(hard=("scan",))})
    graph.order  # ("scan", "notify")
    ```
    """

    links: Mapping[str, Link]
    order: tuple[str, ...] = field(init=False)
    """Every node after all it waits for; otherwise as in the file."""

    def __post_init__(self) -> None:
        if cycle := find_cycle({name: link.all for name, link in self.links.items()}):
            raise ValueError(f"the nodes wait for each other: {' -> '.join(cycle)}")
        object.__setattr__(self, "order", _order(self.links))

    def ready(self, ended: Mapping[str, Outcome], *, running: Collection[str] = ()) -> Ready:
        """Say which nodes may start and which are to be skipped.

        Args:
            ended: How nodes ended so far.
            running: Nodes that were started and have not ended.
        Returns:
            Nodes in order; a skipped one must be added to `ended` before the next call.
        """
        start: list[str] = []
        skip: dict[str, str] = {}
        for name in self.order:
            link = self.links[name]
            if name in ended or name in running or any(need not in ended for need in link.all):
                continue
            reason = _reason_to_skip(link, ended)
            if reason:
                skip[name] = reason
            else:
                start.append(name)
        return Ready(tuple(start), skip)

    def ancestors(self, name: str) -> frozenset[str]:
        """Give every node that ends before this one starts."""
        found: set[str] = set()
        waiting = [*self.links[name].all]
        while waiting:
            other = waiting.pop()
            if other not in found:
                found.add(other)
                waiting.extend(self.links[other].all)
        return frozenset(found)


def find_cycle(needs: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """Find nodes that wait for each other.

    Args:
        needs: Node -> nodes it waits for; names that are not nodes are passed over.
    Returns:
        The cycle from one node back to itself, `("a", "b", "a")`; empty when there is none.
    """
    done: set[str] = set()
    for root in needs:
        trail: dict[str, list[str]] = {}
        waiting = [root]
        while waiting:
            name = waiting[-1]
            if name not in trail and name not in done:
                trail[name] = [need for need in needs[name] if need in needs]
            if name in done or not trail[name]:
                done.add(waiting.pop())
                trail.pop(name, None)
                continue
            following = trail[name].pop()
            if following in trail:
                names = [*trail]
                return (*names[names.index(following) :], following)
            waiting.append(following)
    return ()


def _order(links: Mapping[str, Link]) -> tuple[str, ...]:
    left = {name: {need for need in link.all if need in links} for name, link in links.items()}
    position = {name: number for number, name in enumerate(links)}
    dependents: dict[str, list[str]] = {name: [] for name in links}
    for name, needs in left.items():
        for need in needs:
            dependents[need].append(name)
    free = [name for name, needs in left.items() if not needs]
    ordered: list[str] = []
    while free:
        name = min(free, key=position.__getitem__)
        free.remove(name)
        ordered.append(name)
        for dependent in dependents[name]:
            left[dependent].discard(name)
            if not left[dependent]:
                free.append(dependent)
    return tuple(ordered)


def _reason_to_skip(link: Link, ended: Mapping[str, Outcome]) -> str:
    if link.run == "always":
        return ""
    if link.run == "on_failure":
        return "" if any(ended[need].failed for need in link.all) else "nothing it waits for has failed"
    for need in link.hard:
        if not ended[need].passes:
            return f"{need!r} was {ended[need]}" if ended[need] != Outcome.FAILED else f"{need!r} failed"
    return ""
