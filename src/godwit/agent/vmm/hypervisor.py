"""The seam between machines' directories and whatever runs guests: one VMM behind one protocol.

`agent.vmm.driver` owns directories, shims and snapshots and calls this; `agent.vmm.qemu` and its
Firecracker twin implement it. A VMM is started by the machine's shim, works on descriptors it
inherits, and takes orders on a socket of its own, the monitor. Every verb has a deadline.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from godwit.agent import ports
from godwit.wire import host_rpc

Start = Literal["cold", "warm", "resumed"]
"""A kernel is booted; a clone of a template goes on; a suspended machine goes on."""


@dataclass(frozen=True)
class Snapshot:
    """A saved guest.

    Attributes:
        state: Processors and devices; the memory too where it has no file.
        memory: The guest's memory, byte for byte.
    """

    state: Path
    memory: Path | None


@dataclass(frozen=True)
class Devices:
    """What lies behind a guest's devices.

    Attributes:
        tap: Name of the host's end of its interface.
        further: Files of the disks beside root and scratch.
    """

    image: Path
    scratch: Path
    tap: str
    further: Mapping[ports.FurtherDisk, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Rates:
    """What a VMM holds its guest to; 0 lifts a limit.

    Attributes:
        root_iops: Reads and writes a second of its own disks.
        root_bytes_s: Bytes read and written a second.
        root_burst_bytes: What a rested guest may read and write beyond that at once: a start.
        network_bytes_s: Each way.
    """

    root_iops: int = 2_000
    root_bytes_s: int = 8 << 20
    root_burst_bytes: int = 256 << 20
    network_bytes_s: int = 0


@dataclass(frozen=True)
class Guest:
    """One guest, as its VMM is told of it.

    Attributes:
        name: Machine's id, or a template's name; found again in the process table by it.
        slot: Names its hardware address.
        uid: User its VMM runs under.
        channel: Where the control channel is to be reached.
        monitor: Where its VMM is to take orders.
        disks: Those beside root and scratch.
        kernel_arguments: Beyond the platform's own.
        lasting_root: What it flushes to its scratch disk is to reach the platter.
        devices: `None` for a template: the same devices with nothing behind them.
        snapshot: What it goes on from; `None` boots a kernel. A template's files are only read.
        own_memory: File that is to hold its memory, so that saving it takes no copy; it is there
            already when the snapshot has a memory file. A VMM that cannot may ignore it.
    """

    name: str
    slot: int
    uid: int
    resources: host_rpc.Resources
    channel: Path
    monitor: Path
    disks: tuple[ports.FurtherDisk, ...] = ()
    kernel_arguments: tuple[str, ...] = ()
    lasting_root: bool = False
    devices: Devices | None = None
    snapshot: Snapshot | None = None
    own_memory: Path | None = None


@dataclass(frozen=True)
class Launch:
    """How a VMM process is started.

    Attributes:
        gid: Group it runs under; a jailer that drops rights by itself is started as root.
        descriptors: Its numbers and ours, open while the context lasts.
        channel_port: Port the guest listens on when the channel socket multiplexes (vsock);
            `None` when the socket is the channel.
    """

    argv: tuple[str, ...]
    uid: int
    gid: int
    descriptors: dict[int, int] = field(default_factory=dict)
    channel_port: int | None = None


class Hypervisor(Protocol):
    """A virtual machine monitor."""

    @property
    def build(self) -> str:
        """Return what saved state depends on: VMM, its build, how it runs instructions."""

    @property
    def boots(self) -> str:
        """Return what a booted guest depends on: kernel, initramfs, kernel arguments."""

    @property
    def overhead_mb(self) -> int:
        """Return what a VMM takes beside its guest's memory."""

    def launch(self, guest: Guest) -> AbstractContextManager[Launch]:
        """Open what the VMM works on and make its sockets, for the time of starting it.

        Raises:
            OSError: Something of it cannot be opened.
            Failure: `invalid_argument`: a socket's path is too long.
        """

    def is_vmm(self, name: str, uids: range) -> Callable[[int], bool]:
        """Return a test for the process that runs a guest, under one of our own users."""

    def clean(self, name: str) -> None:
        """Ensure nothing is left of what `launch` made for a guest whose VMM has ended; blocks."""

    async def begin(self, guest: Guest) -> None:
        """Have a started VMM run its guest; returns when it does. Idempotent.

        Raises:
            Failure: `failed_precondition`: it ended or refused, as with a snapshot it cannot use;
                `deadline_exceeded`.
        """

    async def pause(self, monitor: Path) -> None:
        """Ensure the guest stands still and its disks' files hold what it wrote.

        Raises:
            Failure: As all that follow: `failed_precondition` when no VMM takes orders there,
                `deadline_exceeded`, `internal` when it refuses.
        """

    async def go_on(self, monitor: Path) -> None:
        """Ensure a guest that stood still runs on."""

    async def save(self, monitor: Path, into: Snapshot) -> Snapshot:
        """Save a guest that stands still; return the files that hold it then.

        Args:
            monitor: Its VMM's.
            into: Where to. Memory with a file of its own stays there and is the one returned.
        """

    async def set_balloon(self, monitor: Path, target_mb: int) -> None:
        """Have the guest keep that much of its memory and give the rest back."""

    async def balloon_mb(self, monitor: Path) -> int:
        """Return how much memory the guest has now."""
