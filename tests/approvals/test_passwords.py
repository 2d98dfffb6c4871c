from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import pytest

from penstock.approvals.passwords import check_password, hash_password

WORDS = "correct horse battery"


@pytest.fixture(scope="module")
def stored() -> str:
    return hash_password(WORDS)


def test_password_fits_its_hash_and_no_other_does(stored: str) -> None:
    assert check_password(WORDS, stored)
    for other in ("", WORDS[:-1], WORDS + " ", WORDS.upper(), stored):
        assert not check_password(other, stored)


def test_hash_holds_cost_and_salt_and_never_comes_twice(stored: str) -> None:
    scheme, n, r, p, salt, digest = stored.split("$")

    assert (scheme, n, r, p, len(salt), len(digest)) == ("scrypt", "32768", "8", "3", 22, 43)
    assert WORDS not in stored
    assert hash_password(WORDS).split("$")[4] != salt


def test_letters_may_be_typed_in_either_way() -> None:
    assert check_password("caf\u0065\u0301 au lait 7", hash_password("caf\u00e9 au lait 7"))


def test_nothing_fits_where_there_is_no_hash() -> None:
    for password in ("", WORDS, "A" * 43):
        assert not check_password(password, "")


def test_it_takes_as_long_where_there_is_no_hash(stored: str) -> None:
    def cost(what: Callable[[], object]) -> float:
        start = time.thread_time()
        what()
        return time.thread_time() - start

    known = median(cost(lambda: check_password("wrong", stored)) for _ in range(5))
    unknown = median(cost(lambda: check_password("wrong", "")) for _ in range(5))

    assert 0.5 < known / unknown < 2


@pytest.mark.parametrize(
    "stored",
    [
        "x",
        "scrypt$32768$8$3$AAAA$AAAA",
        "scrypt$16777216$64$3$" + "A" * 22 + "$" + "A" * 43,  # 128 GiB
        "scrypt$3$8$1$" + "A" * 22 + "$" + "A" * 43,
        "bcrypt$32768$8$3$" + "A" * 22 + "$" + "A" * 43,
    ],
)
def test_hash_of_no_use_is_an_error(stored: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_password(WORDS, stored)
