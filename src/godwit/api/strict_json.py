"""JSON from outside, read strictly: what could not be written again is refused."""

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 64


class NotJson(ValueError):
    """The body is not JSON that this API takes; the message says why."""


def loads(data: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        NotJson: It is not JSON, is not UTF-8, is nested too deeply, or holds what JSON cannot
            say again (NaN, infinities, halves of surrogate pairs).
    """
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        _check(value)
    except UnicodeDecodeError as error:
        raise NotJson("the body is not UTF-8") from error
    except RecursionError as error:
        raise NotJson("the body is nested too deeply") from error
    except NotJson:
        raise
    except ValueError as error:
        raise NotJson(f"the body is not JSON: {error}") from error
    return value


def _refuse(constant: str) -> NoReturn:
    raise NotJson(f"the body is not JSON: {constant} is no value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJson("the body holds a number that is too large")
    return value


def _check(value: Any) -> None:
    """Refuse halves of characters and deep nesting, without recursion of our own."""
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            if any("\ud800" <= character <= "\udfff" for character in item):
                raise NotJson("the body holds half of a character (an unpaired surrogate)")
        elif isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise NotJson(f"the body is nested more than {MAX_DEPTH} deep")
            inner = (*item.keys(), *item.values()) if isinstance(item, dict) else item
            waiting += [(one, depth + 1) for one in inner]
