from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.telemetry.redaction import MASK, Redactor, secrets_of_environment


def test_redactor_masks_known_values_wherever_they_stand() -> None:
    redactor = Redactor(["hunter2-hunter2"])

    assert redactor.data({"a": ["x hunter2-hunter2 y", 3]}) == {"a": [f"x {MASK} y", 3]}


def test_redactor_leaves_short_values_alone() -> None:
    assert Redactor(["on"]).text("turn it on") == "turn it on"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:SECRETVALUE@host/db",
        "Authorization: Bearer SECRETVALUE",
        '{"api_key": "SECRETVALUE"}',
        "password=SECRETVALUE",
        "-----BEGIN RSA PRIVATE KEY-----\nSECRETVALUE\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nSECRETVALUE and then the text was cut",
    ],
)
def test_redactor_masks_what_looks_like_a_secret(text: str) -> None:
    assert "SECRETVALUE" not in Redactor().text(text)


@pytest.mark.parametrize("text", ["the token expired", "see https://example.org/a:b@c", "api_key", ""])
def test_redactor_leaves_plain_words_alone(text: str) -> None:
    assert Redactor().text(text) == text


def test_redactor_known_changes_nothing_but_known_values() -> None:
    redactor = Redactor(["hunter2-hunter2"])

    assert redactor.known(["password=other", "hunter2-hunter2"]) == ["password=other", MASK]


def test_secrets_of_environment_go_by_the_name() -> None:
    environ = {"API_TOKEN": "a", "DB_PASSWORD": "b", "PATH": "c"}

    assert secrets_of_environment(environ) == {"a", "b"}


@settings(derandomize=True, max_examples=200)
@given(st.text(min_size=6, max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_redactor_never_lets_a_known_value_through(secret: str, before: str, after: str) -> None:
    if secret in MASK or MASK in secret:
        return
    assert (
        Redactor([secret]).known(before + secret + after).count(secret) == 0
        or secret in before + MASK + after
    )
