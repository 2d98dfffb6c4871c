"""The one place where an error becomes an HTTP answer: RFC 9457 problem JSON, or a page for people."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from penstock.errors import NotSignedIn, PenstockError, SpecError
from penstock.gateway.headers import secure_headers
from penstock.gateway.pages import page

__all__ = ["answer_to", "install_problem_handlers", "problem"]

_FOR_PROGRAMS = ("/api/", "/prefect/api/", "/openapi.json", "/healthz", "/readyz")


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of an application an answer."""
    app.add_exception_handler(PenstockError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_request)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_any)


def problem(status: int, code: str, detail: str, **more: Any) -> JSONResponse:
    """Make the answer that tells of an error.

    Args:
        more: Further members, JSON types only.
    """
    body = {"type": f"urn:penstock:{code}", "title": code.replace("_", " "), "status": status, **more}
    return JSONResponse({**body, "detail": detail}, status, media_type="application/problem+json")


def answer_to(request: Request, error: PenstockError) -> Response:
    """Make the answer that tells of an error of ours; whoever opens a page is sent to the login."""
    if isinstance(error, NotSignedIn):
        return _to_login(request) if _is_page(request) else _unknown(error)
    more: dict[str, Any] = dict(error.details)
    if isinstance(error, SpecError):
        more["problems"] = [problem.__dict__ for problem in error.problems]
    return _told(request, problem(error.http_status, error.code, error.message, **more), error.message)


def _unknown(error: NotSignedIn) -> Response:
    answer = problem(error.http_status, error.code, error.message, **error.details)
    answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _to_login(request: Request) -> Response:
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    back = {"next": wanted} if request.method == "GET" and wanted != "/" else {}
    return RedirectResponse(f"/login?{urlencode(back)}" if back else "/login", 303)


def _is_page(request: Request) -> bool:
    """Say whether a browser opens a page; scripts want an answer that they can tell from one."""
    navigates = request.headers.get("sec-fetch-mode", "navigate") == "navigate"
    return navigates and not request.url.path.startswith(_FOR_PROGRAMS)


def _told(request: Request, answer: JSONResponse, detail: str) -> Response:
    """Give the answer, as a page where a person would read it."""
    if not _is_page(request) or "text/html" not in request.headers.get("accept", ""):
        return answer
    title = HTTPStatus(answer.status_code).phrase
    return page(request, "problem.html", status=answer.status_code, title=title, detail=detail)


async def _of_ours(request: Request, error: Exception) -> Response:
    if not isinstance(error, PenstockError):
        raise error
    return answer_to(request, error)


async def _of_request(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    errors = [
        {"field": ".".join(str(part) for part in item["loc"]), "message": item["msg"]}
        for item in error.errors()
    ]
    detail = "the request does not fit its schema"
    return _told(request, problem(422, "request_invalid", detail, errors=errors), detail)


async def _of_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _told(request, problem(error.status_code, "http_error", str(error.detail)), str(error.detail))


async def _of_any(_request: Request, _error: Exception) -> Response:
    answer = problem(500, "unexpected", "something unexpected went wrong; the gateway's log says more")
    secure_headers(answer.headers)  # it is sent from outside of what sets them for all others
    return answer
