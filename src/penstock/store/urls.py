"""Database URLs: one checked form for asyncpg, one for SQLAlchemy and Prefect."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from penstock.errors import SettingsError

_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")


@dataclass(frozen=True)
class DatabaseUrl:
    """The URL of a PostgreSQL database; its text form never shows the password."""

    parsed: URL

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.safe!r})"

    def __str__(self) -> str:
        return self.safe

    @property
    def safe(self) -> str:
        """The URL with the password and the parameters that may hold secrets left out."""
        secret = [name for name in self.parsed.query if "password" in name.lower()]
        return self.parsed.difference_update_query(secret).render_as_string(hide_password=True)

    @property
    def dsn(self) -> str:
        """The plain URL for asyncpg, with the password."""
        query = dict(self.parsed.query)
        if "ssl" in query:
            query["sslmode"] = query.pop("ssl")
        return self.parsed.set(drivername="postgresql", query=query).render_as_string(hide_password=False)

    @property
    def sqlalchemy(self) -> str:
        """The SQLAlchemy URL for the driver asyncpg, with the password; Prefect takes it as well."""
        query = dict(self.parsed.query)
        if "sslmode" in query:
            query["ssl"] = query.pop("sslmode")
        return self.parsed.set(drivername="postgresql+asyncpg", query=query).render_as_string(
            hide_password=False
        )


def parse_url(url: str | SecretStr) -> DatabaseUrl:
    """Check a database URL.

    Raises:
        SettingsError: It is not the URL of a PostgreSQL database.
    """
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    try:
        parsed = make_url(text.strip())
    except (ArgumentError, ValueError):
        # The cause is left out: its message quotes the URL with the password.
        raise SettingsError(_ADVICE) from None
    if parsed.drivername not in _SCHEMES or not parsed.database:
        raise SettingsError(_ADVICE)
    return DatabaseUrl(parsed)


_ADVICE = (
    "PENSTOCK_DATABASE_URL: expected the URL of a PostgreSQL database,"
    " like postgresql://user:password@host:5432/database;"
    " characters such as @ and / in the password are written in percent form"
)
