"""What Prefect's server wants to hear from whoever uses it."""

from __future__ import annotations

from base64 import b64encode

from prefect.settings import PREFECT_API_AUTH_STRING

__all__ = ["authorization"]


def authorization() -> str:
    """Give the header `Authorization` for Prefect's API; empty when it wants none."""
    secret = PREFECT_API_AUTH_STRING.value()
    return f"Basic {b64encode(secret.encode()).decode()}" if secret else ""
