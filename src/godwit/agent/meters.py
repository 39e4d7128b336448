"""What machines have used, as the kernel counts it: a port and its adapter.

A counter is absolute and begins anew with what it belongs to (a boot's cgroup, a tap), so each
comes with what tells one generation from the next; `machines.usage` adds up the differences.
"""

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from godwit.agent import slots

_DEVICES = Path("/proc/thread-self/net/dev")
_HEADER_LINES = 2
_RECEIVED, _SENT = 0, 8
_BLOCK = 512


@dataclass(frozen=True)
class Reading:
    """One machine's counters at one time.

    Attributes:
        cpu_us: CPU time of its VMM.
        cpu_of: Which boot that is of.
        bytes_in: Towards the guest.
        bytes_out: From the guest.
        bytes_of: Which tap they are of.
        disk_bytes: What its disks take up now.
    """

    cpu_us: int = 0
    cpu_of: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    bytes_of: int = 0
    disk_bytes: int = 0


class Meter(Protocol):
    """Reads counters."""

    def read(self, machines: Mapping[str, int]) -> dict[str, Reading]:
        """Return the counters of machines, given by id with their slots; some µs for each.

        A machine of which nothing runs reads 0 throughout.
        """


class NoMeter:
    """Reads 0 throughout: a host without counters, and most tests."""

    def read(self, machines: Mapping[str, int]) -> dict[str, Reading]:
        """Return nothing used for every machine."""
        return dict.fromkeys(machines, Reading())


class Groups(Protocol):
    """The kernel's CPU counters (`vmm.cgroups.Cgroups`)."""

    def used_us(self, machine_id: str) -> int | None:
        """Return the CPU time used; `None` when there is no counter."""

    def generation(self, machine_id: str) -> int:
        """Return what tells this boot's counter from another's."""


class HostMeter:
    """The counters of this host's kernel."""

    def __init__(self, groups: Groups, machines: Path) -> None:
        """Take where counters are.

        Args:
            groups: CPU.
            machines: The directory of machines' directories, for their disks.
        """
        self._groups = groups
        self._machines = machines

    def read(self, machines: Mapping[str, int]) -> dict[str, Reading]:
        """Return the counters of machines, given by id with their slots."""
        if not machines:
            return {}
        traffic = traffic_of(_DEVICES.read_text().splitlines())
        links = {name: index for index, name in socket.if_nameindex()}
        found = {}
        for machine_id, slot in machines.items():
            tap = slots.tap_name(slot)
            # What the host sends into a tap is what the guest receives.
            bytes_out, bytes_in = traffic.get(tap, (0, 0))
            found[machine_id] = Reading(
                cpu_us=self._groups.used_us(machine_id) or 0,
                cpu_of=self._groups.generation(machine_id),
                bytes_in=bytes_in,
                bytes_out=bytes_out,
                bytes_of=links.get(tap, 0),
                disk_bytes=_held(self._machines / machine_id),
            )
        return found


def traffic_of(lines: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return bytes received and sent by interface, from the lines of `/proc/net/dev`."""
    found = {}
    for line in list(lines)[_HEADER_LINES:]:
        name, _, rest = line.partition(":")
        fields = rest.split()
        found[name.strip()] = (int(fields[_RECEIVED]), int(fields[_SENT]))
    return found


def _held(directory: Path) -> int:
    """Return the space that a machine's disks take up."""
    total = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(".ext4"):
                    total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
    except OSError:
        return total
    return total
