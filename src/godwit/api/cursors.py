"""Cursors: where a list goes on, opaque to clients, good for half an hour.

They hold no secret and open nothing: whoever shows one has been let in to the list already.
"""

import base64
import binascii
import json

from godwit.base import errors

LIFETIME_S = 1_800
_LONGEST = 1_000
_MOST = 2**53
_WRONG = "cursor: is not one of this list's"


def encode(of: str, now_ms: int, place: tuple[int, str]) -> str:
    """Return the cursor for a place in a list."""
    text = json.dumps([of, now_ms // 1000, *place], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(of: str, now_ms: int, cursor: str) -> tuple[int, str]:
    """Return the place a cursor of this list stands for.

    Raises:
        Failure: `invalid_argument` when it is another's or too old.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise errors.invalid(_WRONG) from error
    if len(cursor) > _LONGEST or not isinstance(found, list):
        raise errors.invalid(_WRONG)
    match found:
        case [str() as whose, int() as made_s, int() as at, str() as name] if (
            whose == of and abs(at) < _MOST and "\0" not in name
        ):
            if not 0 <= now_ms // 1000 - made_s <= LIFETIME_S:
                raise errors.invalid(
                    "cursor: it has expired", hint="begin the list again, without a cursor"
                )
            return at, name
    raise errors.invalid(_WRONG)
