"""How often somebody may try to sign in; counted in the memory of this process."""

from __future__ import annotations

import ipaddress
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping

__all__ = ["WINDOW_S", "Attempts", "network_of"]

WINDOW_S = 15 * 60.0
"""Seconds that a try counts."""
_MOST_KEYS = 20_000


class Attempts:
    """Counts tries by key, within the last 15 minutes.

    Args:
        clock: Seconds that never go backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tries: dict[str, deque[float]] = {}

    def take(self, limits: Mapping[str, int]) -> float:
        """Count a try under several keys, unless one of them has had too many; that one counts nowhere.

        Args:
            limits: How many tries each key has.
        Returns:
            Seconds to wait before the next try; 0 when this one may be made.
        """
        now = self._clock()
        wait = max((self._wait(key, limit, now) for key, limit in limits.items()), default=0.0)
        if wait == 0:
            for key in limits:
                tries = self._tries.pop(key, None) or deque[float]()
                tries.append(now)
                self._tries[key] = tries  # at the end: those who tried last are kept longest
            self._forget(now)
        return wait

    def give_back(self, key: str) -> None:
        """Have a key's newest try not count: it was right."""
        if tries := self._tries.get(key):
            tries.pop()

    def forget(self, key: str) -> None:
        """Forget all tries of a key."""
        self._tries.pop(key, None)

    def _wait(self, key: str, limit: int, now: float) -> float:
        tries = self._tries.get(key, deque[float]())
        while tries and tries[0] <= now - WINDOW_S:
            tries.popleft()
        return 0.0 if len(tries) < limit else tries[-limit] + WINDOW_S - now

    def _forget(self, now: float) -> None:
        """Drop keys from the front, where the oldest are: what is over, and what is too much."""
        for key in list(itertools.islice(self._tries, 4)):
            if all(tried <= now - WINDOW_S for tried in self._tries[key]):
                del self._tries[key]
        while len(self._tries) > _MOST_KEYS:
            del self._tries[next(iter(self._tries))]


def network_of(address: str) -> str:
    """Give what counts as one place: an IPv4 address, or the /64 that an IPv6 address lies in."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
