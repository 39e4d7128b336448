"""Failures as answers: status, and the error body of spec/machines.md §1.1."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from godwit.api.limits import TooMany
from godwit.base import errors
from godwit.control import machine_config
from godwit.control.apps import NameTaken
from godwit.control.leases import Held
from godwit.control.machines import TooManyMachines

MEANINGS: Mapping[errors.Code, str] = {
    "invalid_argument": "The request can never succeed as it is; the text names each wrong field."
    " Also for the machines of an app that was deleted (`could not find app`).",
    "unauthenticated": "There is no token, or it is unknown, revoked or expired.",
    "permission_denied": "The token lacks the scope, or the thing is another organization's.",
    "not_found": "There is no such thing, or the machine is destroyed and does no more.",
    "already_exists": "The name is taken: `status` is `name_taken` for an app's.",
    "conflict": "Somebody else holds the machine's lease (`data` says who, after an attempt to"
    " acquire it), `current_version` is not its version any more, or what is waited for will not"
    " come.",
    "failed_precondition": "The machine's state forbids it now, or it was changed since the caller"
    " looked.",
    "insufficient_capacity": "No host has room; `status` is `insufficient_capacity`, the text says"
    " what each host lacks.",
    "manifest_unknown": "The image is not there (`MANIFEST_UNKNOWN`).",
    "deadline_exceeded": "A wait or a command took longer than it may; the machine goes on.",
    "unavailable": "The machine's host, the bus or the database is away: ask again.",
    "rate_limited": "The same was asked too often; `Retry-After` says when to ask again.",
    "internal": "A fault of Godwit: the text holds the `fly-request-id` to look for in its log.",
}
"""What each code means to who asked, for the reference."""
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


_OF_KIND: Mapping[type[errors.Failure], int] = {TooLarge: 413, TooManyMachines: 422}
_FULL = (
    "The organization has as many machines as it may (`limits.org_machines`), or would have more."
)
APART: tuple[tuple[int, errors.Code, str], ...] = (
    (413, "invalid_argument", "The body is longer than a request's may be."),
    (422, "failed_precondition", _FULL),
)
"""What is answered with another status than its code's, for the reference."""


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
    found: dict[str, Any] = {"error": text, "status": status}
    if isinstance(failure, Held) and failure.lease is not None:
        found["data"] = failure.lease.model_dump(mode="json", exclude={"nonce"})
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
    status = next(
        (number for kind, number in _OF_KIND.items() if isinstance(failure, kind)),
        errors.STATUS[failure.code],
    )
    wait = {"Retry-After": str(failure.wait_s)} if isinstance(failure, TooMany) else None
    return JSONResponse(body(failure), status, headers=wait)


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
