"""Sizes as people write them: memory in binary units, volumes in decimal ones.

A bare number is MB of memory or GB of volume (spec/config-cli.md §1.0).
"""

import re

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp])?(i)?b?", re.IGNORECASE | re.ASCII)
_STEPS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_MB = 1024 * 1024
_GB = 1000**3
_LONGEST = 24
_SHOWN = 80


def memory_mb(value: str | float) -> int:
    """Return a memory size in MB: `512`, `"512mb"`, `"1gb"`, `"2GiB"`.

    Raises:
        ValueError: It is not a size of at least one MB.
    """
    found = _to_unit(value, base=1024, unit=_MB)
    if found is None or found < 1:
        raise ValueError(f"expected a memory size such as 512 (MB), 512mb or 1gb, {got(value)}")
    return found


def volume_gb(value: str | float) -> int:
    """Return a volume size in GB: `10`, `"10gb"`, `"1tb"`.

    Raises:
        ValueError: It is not a size of at least one GB.
    """
    found = _to_unit(value, base=1000, unit=_GB)
    if found is None or found < 1:
        raise ValueError(f"expected a volume size such as 10 (GB) or 10gb, {got(value)}")
    return found


def got(value: object) -> str:
    """Return how a wrong value is named in a message: `got "x"`, `got 3`, `got a table`."""
    if isinstance(value, str):
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
        return f'got "{shown}"'
    if isinstance(value, bool):
        return f"got {str(value).lower()}"
    if isinstance(value, dict):
        return "got a table"
    if isinstance(value, list | tuple):
        return "got a list"
    if value is None:
        return "got nothing"
    return f"got {value}"


def _to_unit(value: str | float, *, base: int, unit: int) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return int(value) if value == value and abs(value) < 1e15 else None  # noqa: PLR0124, PLR2004
    match = _SIZE.fullmatch(value.strip())
    if match is None or len(match[1]) > _LONGEST:
        return None
    if match[2] is None:
        return int(float(match[1]))
    return int(float(match[1]) * base ** _STEPS[match[2].lower()]) // unit
