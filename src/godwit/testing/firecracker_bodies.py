"""What Firecracker's API takes, field by field, and in which words it refuses the rest.

Written down from its API description (release 1.16) and held to the real program's answers by
`tests/unit/agent/vmm/firecracker/playbook.py`, which runs against both.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PREFIX = "An error occurred when deserializing the json body of a request: "


class Refusal(Exception):
    """A request is answered with status 400 and this message."""


def _bad(message: str) -> Refusal:
    return Refusal(_PREFIX + message)


@dataclass(frozen=True)
class Number:
    """A whole number below a power of two."""

    bits: int

    def check(self, value: Any) -> None:
        """Refuse anything else."""
        name = f"u{self.bits}"
        if isinstance(value, bool) or not isinstance(value, int):
            raise _bad(f"invalid type: {_kind(value)}, expected {name}")
        if not 0 <= value < 1 << self.bits:
            raise _bad(f"invalid value: integer `{value}`, expected {name}")


@dataclass(frozen=True)
class Text:
    """A string."""

    def check(self, value: Any) -> None:
        """Refuse anything else."""
        if not isinstance(value, str):
            raise _bad(f"invalid type: {_kind(value)}, expected a string")


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, value: Any) -> None:
        """Refuse anything else."""
        if not isinstance(value, bool):
            raise _bad(f"invalid type: {_kind(value)}, expected a boolean")


@dataclass(frozen=True)
class OneOf:
    """One of some words."""

    words: tuple[str, ...]

    def check(self, value: Any) -> None:
        """Refuse anything else."""
        if value not in self.words:
            expected = " or ".join(f"`{word}`" for word in self.words)
            if len(self.words) > 2:
                expected = "one of " + ", ".join(f"`{word}`" for word in self.words)
            raise _bad(f"unknown variant `{value}`, expected {expected}")


@dataclass(frozen=True)
class Fields:
    """An object.

    Attributes:
        required: Fields that must be there.
        optional: Fields that may; `null` counts as left out.
        strict: Whether others are refused.
    """

    required: Mapping[str, "Kind"]
    optional: Mapping[str, "Kind"]
    strict: bool = True

    def check(self, value: Any) -> None:
        """Refuse anything else."""
        if not isinstance(value, dict):
            raise _bad(f"invalid type: {_kind(value)}, expected struct")
        known = {**self.required, **self.optional}
        for name, given in value.items():
            if name in known:
                if given is not None or name in self.required:
                    known[name].check(given)
            elif self.strict:
                expected = ", ".join(f"`{one}`" for one in known)
                several = "one of " if len(known) > 1 else ""
                raise _bad(f"unknown field `{name}`, expected {several}{expected}")
        for name in self.required:
            if name not in value:
                raise _bad(f"missing field `{name}`")


@dataclass(frozen=True)
class ListOf:
    """Any number of something."""

    each: "Kind"

    def check(self, value: Any) -> None:
        """Refuse anything else."""
        if not isinstance(value, list):
            raise _bad(f"invalid type: {_kind(value)}, expected a sequence")
        for one in value:
            self.each.check(one)


Kind = Number | Text | Flag | OneOf | Fields | ListOf


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return f'string "{value}"'
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    return {list: "sequence", dict: "map", type(None): "null"}.get(type(value), "other")


def read(body: bytes, fields: Fields) -> dict[str, Any]:
    """Return a body that has the right fields.

    Raises:
        Refusal: It has not.
    """
    try:
        value = json.loads(body)
    except ValueError as error:
        raise _bad("expected ident" if body[:1] == b"n" else "expected value") from error
    fields.check(value)
    assert isinstance(value, dict)
    return value


_TEXT, _FLAG = Text(), Flag()
_U8, _U16, _U32, _U64 = Number(8), Number(16), Number(32), Number(64)
BUCKET = Fields({"size": _U64, "refill_time": _U64}, {"one_time_burst": _U64}, strict=False)
LIMITER = Fields({}, {"bandwidth": BUCKET, "ops": BUCKET})
MACHINE = Fields(
    {"vcpu_count": _U8, "mem_size_mib": _U64},
    {
        "smt": _FLAG,
        "cpu_template": _TEXT,
        "track_dirty_pages": _FLAG,
        "huge_pages": OneOf(("None", "2M")),
    },
)
MACHINE_UPDATE = Fields({}, {**MACHINE.required, **MACHINE.optional})
BOOT_SOURCE = Fields({"kernel_image_path": _TEXT}, {"initrd_path": _TEXT, "boot_args": _TEXT})
DRIVE = Fields(
    {"drive_id": _TEXT, "is_root_device": _FLAG},
    {
        "partuuid": _TEXT,
        "cache_type": OneOf(("Unsafe", "Writeback")),
        "is_read_only": _FLAG,
        "path_on_host": _TEXT,
        "rate_limiter": LIMITER,
        "io_engine": OneOf(("Async", "Sync")),
        "socket": _TEXT,
    },
)
DRIVE_UPDATE = Fields({"drive_id": _TEXT}, {"path_on_host": _TEXT, "rate_limiter": LIMITER})
NETWORK = Fields(
    {"iface_id": _TEXT, "host_dev_name": _TEXT},
    {"guest_mac": _TEXT, "mtu": _U16, "rx_rate_limiter": LIMITER, "tx_rate_limiter": LIMITER},
)
NETWORK_UPDATE = Fields(
    {"iface_id": _TEXT}, {"rx_rate_limiter": LIMITER, "tx_rate_limiter": LIMITER}
)
VSOCK = Fields({"guest_cid": _U32, "uds_path": _TEXT}, {"vsock_id": _TEXT})
BALLOON = Fields(
    {"amount_mib": _U32, "deflate_on_oom": _FLAG},
    {
        "stats_polling_interval_s": _U16,
        "free_page_hinting": _FLAG,
        "free_page_reporting": _FLAG,
    },
)
BALLOON_UPDATE = Fields({"amount_mib": _U32}, {})
ENTROPY = Fields({}, {"rate_limiter": LIMITER})
VM = Fields({"state": OneOf(("Paused", "Resumed"))}, {})
ACTION = Fields({"action_type": OneOf(("FlushMetrics", "InstanceStart", "SendCtrlAltDel"))}, {})
SNAPSHOT_CREATE = Fields(
    {"snapshot_path": _TEXT, "mem_file_path": _TEXT}, {"snapshot_type": OneOf(("Diff", "Full"))}
)
SNAPSHOT_LOAD = Fields(
    {"snapshot_path": _TEXT},
    {
        "mem_file_path": _TEXT,
        "mem_backend": Fields(
            {"backend_path": _TEXT, "backend_type": OneOf(("File", "Uffd"))}, {}
        ),
        "enable_diff_snapshots": _FLAG,
        "track_dirty_pages": _FLAG,
        "resume_vm": _FLAG,
        "network_overrides": ListOf(
            Fields({"iface_id": _TEXT, "host_dev_name": _TEXT}, {}, strict=False)
        ),
        "vsock_override": Fields({"uds_path": _TEXT}, {}, strict=False),
        "clock_realtime": _FLAG,
    },
)
CONFIG = Fields(
    {"boot-source": BOOT_SOURCE, "drives": ListOf(DRIVE)},
    {
        "machine-config": MACHINE,
        "network-interfaces": ListOf(NETWORK),
        "vsock": VSOCK,
        "balloon": BALLOON,
        "entropy": ENTROPY,
    },
)
