"""Exit codes, for scripts. `godwit machine exec` exits with its command's own code."""

from godwit.base import errors

OK = 0
FAILED = 1
"""It was tried and did not work."""
USAGE = 2
"""The command, the config file or a value is wrong; trying again will not help."""
UNREACHABLE = 3
"""The platform does not answer, or not in time; trying again may help."""
NOT_FOUND = 4
"""The app, machine, image or release does not exist, or not for this token."""
NOT_PERMITTED = 5
"""The token is missing, wrong or lacks a scope."""
INTERRUPTED = 130
"""Ctrl-C."""

_OF_FAILURE: dict[errors.Code, int] = {
    "invalid_argument": USAGE,
    "unauthenticated": NOT_PERMITTED,
    "permission_denied": NOT_PERMITTED,
    "not_found": NOT_FOUND,
    "manifest_unknown": NOT_FOUND,
    "unavailable": UNREACHABLE,
    "deadline_exceeded": UNREACHABLE,
}


def of_failure(failure: errors.Failure) -> int:
    """Return the exit code of a failure."""
    return _OF_FAILURE.get(failure.code, FAILED)
