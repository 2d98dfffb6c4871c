"""What every route is given: the services, opened once for the whole application."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request

from penstock.engine.services import Services

__all__ = ["Cursor", "Limit", "Opened"]

Limit = Annotated[int, Query(ge=1, le=200, description="Rows per page.")]
Cursor = Annotated[str | None, Query(description="`cursor` of the page before.")]


def _services(request: Request) -> Services:
    return request.app.state.services


Opened = Annotated[Services, Depends(_services)]
