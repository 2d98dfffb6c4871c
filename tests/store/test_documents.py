from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import StoreError
from penstock.store.documents import decode, encode, plain_text

any_text = st.text(st.characters(categories=None))
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner) | st.dictionaries(any_text, inner),
)


@given(any_json)
def test_document_comes_back_as_it_was(value: Any) -> None:
    assert decode(encode(value)) == value


@given(any_json)
def test_document_is_text_that_postgres_takes(value: Any) -> None:
    text = encode(value)

    assert b"\x00" not in text.encode()
    assert text == encode(decode(text))


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "a\x00b",
        "\ud800",
        "\x1a",
        "\x1a0",
        "\x1as",
        "\x1aud800",
        "\\u0000",
        "\\\x00",
        "\ud83d\ude00",
        "é😀",
    ],
)
def test_unfit_characters_come_back_as_they_were(text: str) -> None:
    assert decode(encode({text: [text]})) == {text: [text]}


def test_document_without_unfit_characters_is_plain_json() -> None:
    assert encode({"a": ["é", 1]}) == '{"a":["é",1]}'


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"scores": [1.0, math.nan]}, r"value\.scores\[1\] is nan"),
        ({"limit": math.inf}, r"value\.limit is inf"),
        ({"raw": b"bytes"}, r"value\.raw is of type bytes"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(value: Any, place: str) -> None:
    with pytest.raises(StoreError, match=place):
        encode(value)


def test_document_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)

    with pytest.raises(StoreError, match="contains itself"):
        encode(value)


def test_document_nested_too_deeply_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]

    with pytest.raises(StoreError, match="too deeply"):
        encode(value)


def test_plain_text_replaces_what_a_column_does_not_take() -> None:
    assert plain_text("a\x00b\ud800c") == "a\ufffdb\ufffdc"
    assert plain_text(None) is None
