"""The parts of a machine's config that its host acts on, read leniently. Pure.

Control has validated the config; here Go's zero values (`""`, `0`, `null`) mean "unset", and a
value that makes no sense is treated the same. The config itself is never changed.
"""

import itertools
import math
import signal
from collections.abc import Mapping
from typing import Any, Literal

from godwit.base import durations
from godwit.base import kernel_arguments as arguments
from godwit.wire.record import Record

RestartPolicy = Literal["no", "always", "on-failure"]

_POLICIES: dict[str, RestartPolicy] = {
    "no": "no",
    "never": "no",
    "always": "always",
    "on-failure": "on-failure",
    "on-fail": "on-failure",
}
Persist = Literal["never", "restart", "always"]
_PERSISTS: dict[object, Persist] = {
    "never": "never",
    "none": "never",
    "restart": "restart",
    "always": "always",
    1: "never",
    2: "restart",
    3: "always",
}
"""Clients that were written in Go number them (spec/machines.md §1.3)."""
Schedule = Literal["hourly", "daily", "weekly", "monthly"]
_SCHEDULES: dict[str, Schedule] = {
    "hourly": "hourly",
    "daily": "daily",
    "weekly": "weekly",
    "monthly": "monthly",
}
DEFAULT_MAX_RETRIES = 10
DEFAULT_STOP_SIGNAL = "SIGINT"
DEFAULT_STOP_MS = 5_000
LONGEST_STOP_MS = 300_000
DEFAULT_SCRATCH_GB = 8


class Restart(Record):
    """What happens when the main process exits."""

    policy: RestartPolicy = "on-failure"
    max_retries: int = DEFAULT_MAX_RETRIES


class Stop(Record):
    """How the main process is asked to end."""

    signal: str = DEFAULT_STOP_SIGNAL
    timeout_ms: int = DEFAULT_STOP_MS


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Return the objects in a list."""
    return tuple(map(mapping, value)) if isinstance(value, list | tuple) else ()


def strings(value: Any) -> tuple[str, ...]:
    """Return a list of strings; a bare string is a list of one."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def number(value: Any, default: int) -> int:
    """Return a whole number; the default for 0, null and anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return int(value) if value and math.isfinite(value) else default


def duration_ms(value: Any) -> int | None:
    """Return a duration (Go's notation, or nanoseconds) in milliseconds; `None` when unset."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value // 10**6 if value > 0 else None
    if not isinstance(value, str) or not value:
        return None
    try:
        total = durations.parse(value)
    except ValueError:
        return None
    return max(total, 0) // durations.MILLISECOND or None


def signal_name(value: Any) -> str | None:
    """Return `SIGTERM` for `SIGTERM`, `TERM`, `term` or 15; `None` when unset or unknown."""
    if isinstance(value, int) and not isinstance(value, bool):
        known = {int(entry) for entry in signal.Signals}
        return signal.Signals(value).name if value in known else None
    if not isinstance(value, str) or not value:
        return None
    name = value.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    return name if name in signal.Signals.__members__ else None


def restart(config: Mapping[str, Any]) -> Restart:
    """Return the restart policy; unset means on-failure with 10 retries."""
    given = mapping(config.get("restart"))
    return Restart(
        policy=_POLICIES.get(str(given.get("policy") or ""), "on-failure"),
        max_retries=number(given.get("max_retries"), DEFAULT_MAX_RETRIES),
    )


def containers(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the containers of a machine that has some."""
    return items(config.get("containers"))


def disk_bytes(volume: Mapping[str, Any]) -> int:
    """Return the size of a volume's own disk; 0 for one in memory, of an image, or unbounded."""
    kept = mapping(volume.get("temp_dir"))
    if volume.get("image") or kept.get("storage_type") == "memory":
        return 0
    return max(0, number(kept.get("size_mb"), 0)) * 1024**2


def container_stop_ms(container: Mapping[str, Any]) -> int:
    """Return how long one container is given to end."""
    given = duration_ms(mapping(container.get("stop")).get("timeout")) or DEFAULT_STOP_MS
    return min(given, LONGEST_STOP_MS)


def stop(config: Mapping[str, Any], asked_signal: Any = None, asked_ms: Any = None) -> Stop:
    """Return how to stop: what the request says, else stop_config, else SIGINT and 5 s.

    Containers end one after the other: unless it is said, they have the time of all.
    """
    given = mapping(config.get("stop_config"))
    name = signal_name(asked_signal) or signal_name(given.get("signal")) or DEFAULT_STOP_SIGNAL
    asked = number(asked_ms, 0) or duration_ms(given.get("timeout"))
    asked = asked or sum(map(container_stop_ms, containers(config))) or DEFAULT_STOP_MS
    return Stop(signal=name, timeout_ms=max(0, min(asked, LONGEST_STOP_MS)))


def auto_destroy(config: Mapping[str, Any]) -> bool:
    """Tell whether the machine is destroyed when its process has ended for good."""
    return config.get("auto_destroy") is True


def suspends_idle(config: Mapping[str, Any]) -> bool:
    """Tell whether the proxy suspends the machine when it is idle, as one service asks."""
    return any(entry.get("autostop") == "suspend" for entry in items(config.get("services")))


def unsuspendable(config: Mapping[str, Any]) -> str | None:
    """Return why a machine cannot be suspended (spec/machines.md §3.10); `None` when it can."""
    if swap_bytes(config):
        return "unable to suspend machine: it has swap (init.swap_size_mb)"
    if schedule(config) is not None:
        return "unable to suspend machine: it runs on a schedule"
    return None


def kernel_arguments(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the config adds to the kernel's command line: guest's first, then init's.

    What control would refuse today is left out: it may have been taken by a former release.
    """
    parts = (mapping(config.get(name)).get("kernel_args") for name in ("guest", "init"))
    return arguments.usable(itertools.chain.from_iterable(map(strings, parts)))


def schedule(config: Mapping[str, Any]) -> Schedule | None:
    """Return how often the machine is started; `None` without a schedule."""
    return _SCHEDULES.get(str(config.get("schedule") or "").lower())


def standbys(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the machines this one stands by for; a standby rests stopped."""
    return strings(config.get("standbys"))


def metadata(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata that are strings."""
    given = mapping(config.get("metadata"))
    return {str(key): value for key, value in given.items() if isinstance(value, str)}


def process_group(config: Mapping[str, Any]) -> str:
    """Return the machine's process group."""
    return metadata(config).get("fly_process_group") or "app"


def in_dns(config: Mapping[str, Any]) -> bool:
    """Tell whether internal DNS knows the machine."""
    return mapping(config.get("dns")).get("skip_registration") is not True


def swap_bytes(config: Mapping[str, Any]) -> int:
    """Return the size of the machine's swap disk, 0 for none."""
    return max(0, number(mapping(config.get("init")).get("swap_size_mb"), 0)) * 1024**2


def cache_bytes(config: Mapping[str, Any]) -> int:
    """Return the size of the machine's cache drive, 0 for none."""
    return max(0, number(mapping(config.get("cache_drive")).get("size_mb"), 0)) * 1024**2


def persist(config: Mapping[str, Any]) -> Persist:
    """Return how long what is written to the root lasts: rootfs says it, else guest.

    `never` is one life of the VM, `restart` until the next version, `always` the machine's life.
    """
    for given in (
        mapping(config.get("rootfs")).get("persist"),
        mapping(config.get("guest")).get("persist_rootfs"),
    ):
        if isinstance(given, str | int) and not isinstance(given, bool) and given in _PERSISTS:
            return _PERSISTS[given]
    return "never"


def outlasts_update(present: Mapping[str, Any], coming: Mapping[str, Any]) -> bool:
    """Tell whether the root of a version is the next one's, too."""
    return persist(present) == persist(coming) == "always"


def scratch_bytes(config: Mapping[str, Any]) -> int:
    """Return the size of the writable disk over the image."""
    rootfs = mapping(config.get("rootfs"))
    return number(rootfs.get("size_gb"), DEFAULT_SCRATCH_GB) * 1024**3
