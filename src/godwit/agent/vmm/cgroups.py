"""What a machine may take from its host, held by cgroups of version 1 or 2.

Each machine has one group `godwit/<instance>/<machine_id>` (in version 1, one per controller).
The shim puts the VMM there before it executes; nothing else ever goes in, so whatever is in a
machine's group is its VMM and may be killed.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from godwit.agent.vmm import running
from godwit.wire import host_rpc

logger = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "cpu", "pids")
_PERIOD_US = 100_000
_IO_CPU_US = 50_000
"""CPU time of a period that a VMM may use beside its virtual CPUs, for disks and network."""
_SHARED_PART = 16
"""A shared vCPU's baseline is 1/16 of a CPU (spec/machines.md §6)."""
_VMM_TASKS = 128
"""Threads: virtual CPUs, and up to 64 for disk I/O."""
_MB = 1_048_576
_REMOVE_S = 5.0
_PAUSE_S = 0.01


@dataclass(frozen=True)
class Limits:
    """Limits in neither version's units.

    Attributes:
        cpu_us: CPU time in each period of 100 ms.
        cpu_part: What it gets when CPUs are short, in sixteenths of one.
    """

    memory_bytes: int
    cpu_us: int
    cpu_part: int
    tasks: int = _VMM_TASKS


def limits(resources: host_rpc.Resources, overhead_mb: int) -> Limits:
    """Return the limits of a machine whose VMM needs `overhead_mb` beside the guest's memory."""
    part = 1 if resources.cpu_kind == "shared" else _SHARED_PART
    return Limits(
        memory_bytes=(resources.memory_mb + overhead_mb) * _MB,
        cpu_us=resources.cpus * _PERIOD_US + _IO_CPU_US,
        cpu_part=resources.cpus * part,
        tasks=_VMM_TASKS + resources.cpus,
    )


def settings_v1(given: Limits) -> dict[str, dict[str, str]]:
    """Return file and content by controller, in the order they are to be written."""
    return {
        "memory": {"memory.limit_in_bytes": str(given.memory_bytes), "memory.swappiness": "0"},
        "cpu": {
            "cpu.cfs_period_us": str(_PERIOD_US),
            "cpu.cfs_quota_us": str(given.cpu_us),
            "cpu.shares": str(max(2, given.cpu_part * 1024 // _SHARED_PART)),
        },
        "pids": {"pids.max": str(given.tasks)},
    }


def settings_v2(given: Limits) -> dict[str, dict[str, str]]:
    """Return file and content by controller, in the order they are to be written."""
    return {
        "memory": {"memory.max": str(given.memory_bytes), "memory.swap.max": "0"},
        "cpu": {
            "cpu.max": f"{given.cpu_us} {_PERIOD_US}",
            "cpu.weight": str(min(10_000, max(1, given.cpu_part * 100 // _SHARED_PART))),
        },
        "pids": {"pids.max": str(given.tasks)},
    }


class Cgroups:
    """The groups of one Godwit's machines.

    Attributes:
        lacking: Controllers this host does not offer; machines run without those limits.
    """

    def __init__(self, instance: str, root: Path = ROOT) -> None:
        self._instance = instance
        self._root = root
        self._unified = (root / "cgroup.controllers").exists()
        if self._unified:
            offered = (root / "cgroup.controllers").read_text().split()
        else:
            offered = [name for name in _CONTROLLERS if (root / name / "cgroup.procs").exists()]
        self._offered = [name for name in _CONTROLLERS if name in offered]
        self.lacking = [name for name in _CONTROLLERS if name not in offered]

    def ensure(self, machine_id: str, given: Limits) -> tuple[str, ...]:
        """Ensure a machine's groups; return the files a pid is written to."""
        settings = settings_v2(given) if self._unified else settings_v1(given)
        for group in self._groups(machine_id).values():
            if self._unified:
                self._delegate(group)
            group.mkdir(parents=True, exist_ok=True)
        for controller, group in self._groups(machine_id).items():
            self._write(group, self._settings_of(controller, settings))
        return tuple(str(group / "cgroup.procs") for group in self._groups(machine_id).values())

    def members(self, machine_id: str) -> frozenset[int]:
        """Return the pids in a machine's groups."""
        found: set[int] = set()
        for group in self._groups(machine_id).values():
            with contextlib.suppress(FileNotFoundError):
                found.update(map(int, (group / "cgroup.procs").read_text().split()))
        return frozenset(found)

    async def remove(self, machine_id: str) -> None:
        """Ensure a machine's groups are gone, and what runs in them; empty ones above them too.

        Raises:
            TimeoutError: Something in them does not die.
        """
        async with asyncio.timeout(_REMOVE_S):
            for group in self._groups(machine_id).values():
                while not _removed(group):
                    for pid in self.members(machine_id):
                        running.kill(pid, lambda pid: pid in self.members(machine_id))
                    await asyncio.sleep(_PAUSE_S)
                for above in (group.parent, group.parent.parent):
                    with contextlib.suppress(OSError):
                        above.rmdir()

    def machines(self) -> frozenset[str]:
        """Return the ids of machines that have a group."""
        found: set[str] = set()
        for group in self._groups("").values():
            if group.is_dir():
                found.update(entry.name for entry in group.iterdir() if entry.is_dir())
        return frozenset(found)

    def _groups(self, machine_id: str) -> dict[str, Path]:
        path = Path("godwit") / self._instance / machine_id
        if self._unified:
            return {"": self._root / path}
        return {name: self._root / name / path for name in self._offered}

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

    def _write(self, group: Path, settings: Mapping[str, str]) -> None:
        for name, value in settings.items():
            try:
                (group / name).write_text(value)
            except OSError as error:
                logger.warning("cgroup %s takes no %s: %s", group, name, error.strerror)


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
