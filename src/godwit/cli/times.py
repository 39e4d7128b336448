"""Times as people read them."""

from datetime import UTC, datetime

_STEPS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def ago(at: str | int | None, now_ms: int) -> str:
    """Return how long ago something was: `5m ago`, or an empty string when it is not known.

    Args:
        at: RFC 3339, or Unix milliseconds.
        now_ms: Unix milliseconds.
    """
    at_ms = at if isinstance(at, int) else _milliseconds(at or "")
    if at_ms is None:
        return ""
    seconds = max(0, (now_ms - at_ms) // 1000)
    for length, unit in _STEPS:
        if seconds >= length:
            return f"{seconds // length}{unit} ago"
    return "just now"


def moment(at: str | int | None) -> str:
    """Return a time as RFC 3339, whichever way it was given."""
    if isinstance(at, int):
        return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds")
    return at or ""


def _milliseconds(text: str) -> int | None:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)
