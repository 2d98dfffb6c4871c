from __future__ import annotations

import pytest
from pydantic import SecretStr

from penstock.errors import SettingsError
from penstock.store.database import Database
from penstock.store.urls import parse_url


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_url_takes_the_usual_schemes(scheme: str) -> None:
    url = parse_url(f"{scheme}://ann:s%40cret@db:5433/penstock")

    assert url.dsn == "postgresql://ann:s%40cret@db:5433/penstock"
    assert url.sqlalchemy == "postgresql+asyncpg://ann:s%40cret@db:5433/penstock"


def test_url_translates_the_tls_mode() -> None:
    url = parse_url("postgresql://db/penstock?sslmode=require")

    assert url.sqlalchemy.endswith("?ssl=require")
    assert parse_url(url.sqlalchemy).dsn.endswith("?sslmode=require")


def test_url_of_a_socket_keeps_its_folder() -> None:
    url = parse_url("postgresql+asyncpg://penstock@/penstock?host=/run/a%20b")

    assert parse_url(url.dsn).parsed.query["host"] == "/run/a b"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://ann:s3cret@db/penstock",
        "s3cret",
        "",
        "postgresql://ann:s3cret@db",
        "postgresql://a:s3cret@db:x/y",
    ],
)
def test_wrong_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(SettingsError, match="PENSTOCK_DATABASE_URL") as caught:
        parse_url(url)

    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_password_is_never_shown() -> None:
    database = Database(SecretStr("postgresql://ann:s3cret@db/penstock?password=s3cret&sslpassword=s3cret"))

    assert "s3cret" not in f"{database!r} {database.url!r} {database.url}"
