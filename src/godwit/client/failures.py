"""The server's refusals as failures: its own words, its request id, a code to branch on."""

import json
from collections.abc import Mapping
from typing import Any, get_args

import httpx

from godwit.base import errors

_CODES: Mapping[int, errors.Code] = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    408: "deadline_exceeded",
    409: "conflict",
    410: "not_found",
    412: "failed_precondition",
    413: "invalid_argument",
    422: "already_exists",
    429: "rate_limited",
    503: "unavailable",
    502: "unavailable",
    504: "deadline_exceeded",
}
_NAMED: Mapping[str, errors.Code] = {
    "insufficient_capacity": "insufficient_capacity",
    "volume_placement_capacity": "insufficient_capacity",
    "name_taken": "already_exists",
}
_LONGEST = 2000
_SERVER_ERROR = 500


class ApiFailure(errors.Failure):
    """What the API answered instead of doing what it was asked.

    Attributes:
        status: The HTTP status.
        request_id: What to look for in the server's logs, or an empty string.
    """

    def __init__(
        self, code: errors.Code, message: str, *, status: int, request_id: str, hint: str = ""
    ) -> None:
        super().__init__(code, message, hint=hint)
        self.status = status
        self.request_id = request_id


def from_response(response: httpx.Response) -> ApiFailure:
    """Return the failure that a refusal stands for. The body must have been read."""
    body = _body(response)
    message = _text(body.get("message")) or _text(body.get("error")) or _plain(response)
    message = message.removesuffix(" (MANIFEST_UNKNOWN)")
    prefix, _, rest = message.partition(": ")
    if prefix in get_args(errors.Code) and rest:
        code: errors.Code = prefix  # type: ignore[assignment]
        message = rest
    else:
        code = _code(response.status_code, _text(body.get("status")))
    return ApiFailure(
        code,
        message,
        status=response.status_code,
        request_id=response.headers.get("fly-request-id", ""),
        hint=_text(body.get("hint")) or _hint(response.status_code),
    )


def _code(status: int, named: str) -> errors.Code:
    if named in _NAMED:
        return _NAMED[named]
    default: errors.Code = "internal" if status >= _SERVER_ERROR else "invalid_argument"
    return _CODES.get(status, default)


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""


def _plain(response: httpx.Response) -> str:
    line = response.text.strip().splitlines()[0][:200] if response.text.strip() else ""
    said = f": {line}" if line and not line.startswith("<") else ""
    return f"the API answered {response.status_code} {response.reason_phrase}{said}"


def _hint(status: int) -> str:
    if status == httpx.codes.UNAUTHORIZED:
        return "set FLY_API_TOKEN, pass --access-token, or run `godwit up` on this host again"
    return ""
