"""Failures as answers: status, and the error body of spec/machines.md §1.1."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from godwit.base import errors
from godwit.control import machine_config
from godwit.control.apps import NameTaken

STATUS: Mapping[errors.Code, int] = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "already_exists": 422,
    "conflict": 409,
    "failed_precondition": 412,
    "insufficient_capacity": 503,
    "manifest_unknown": 400,
    "deadline_exceeded": 408,
    "unavailable": 503,
    "rate_limited": 429,
    "internal": 500,
}
_NOT_FOUND = 404
_NOT_ALLOWED = 405


class TooLarge(errors.Failure):
    """The body is over the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__("invalid_argument", f"the body is over {limit} bytes")


class NotAuthenticated(errors.Failure):
    """The request came without a token that is good."""

    def __init__(self, challenge: str = "Bearer") -> None:
        super().__init__("unauthenticated", "token validation error")
        self.challenge = challenge


def body(failure: errors.Failure) -> dict[str, Any]:
    """Return the error body for a failure."""
    text = f"{failure.code}: {failure.message}"
    if failure.code == "manifest_unknown":
        text += " (MANIFEST_UNKNOWN)"
    status = "unknown"
    if failure.code == "insufficient_capacity":
        status = "insufficient_capacity"
    elif isinstance(failure, NameTaken):
        status = "name_taken"
    found = {"error": text, "status": status}
    return {**found, "hint": failure.hint} if failure.hint else found


async def on_failure(request: Request, failure: Exception) -> Response:
    """Answer a `Failure`."""
    del request
    if isinstance(failure, NotAuthenticated):
        return JSONResponse(
            {"error": "Authenticate: token validation error"},
            401,
            headers={"WWW-Authenticate": failure.challenge},
        )
    if not isinstance(failure, errors.Failure):
        raise failure
    status = 413 if isinstance(failure, TooLarge) else STATUS[failure.code]
    return JSONResponse(body(failure), status)


async def on_invalid(request: Request, error: Exception) -> Response:
    """Answer a request whose path, query or body has the wrong shape."""
    if not isinstance(error, RequestValidationError):
        raise error
    found = []
    for one in error.errors():
        place = one["loc"][1:] if one["loc"] and one["loc"][0] in _PLACES else one["loc"]
        found.append({**one, "loc": place})
    text = "; ".join(machine_config.mistakes(found))
    return await on_failure(request, errors.invalid(text))


async def on_unrouted(request: Request, error: Exception) -> Response:
    """Answer what no route takes, in plain text as the public API does."""
    del request
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == _NOT_FOUND:
        return PlainTextResponse("404 page not found\n", _NOT_FOUND)
    if error.status_code == _NOT_ALLOWED:
        return PlainTextResponse("405 method not allowed\n", _NOT_ALLOWED, error.headers)
    failure = errors.invalid(str(error.detail))
    return JSONResponse(body(failure), error.status_code, error.headers)


_PLACES = frozenset({"body", "query", "path", "header"})
