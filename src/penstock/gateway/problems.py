"""The one place where an error becomes an HTTP answer: RFC 9457 problem JSON."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from penstock.errors import PenstockError, SpecError

__all__ = ["install_problem_handlers", "problem"]


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of an application a problem JSON."""
    app.add_exception_handler(PenstockError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_request)
    app.add_exception_handler(HTTPException, _of_http)


def problem(status: int, code: str, detail: str, **more: Any) -> JSONResponse:
    """Make the answer that tells of an error.

    Args:
        more: Further members, JSON types only.
    """
    body = {"type": f"urn:penstock:{code}", "title": code.replace("_", " "), "status": status, **more}
    return JSONResponse({**body, "detail": detail}, status, media_type="application/problem+json")


async def _of_ours(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, PenstockError):
        raise error
    more: dict[str, Any] = dict(error.details)
    if isinstance(error, SpecError):
        more["problems"] = [problem.__dict__ for problem in error.problems]
    return problem(error.http_status, error.code, error.message, **more)


async def _of_request(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    errors = [
        {"field": ".".join(str(part) for part in item["loc"]), "message": item["msg"]}
        for item in error.errors()
    ]
    return problem(422, "request_invalid", "the request does not fit its schema", errors=errors)


async def _of_http(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    return problem(error.status_code, "http_error", str(error.detail))
