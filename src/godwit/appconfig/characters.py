"""Characters that no string of a config may have: nothing they go to could take them.

An environment variable ends at a NUL, PostgreSQL stores none, and half of a surrogate pair is
no text at all. Called by `files` before anything else reads the document.
"""

from collections.abc import Iterator
from typing import Any

from godwit.appconfig.problems import Path, Problem

_SURROGATES = range(0xD800, 0xE000)


def problems(document: Any) -> list[Problem]:
    """Return where a document has such characters, in its keys or in its values."""
    return list(_walk(document, ()))


def _walk(value: Any, path: Path) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, one in value.items():
            wrong = _wrong(key)
            if wrong:
                yield Problem(path, f"a key has {wrong} in it")
            else:
                yield from _walk(one, (*path, key))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _walk(one, (*path, index))
    elif isinstance(value, str):
        wrong = _wrong(value)
        if wrong:
            yield Problem(path, f"has {wrong} in it")


def _wrong(text: str) -> str:
    if "\0" in text:
        return "a NUL character"
    return "half a character" if any(ord(one) in _SURROGATES for one in text) else ""
