"""A process of a guest and the files it finds, as its init is told of them.

Part of `guest.RunSpec`; the Rust twin is `rust/crates/wire/src/run_spec.rs`.
"""

import base64
from collections.abc import Mapping

from pydantic import Field

from godwit.base import encoded
from godwit.wire.record import Record

_QUOTES = 2


class File(Record):
    """A file put into the root before the process starts."""

    path: str
    content_base64: str
    mode: int = 0o644


class Process(Record):
    """The machine's main process.

    Attributes:
        argv: Never empty; looked up in PATH of `env` when it has no slash.
        env: Complete but for PATH, HOME and TERM, which init gives defaults (§5.1).
        env_base64: Further variables whose values are not UTF-8, in base64.
        user: As in an image's config: empty, `name`, `uid`, `name:group`, `uid:gid`;
            resolved in the root's /etc/passwd and /etc/group.
        tty: Whether it runs on a pseudo-terminal.
    """

    argv: tuple[str, ...] = Field(min_length=1)
    env: dict[str, str] = {}
    env_base64: dict[str, str] = {}
    working_directory: str = "/"
    user: str = ""
    tty: bool = False
    open_files: int = 10_240


def split_environment(env: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables that are told as text, and in base64 those that are shorter so.

    Values that are not UTF-8 are no text, and one full of control characters takes six bytes for
    each: so no value is told in more than its base64 and the quotes.

    Args:
        env: Bytes that are not UTF-8 as surrogates (PEP 383).
    """
    text, coded = {}, {}
    for name, value in env.items():
        raw = value.encode(errors="surrogateescape")
        if _is_text(value) and encoded.size(value) <= -(-len(raw) // 3) * 4 + _QUOTES:
            text[name] = value
        else:
            coded[name] = base64.b64encode(raw).decode()
    return text, coded


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
