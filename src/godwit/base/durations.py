"""Durations in Go's notation: `300ms`, `10s`, `1m30s`, `2h`; held as whole nanoseconds.

Source: Go's time.ParseDuration and Duration.String; spec/config-cli.md §1.0.
"""

import re

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}
_PART = re.compile(r"([0-9]+)?(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_LONGEST = 2**63 - 1
_EXPECTED = "expected a duration such as 300ms, 10s, 1m30s or 2h"


def parse(text: str) -> int:
    """Return the nanoseconds a duration stands for.

    Raises:
        ValueError: It is not a duration; the message says what was expected.
    """
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total = 0
    position = 0
    while position < len(rest):
        part = _PART.match(rest, position)
        if part is None or not (part[1] or part[2]):
            raise ValueError(f'{_EXPECTED}, got "{text}"')
        unit = _UNITS[part[3]]
        fraction = part[2] or ""
        total += int(part[1] or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        position = part.end()
        if total > _LONGEST:
            raise ValueError(f'{_EXPECTED}; "{text}" is longer than 292 years')
    if not rest:
        raise ValueError(f'{_EXPECTED}, got "{text}"')
    return sign * total


def render(nanoseconds: int) -> str:
    """Return a duration as Go writes it: `1m30s`, `1.5s`, `300ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    left = abs(nanoseconds)
    if left < SECOND:
        for name, unit in (("ms", MILLISECOND), ("µs", 1_000), ("ns", 1)):
            if left >= unit:
                return f"{sign}{_decimal(left, unit)}{name}"
    hours, left = divmod(left, HOUR)
    minutes, left = divmod(left, MINUTE)
    seconds = f"{_decimal(left, SECOND)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def seconds(nanoseconds: int) -> float:
    """Return a duration in seconds, for timers."""
    return nanoseconds / SECOND


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if rest == 0:
        return str(whole)
    return f"{whole}.{str(rest).rjust(len(str(unit)) - 1, '0').rstrip('0')}"
