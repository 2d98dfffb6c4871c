"""How often somebody may try."""

from __future__ import annotations

import pytest

from penstock.gateway import attempts
from penstock.gateway.attempts import WINDOW_S, Attempts, network_of


def kept(counted: Attempts) -> set[str]:
    return set(vars(counted)["_tries"])


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counted(clock: Clock) -> Attempts:
    return Attempts(clock)


def test_tries_count_for_a_quarter_of_an_hour(counted: Attempts, clock: Clock) -> None:
    waits: list[float] = []
    for _ in range(4):
        waits.append(counted.take({"a": 3}))
        clock.now += 10
    clock.now = 1000 + WINDOW_S

    assert waits == [0, 0, 0, WINDOW_S - 30]
    assert [counted.take({"a": 3}) for _ in range(2)] == [0, 10]


def test_refused_tries_count_nowhere(counted: Attempts) -> None:
    for _ in range(5):
        counted.take({"a": 2, "b": 9})

    assert [counted.take({"b": 9}) for _ in range(8)] == [0] * 7 + [WINDOW_S]


def test_longest_wait_counts(counted: Attempts, clock: Clock) -> None:
    counted.take({"a": 1})
    clock.now += 60
    counted.take({"b": 1})

    assert counted.take({"a": 1, "b": 1}) == WINDOW_S


def test_right_tries_are_given_back(counted: Attempts) -> None:
    for _ in range(9):
        assert counted.take({"a": 1, "b": 2}) == 0
        counted.give_back("a")
        counted.forget("b")
    counted.give_back("never seen")
    counted.forget("never seen")


def test_memory_is_bounded(counted: Attempts, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_MOST_KEYS", 50)
    for number in range(200):
        counted.take({f"old {number}": 1})
    assert len(kept(counted)) == 50
    assert counted.take({"old 199": 1}) > 0  # those who tried last are kept

    clock.now += WINDOW_S
    for number in range(49):
        counted.take({f"new {number}": 1})

    assert kept(counted) == {f"new {number}" for number in range(49)}


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_place_is_an_address_or_the_network_of_one_household(address: str, network: str) -> None:
    assert network_of(address) == network
