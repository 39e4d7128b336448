"""Identifiers: how each kind of thing is named, minted and recognised.

Owns the formats only; who mints which id is told in docs/architecture.md.
"""

import re
import secrets
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MACHINE_ID = re.compile(r"[0-9a-f]{14}")
_APP_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SLUG = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


def ulid(at_ms: int | None = None) -> str:
    """Return a new 26-character ULID: 48 bits of milliseconds, 80 of randomness.

    Args:
        at_ms: Unix time in milliseconds; now when omitted.
    """
    stamp = time.time_ns() // 1_000_000 if at_ms is None else at_ms
    value = (stamp << 80) | secrets.randbits(80)
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def machine_id() -> str:
    """Return a new machine id: 14 lower-case hex digits (spec/machines.md §3.2)."""
    return secrets.token_hex(7)


def tagged(prefix: str) -> str:
    """Return a new opaque id such as `org_01j…`, lower case, sortable by time."""
    return f"{prefix}_{ulid().lower()}"


def host_id() -> str:
    """Return a new host id: 8 lower-case hex digits."""
    return secrets.token_hex(4)


def is_machine_id(text: str) -> bool:
    """Tell whether the text has the form of a machine id."""
    return _MACHINE_ID.fullmatch(text) is not None


def is_app_name(text: str) -> bool:
    """Tell whether the text may name an app: a DNS label, lower case, at most 63 characters."""
    return _APP_NAME.fullmatch(text) is not None


def is_slug(text: str) -> bool:
    """Tell whether the text may name an organization or a network."""
    return _SLUG.fullmatch(text) is not None
