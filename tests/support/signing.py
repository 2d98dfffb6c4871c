"""People who have signed in to the gateway of a stack."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import Any

import httpx

from penstock.store.opening import open_database
from penstock.store.sessions import open_session
from support.stack import StackUnderTest

__all__ = ["signed_in", "token_of"]

_HOUR_S = 3600.0


def token_of(stack: StackUnderTest, person: str = "ann") -> str:
    """Make a session, as a login does, and give its token."""
    token = secrets.token_urlsafe(32)

    async def work() -> None:
        async with open_database(stack.settings) as database:
            await open_session(
                database,
                hashlib.sha256(token.encode()).hexdigest(),
                person=person,
                via="link",
                lifetime_s=_HOUR_S,
            )

    asyncio.run(work())
    return token


def signed_in(stack: StackUnderTest, person: str = "ann", **options: Any) -> httpx.Client:
    """Open a client of the gateway for somebody who has signed in."""
    headers = {"Authorization": f"Bearer {token_of(stack, person)}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{stack.settings.port}", headers=headers, **options)
