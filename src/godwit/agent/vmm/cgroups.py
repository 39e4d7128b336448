"""What a machine may take from its host, held by cgroups of version 1 or 2.

Each machine has one group `godwit/<instance>/<machine_id>` (in version 1, one per controller).
The shim puts the VMM there before it executes; nothing else ever goes in, so whatever is in a
machine's group is its VMM and may be killed. The shim itself has a small group of its own,
`godwit/<instance>.shims/<machine_id>`.

A limit that the kernel refuses fails the start. Weights are only worth a warning: they decide
between machines when the host is short, and bound none.
"""

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from godwit.agent import burst, footprint
from godwit.agent.vmm import running
from godwit.base import errors
from godwit.wire import host_rpc

logger = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "cpu", "pids")
_EXTRA = {True: ("io",), False: ("cpuacct", "blkio")}
"""Controllers used where they are, by whether the version is 2: no machine is held by them."""
_SHARED_PART = 16
"""A shared vCPU's baseline is 1/16 of a CPU (spec/machines.md §6)."""
_VMM_TASKS = 128
"""Threads: virtual CPUs, and up to 64 for disk I/O."""
_MB = 1_048_576
_SHIM_MB = 48
"""A shim takes 3 MB; the rest is for the pages of the logs it writes."""
_SHIM_TASKS = 64
_WEIGHTS = frozenset(
    {"cpu.shares", "cpu.weight", "io.weight", "blkio.weight", "blkio.bfq.weight"}
    | {"memory.swappiness", "memory.swap.max"}
)
"""Files whose refusal, or absence, is no reason to run no machine."""
_REMOVE_S = 5.0
_PAUSE_S = 0.01


@dataclass(frozen=True)
class Limits:
    """Limits in neither version's units.

    Attributes:
        cpu_us: CPU time in each period of 80 ms; `None` for as much as there is.
        cpu_part: What it gets when CPUs are short, in sixteenths of one; disks likewise.
    """

    memory_bytes: int
    cpu_us: int | None
    cpu_part: int
    tasks: int = _VMM_TASKS


SHIM = Limits(memory_bytes=_SHIM_MB * _MB, cpu_us=None, cpu_part=_SHARED_PART, tasks=_SHIM_TASKS)


def limits(resources: host_rpc.Resources, overhead_mb: int) -> Limits:
    """Return the limits of a machine whose VMM needs `overhead_mb` beside the guest's memory.

    It begins at the full speed of its vCPUs: a boot is not held back. `burst.Bursts` takes over
    when its process runs.
    """
    part = 1 if resources.cpu_kind == "shared" else _SHARED_PART
    return Limits(
        memory_bytes=footprint.memory_mb(resources, overhead_mb) * _MB,
        cpu_us=burst.share(resources).full_us,
        cpu_part=resources.cpus * part,
        tasks=_VMM_TASKS + resources.cpus,
    )


def settings_v1(given: Limits) -> dict[str, dict[str, str]]:
    """Return file and content by controller, in the order they are to be written."""
    weight = str(_io_weight(given))
    return {
        "memory": {"memory.limit_in_bytes": str(given.memory_bytes), "memory.swappiness": "0"},
        "cpu": {
            "cpu.cfs_period_us": str(burst.PERIOD_US),
            "cpu.cfs_quota_us": str(given.cpu_us or -1),
            "cpu.shares": str(max(2, given.cpu_part * 1024 // _SHARED_PART)),
        },
        "pids": {"pids.max": str(given.tasks)},
        "cpuacct": {},
        "blkio": {"blkio.weight": weight, "blkio.bfq.weight": weight},
    }


def settings_v2(given: Limits) -> dict[str, dict[str, str]]:
    """Return file and content by controller, in the order they are to be written."""
    return {
        "memory": {"memory.max": str(given.memory_bytes), "memory.swap.max": "0"},
        "cpu": {
            "cpu.max": f"{given.cpu_us or 'max'} {burst.PERIOD_US}",
            "cpu.weight": str(min(10_000, max(1, given.cpu_part * 100 // _SHARED_PART))),
        },
        "pids": {"pids.max": str(given.tasks)},
        "io": {"io.weight": f"default {_io_weight(given)}"},
    }


def _io_weight(given: Limits) -> int:
    return min(1_000, max(10, given.cpu_part * 100 // _SHARED_PART))


class Cgroups:
    """The groups of one Godwit's machines. Implements `burst.Cpu`.

    Attributes:
        lacking: Controllers this host does not offer; machines run without those limits.
    """

    def __init__(self, instance: str, root: Path = ROOT) -> None:
        self._instance = instance
        self._root = root
        self._unified = (root / "cgroup.controllers").exists()
        wanted = (*_CONTROLLERS, *_EXTRA[self._unified])
        if self._unified:
            offered = (root / "cgroup.controllers").read_text().split()
        else:
            offered = [name for name in wanted if (root / name / "cgroup.procs").exists()]
        self._offered = [name for name in wanted if name in offered]
        self.lacking = [name for name in _CONTROLLERS if name not in offered]

    def ensure(self, machine_id: str, given: Limits) -> tuple[str, ...]:
        """Ensure a machine's groups; return the files a pid is written to.

        Raises:
            Failure: `unavailable` when the kernel refuses a limit, naming the file.
        """
        return self._ensure(self._groups(machine_id), given)

    def confine_shim(self, machine_id: str, pid: int) -> None:
        """Ensure a machine's shim is in its own small group; one that has ended needs none.

        Raises:
            Failure: `unavailable` when the kernel refuses a limit, naming the file.
        """
        for file in self._ensure(self._shim_groups(machine_id), SHIM):
            try:
                Path(file).write_text(str(pid))
            except ProcessLookupError:
                return
            except OSError as error:
                raise _refused(Path(file), str(pid), error) from error

    def set_memory(self, machine_id: str, memory_bytes: int) -> None:
        """Let a machine's VMM use that much memory from now on.

        Raises:
            Failure: `unavailable` when the kernel refuses: it uses more than that already.
        """
        name = "memory.max" if self._unified else "memory.limit_in_bytes"
        self._change(machine_id, "memory", {name: str(memory_bytes)})

    def set_quota(self, machine_id: str, quota: int) -> None:
        """Let a machine use that many µs of CPU time in each period from now on.

        Raises:
            Failure: `unavailable` when the kernel refuses.
        """
        period = str(burst.PERIOD_US)
        if self._unified:
            self._change(machine_id, "cpu", {"cpu.max": f"{quota} {period}"})
        else:
            pair = {"cpu.cfs_period_us": period, "cpu.cfs_quota_us": str(quota)}
            self._change(machine_id, "cpu", pair)

    def used_us(self, machine_id: str) -> int | None:
        """Return the CPU time its VMM has used; `None` when it has no group."""
        if self._unified:
            return _stat(self._group(machine_id, "cpu") / "cpu.stat").get("usage_usec")
        try:
            text = _read(self._group(machine_id, "cpuacct") / "cpuacct.usage")
        except OSError:
            return None
        return int(text) // 1_000

    def throttled_us(self, machine_id: str) -> int:
        """Return how long its threads were held back; 0 when it has no group."""
        found = _stat(self._group(machine_id, "cpu") / "cpu.stat")
        return found.get("throttled_usec", found.get("throttled_time", 0) // 1_000)

    def generation(self, machine_id: str) -> int:
        """Return what tells a machine's group from one it had before; 0 when it has none."""
        try:
            return self._group(machine_id, "cpuacct").stat().st_ino
        except OSError:
            return 0

    def members(self, machine_id: str) -> frozenset[int]:
        """Return the pids in a machine's groups."""
        return _members(self._groups(machine_id))

    def ran_out(self, machine_id: str) -> bool:
        """Tell whether the kernel killed something of a machine's VMM for want of memory."""
        name = "memory.events" if self._unified else "memory.oom_control"
        return _stat(self._group(machine_id, "memory") / name).get("oom_kill", 0) > 0

    async def remove(self, machine_id: str) -> None:
        """Ensure a machine's groups are gone, and what runs in them; empty ones above them too.

        Raises:
            TimeoutError: Something in them does not die.
        """
        async with asyncio.timeout(_REMOVE_S):
            for groups in (self._groups(machine_id), self._shim_groups(machine_id)):
                for group in groups.values():
                    await _end(group)

    def machines(self) -> frozenset[str]:
        """Return the ids of machines that have a group."""
        found: set[str] = set()
        for groups in (self._groups(""), self._shim_groups("")):
            for group in groups.values():
                if group.is_dir():
                    found.update(entry.name for entry in group.iterdir() if entry.is_dir())
        return frozenset(found)

    def _groups(self, machine_id: str) -> dict[str, Path]:
        return self._paths(Path("godwit") / self._instance / machine_id)

    def _shim_groups(self, machine_id: str) -> dict[str, Path]:
        return self._paths(Path("godwit") / f"{self._instance}.shims" / machine_id)

    def _paths(self, path: Path) -> dict[str, Path]:
        if self._unified:
            return {"": self._root / path}
        return {name: self._root / name / path for name in self._offered}

    def _group(self, machine_id: str, controller: str) -> Path:
        above = self._root if self._unified else self._root / controller
        return above / "godwit" / self._instance / machine_id

    def _ensure(self, groups: Mapping[str, Path], given: Limits) -> tuple[str, ...]:
        settings = settings_v2(given) if self._unified else settings_v1(given)
        for group in groups.values():
            if self._unified:
                self._delegate(group)
            group.mkdir(parents=True, exist_ok=True)
        for controller, group in groups.items():
            _write(group, self._settings_of(controller, settings))
        return tuple(str(group / "cgroup.procs") for group in groups.values())

    def _change(self, machine_id: str, controller: str, settings: Mapping[str, str]) -> None:
        group = self._group(machine_id, controller)
        if controller in self._offered and group.is_dir():
            _write(group, settings)

    def _settings_of(
        self, controller: str, settings: Mapping[str, Mapping[str, str]]
    ) -> dict[str, str]:
        chosen = self._offered if self._unified else [controller]
        return {name: value for each in chosen for name, value in settings[each].items()}

    def _delegate(self, group: Path) -> None:
        wanted = " ".join(f"+{name}" for name in self._offered)
        for above in reversed([p for p in group.parents if p.is_relative_to(self._root)]):
            above.mkdir(exist_ok=True)
            (above / "cgroup.subtree_control").write_text(wanted)


def _write(group: Path, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        try:
            (group / name).write_text(value)
        except OSError as error:
            if name not in _WEIGHTS:
                raise _refused(group / name, value, error) from error
            if (group / name).exists():
                logger.warning("cgroup %s takes no %s: %s", group, name, error.strerror)


def _refused(file: Path, value: str, error: OSError) -> errors.Failure:
    return errors.Failure(
        "unavailable",
        f"the kernel does not take {value} in {file}: {error.strerror}",
        hint="machines only run within their limits; `godwit doctor` looks at the controllers",
    )


def _members(groups: Mapping[str, Path]) -> frozenset[int]:
    found: set[int] = set()
    for group in groups.values():
        try:
            found.update(map(int, (group / "cgroup.procs").read_text().split()))
        except OSError as error:
            # The second: it was removed between opening and reading.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
    return frozenset(found)


async def _end(group: Path) -> None:
    """Ensure a group is gone, and what runs in it; empty ones above it too."""

    def inside() -> frozenset[int]:
        return _members({"": group})

    while not _removed(group):
        for pid in inside():
            running.kill(pid, lambda pid: pid in inside())
        await asyncio.sleep(_PAUSE_S)
    for above in (group.parent, group.parent.parent):
        with contextlib.suppress(OSError):
            above.rmdir()


def _stat(file: Path) -> dict[str, int]:
    try:
        lines = _read(file).decode().splitlines()
    except OSError:
        return {}
    return {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}


def _read(file: Path) -> bytes:
    """Return a small file whole, in a few microseconds: a round reads hundreds."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4_096)
    finally:
        os.close(descriptor)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True
