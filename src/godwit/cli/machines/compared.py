"""What is different between two machine configs, one line for each value. Pure."""

import json
from collections.abc import Iterator
from typing import Any

_ABSENT = object()


def lines(old: Any, new: Any) -> list[str]:
    """Return the differences: `+ env.A: "1"`, `- schedule: "daily"`, `~ image: "a" → "b"`."""
    return list(_differences(old, new, ""))


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            below = f"{path}.{key}" if path else str(key)
            yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), below)
    elif isinstance(old, list) and isinstance(new, list) and _of_tables(old, new):
        for index in range(max(len(old), len(new))):
            before = old[index] if index < len(old) else _ABSENT
            after = new[index] if index < len(new) else _ABSENT
            yield from _differences(before, after, f"{path}[{index}]")
    elif old is _ABSENT:
        yield f"+ {path}: {_shown(new)}"
    elif new is _ABSENT:
        yield f"- {path}: {_shown(old)}"
    else:
        yield f"~ {path}: {_shown(old)} → {_shown(new)}"


def _of_tables(old: list[Any], new: list[Any]) -> bool:
    return all(isinstance(one, dict) for one in (*old, *new))


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
