"""Forms that browsers send to routes which are open to all."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from fastapi import Request

from penstock.errors import InputInvalid

__all__ = ["read_form"]

_KIND = "application/x-www-form-urlencoded"
_LARGEST = 16 * 1024


async def read_form(request: Request) -> Mapping[str, str]:
    """Read a small form: text by name.

    Raises:
        InputInvalid: It is larger than 16 KiB, or no such form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _KIND:
        raise InputInvalid(f"send the form as {_KIND}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST:
            raise InputInvalid(f"the form is larger than {_LARGEST} bytes")
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=20))
    except ValueError:  # bytes that no browser sends, or too many fields
        raise InputInvalid("the form cannot be read") from None
