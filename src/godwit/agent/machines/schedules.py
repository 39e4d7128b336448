"""When a machine's schedule starts it next (spec/machines.md §3.7). Pure."""

import calendar
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from godwit.agent.machines import config

_HOUR_MS = 3_600_000
_PERIOD_MS: dict[config.Schedule, int] = {
    "hourly": _HOUR_MS,
    "daily": 24 * _HOUR_MS,
    "weekly": 7 * 24 * _HOUR_MS,
}


def next_due(settings: Mapping[str, Any], created_at_ms: int, after_ms: int) -> int | None:
    """Return when a machine is started next, in Unix milliseconds; `None` without a schedule.

    Args:
        settings: The machine's config.
        created_at_ms: What the schedule is counted from.
        after_ms: The first time later than this one is meant.
    """
    wanted = config.schedule(settings)
    if wanted is None:
        return None
    if wanted == "monthly":
        return _next_month(created_at_ms, after_ms)
    period_ms = _PERIOD_MS[wanted]
    passed = max(0, (after_ms - created_at_ms) // period_ms)
    return created_at_ms + (passed + 1) * period_ms


def _next_month(created_at_ms: int, after_ms: int) -> int:
    """Return the next same day and time of a month, the last day where there is no such day."""
    created = datetime.fromtimestamp(created_at_ms / 1000, UTC)
    after = datetime.fromtimestamp(max(after_ms, created_at_ms) / 1000, UTC)
    month = after.year * 12 + after.month - 1
    while True:
        year, index = divmod(month, 12)
        day = min(created.day, calendar.monthrange(year, index + 1)[1])
        due = created.replace(year=year, month=index + 1, day=day)
        due_ms = round(due.timestamp() * 1000)
        if due_ms > after_ms and due_ms > created_at_ms:
            return due_ms
        month += 1
