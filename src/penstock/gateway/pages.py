"""Pages: templates filled on the server; every value in them is text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["STATIC", "page", "templates"]

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
"""Folder of what pages load: styles, scripts, pictures."""

templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def page(request: Request, template: str, /, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Fill a template; it knows `person` as well: who has signed in, or None.

    Args:
        values: What the template shows.
    """
    signed = getattr(request.state, "signed", None)
    person = None if signed is None else signed.person
    return HTMLResponse(templates.get_template(template).render(person=person, **values), status)
