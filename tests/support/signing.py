"""People who have signed in to the gateway of a stack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx

from support.stack import StackUnderTest

__all__ = ["signed_in", "token_of"]


def token_of(stack: StackUnderTest, person: str = "ann") -> str:
    """Give a token with which somebody's programs sign in."""
    asked = replace(stack, environment={**stack.environment, "LOGNAME": person})
    done = asked.cli("login", "--print-token")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def signed_in(stack: StackUnderTest, person: str = "ann", **options: Any) -> httpx.Client:
    """Open a client of the gateway for somebody who has signed in."""
    headers = {"Authorization": f"Bearer {token_of(stack, person)}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{stack.settings.port}", headers=headers, **options)
