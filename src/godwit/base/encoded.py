"""How long things are as JSON in UTF-8, which is what every bound on the wire is about. Pure.

Text is no measure of it: a control character takes six bytes, a byte that was no text three.
"""

import pydantic_core


def size(value: object) -> int:
    """Return the length of a value as JSON, in bytes."""
    return len(pydantic_core.to_json(value))


def beginning(text: str, limit: int) -> str:
    """Return the longest beginning of a text that takes no more bytes as JSON, quotes included."""
    if size(text) <= limit:
        return text
    fits, too_long = 0, min(len(text), limit)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if size(text[:middle]) <= limit:
            fits = middle
        else:
            too_long = middle
    return text[:fits]
