"""Errors that cross rooms: a code that programs branch on, a sentence for people.

A room raises `Failure` when its caller may have to tell a person; the API turns the
code into a status, the CLI into an exit code. Anything else that escapes is a bug.
"""

from collections.abc import Mapping
from typing import Literal

Code = Literal[
    "invalid_argument",
    "unauthenticated",
    "permission_denied",
    "not_found",
    "already_exists",
    "conflict",
    "failed_precondition",
    "insufficient_capacity",
    "manifest_unknown",
    "deadline_exceeded",
    "unavailable",
    "rate_limited",
    "internal",
]


STATUS: Mapping[Code, int] = {
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
"""What each is over HTTP (spec/machines.md §1.4)."""


class Failure(Exception):
    """Something a person has to know about.

    Attributes:
        code: What programs branch on.
        message: One sentence for people: what went wrong.
        hint: What to do about it, or an empty string.
    """

    def __init__(self, code: Code, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.hint = hint


def invalid(message: str, *, hint: str = "") -> Failure:
    """Return the failure for a request that can never succeed as it is."""
    return Failure("invalid_argument", message, hint=hint)


def not_found(message: str, *, hint: str = "") -> Failure:
    """Return the failure for a thing that does not exist, or not for this principal."""
    return Failure("not_found", message, hint=hint)
