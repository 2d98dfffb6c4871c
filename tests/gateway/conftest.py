"""A gateway in this process, on a database and people of the test's own."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from penstock.approvals.passwords import hash_password
from penstock.approvals.rules import RuleBook
from penstock.gateway.app import create_app
from penstock.settings import Settings
from penstock.store.database import Database
from penstock.store.sessions import make_link, open_session
from penstock.store.tokens import token_hash
from support.postgres import database, database_url, postgres_server, postgres_template

__all__ = ["database", "database_url", "postgres_server", "postgres_template"]

OWN = "http://127.0.0.1:8080"
PASSWORD = "correct horse battery"  # noqa: S105  of people who live as long as a test

PEOPLE = """\
apiVersion: penstock/v1
kind: People
users:
  alice: {{name: Alice Adams, groups: [sre], role: approver, password: "{hashed}"}}
  bob: {{role: viewer}}
groups:
  sre: {{role: viewer}}
  release: {{role: approver, claims: [okta-release]}}
"""


@dataclass(frozen=True)
class Standing:
    """What the gateway asks of the services where people sign in."""

    settings: Settings
    database: Database
    rules: RuleBook
    registry: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Gate:
    """A gateway, and what stands behind it."""

    app: FastAPI
    database: Database
    people: Path | None
    base: str = OWN

    @asynccontextmanager
    async def client(
        self, *, token: str | None = None, address: str = "127.0.0.1", **options: Any
    ) -> AsyncGenerator[httpx.AsyncClient]:
        """Open a browser, or with a token a program."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(address, 40000))
        options = {"base_url": self.base, "headers": headers, **options}
        async with httpx.AsyncClient(transport=transport, **options) as client:
            yield client

    async def session(self, person: str = "alice", **options: Any) -> str:
        """Make a session and give its token."""
        token = secrets.token_urlsafe(32)
        values: dict[str, Any] = {"via": "link", "lifetime_s": 60.0, **options}
        await open_session(self.database, token_hash(token), person=person, **values)
        return token

    async def link(self, person: str = "alice", lifetime_s: float = 60.0) -> str:
        """Make a login link and give its token."""
        token = secrets.token_urlsafe(32)
        await make_link(self.database, token_hash(token), person=person, lifetime_s=lifetime_s)
        return token


@pytest.fixture(scope="session")
def hashed() -> str:
    return hash_password(PASSWORD)


@pytest.fixture
def people(tmp_path: Path, hashed: str) -> Path:
    """Write a people file."""
    file = tmp_path / "people.yaml"
    file.write_text(PEOPLE.format(hashed=hashed))
    return file


@pytest.fixture
def gate_of(database: Database, people: Path) -> Callable[..., Gate]:
    """Make gateways with settings of their own."""

    def make(*, closed: bool = True, base: str = OWN, **settings: Any) -> Gate:
        file = people if closed else None
        chosen = Settings.model_validate({"people": file, **settings})
        app = create_app(chosen)
        app.state.services = Standing(chosen, database, RuleBook(file, None))
        return Gate(app, database, file, base)

    return make


@pytest.fixture
def gate(gate_of: Callable[..., Gate]) -> Gate:
    """Give a gateway with people who are named in a file."""
    return gate_of()
