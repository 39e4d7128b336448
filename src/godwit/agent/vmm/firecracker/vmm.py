"""Firecracker behind the seam that QEMU is behind, too. Implements `hypervisor.Hypervisor`.

A guest that boots is told everything by a file in its jail and starts by itself; one that goes on
from a snapshot is told over its API. The jailer, as root, makes the jail's devices, drops its
rights and becomes Firecracker in the same process, so the machine's shim is the VMM's parent.
The guest's control channel and the VMM's orders arrive on sockets in the jail; the paths that the
seam speaks of are links to them, short enough for a socket's name.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from godwit.agent import ports, slots
from godwit.agent.vmm import hypervisor, running
from godwit.agent.vmm.firecracker import api, bodies, config, jail, programs
from godwit.base import errors, processes

logger = logging.getLogger(__name__)

OVERHEAD_MB: Final = 32
"""What Firecracker takes beside its guest's memory: 5 MB of its own, and what devices queue."""
_BEGIN_S: Final = 20.0
_DRIVER_S: Final = 15.0
_NO_DRIVER: Final = "Device not activated yet"
_POLL_S: Final = 0.005
_LOOK_S: Final = 0.1
"""Between looks at the process table for a Firecracker that does not listen yet."""
_ROOT: Final = range(1)
_NO_DISK_BYTES: Final = 1 << 20
_SAVED_STATE: Final = "saved.state"
_SAVED_MEMORY: Final = "saved.memory"


_RATES: Final = hypervisor.Rates()


class Kit(Protocol):
    """What every guest is booted from (`guestkit.GuestKit`)."""

    @property
    def kernel(self) -> Path:
        """Return the kernel, an uncompressed ELF file."""

    @property
    def initramfs(self) -> Path:
        """Return the archive with init and its modules; its name carries its hash."""


class Firecracker:
    """Firecracker as this host's VMM."""

    def __init__(
        self,
        installed: programs.Programs,
        kit: Kit,
        jails: Path,
        *,
        rates: hypervisor.Rates = _RATES,
        version: str | None = None,
    ) -> None:
        """Take what all guests share.

        Args:
            installed: The programs.
            kit: Kernel and initramfs.
            jails: Directory of jails, on the file system of images and disks.
            rates: What each guest is held to.
            version: What saved guests depend on; `None` asks this host.
        """
        self._installed = installed
        self._kit = kit
        self._jails = jails
        self._rates = rates
        self._build = version or installed.build()

    @property
    def build(self) -> str:
        """Return what saved state depends on."""
        return self._build

    @property
    def boots(self) -> str:
        """Return kernel, initramfs and kernel arguments."""
        return f"{self._kit.kernel} {self._kit.initramfs} {config.kernel_arguments()}"

    @property
    def overhead_mb(self) -> int:
        """Return what a VMM takes beside its guest's memory."""
        return OVERHEAD_MB

    @contextlib.contextmanager
    def launch(self, guest: hypervisor.Guest) -> Iterator[hypervisor.Launch]:
        """Make the guest's jail and the links to its sockets."""
        made = jail.Jail(self._jails, guest.name, guest.uid, self._installed.firecracker)
        made.make()
        tap = self._furnish(made, guest)
        boots = guest.snapshot is None
        if boots:
            made.write(config.CONFIG_FILE, config.cold_boot(guest, tap, self._rates).json_text())
        _link(guest.channel, made.root / config.CHANNEL_SOCKET)
        _link(guest.monitor, made.root / config.API_SOCKET)
        yield hypervisor.Launch(
            argv=made.command(self._installed.jailer, boots=boots),
            uid=0,
            gid=0,
            channel_port=config.CHANNEL_PORT,
        )

    def _furnish(self, made: jail.Jail, guest: hypervisor.Guest) -> str:
        """Link into the jail what the guest works on; return its tap's name."""
        if guest.snapshot is None:
            made.lend(self._kit.kernel, config.KERNEL)
            made.lend(self._kit.initramfs, config.INITRAMFS)
        else:
            made.lend(guest.snapshot.state, config.STATE)
            made.lend(_memory_of(guest.snapshot), config.MEMORY)
        tap = _tap(guest)
        if guest.devices is None:
            slots.create_tap(tap, guest.uid)
            for name in config.disks_of(guest.disks):
                made.write(name, "", size=_NO_DISK_BYTES)
        else:
            made.lend(guest.devices.image, config.ROOT)
            made.give(guest.devices.scratch, config.SCRATCH)
            for disk in guest.disks:
                hand = made.lend if disk in ports.IMAGE_DISKS else made.give
                hand(guest.devices.further[disk], disk)
        return tap

    def is_vmm(self, name: str, uids: range) -> Callable[[int], bool]:
        """Return a test for the guest's Firecracker, and for the jailer before it is one."""
        jailed = running.is_vmm(name, uids, flag=jail.ID_FLAG)
        jailer = running.is_vmm(name, _ROOT, flag=jail.ID_FLAG)
        return lambda pid: jailed(pid) or jailer(pid)

    async def begin(self, guest: hypervisor.Guest) -> None:
        """Have a guest with a snapshot go on; one that boots does so by itself.

        How a boot that failed ended is the shim's to tell.
        """
        try:
            async with asyncio.timeout(_BEGIN_S):
                await self._listens(guest)
                async with api.Api.open(_resolved(guest.monitor)) as asked:
                    if guest.snapshot is not None:
                        await self._go_on(asked, guest)
        except TimeoutError as error:
            raise errors.Failure(
                "deadline_exceeded", f"Firecracker does not run the guest within {_BEGIN_S:g} s"
            ) from error
        except (api.Fault, api.Gone) as error:
            if guest.snapshot is not None:
                raise errors.Failure(
                    "failed_precondition", f"the guest does not go on: {error}"
                ) from error

    async def _listens(self, guest: hypervisor.Guest) -> None:
        """Return once the guest's Firecracker takes orders.

        Raises:
            Gone: There is none any more.
        """
        is_it = self.is_vmm(guest.name, range(guest.uid, guest.uid + 1))
        loop = asyncio.get_running_loop()
        look_at = loop.time() + _LOOK_S
        while not await api.listens(_resolved(guest.monitor)):
            if loop.time() > look_at:
                if not any(is_it(pid) for pid in running.pids()):
                    raise api.Gone("its Firecracker has ended; see the machine's log")
                look_at = loop.time() + _LOOK_S
            await asyncio.sleep(_POLL_S)

    async def _go_on(self, asked: api.Api, guest: hypervisor.Guest) -> None:
        """Bring a guest from wherever it is, after a crash of ours too, to running."""
        state = (await asked.info()).state
        if state == "Not started":
            await asked.load(config.restore(_tap(guest)))
        if state != "Running":
            disks, network = config.rates_of_a_clone(self._rates, guest.disks)
            for disk in disks:
                await asked.set_drive(disk)
            await asked.set_network(network)
            await asked.resume()

    async def pause(self, monitor: Path) -> None:
        """Ensure the guest stands still; what it wrote is in its disks' files by then."""
        async with _orders(monitor) as asked:
            await asked.pause()

    async def go_on(self, monitor: Path) -> None:
        """Ensure a guest that stood still runs on."""
        async with _orders(monitor) as asked:
            await asked.resume()

    async def save(self, monitor: Path, into: hypervisor.Snapshot) -> hypervisor.Snapshot:
        """Save a guest that stands still, into files that are new.

        The memory it goes on from may be the file of its last snapshot, mapped: that one is never
        written to. All of the memory is written; what is zero in it takes no room afterwards.
        """
        memory = into.memory or into.state.with_name(f"{into.state.name}.memory")
        root = _resolved(monitor).parent
        given = {_SAVED_STATE: into.state, _SAVED_MEMORY: memory}
        await asyncio.to_thread(_give_new, root, given)
        async with _orders(monitor) as asked:
            await asked.save(
                bodies.SnapshotCreate(
                    snapshot_path=config.jailed(_SAVED_STATE),
                    mem_file_path=config.jailed(_SAVED_MEMORY),
                )
            )
        await asyncio.to_thread(_take_back, root, given)
        await _dig_holes(memory)
        return hypervisor.Snapshot(state=into.state, memory=memory)

    async def set_balloon(self, monitor: Path, target_mb: int) -> None:
        """Have the guest keep that much of its memory and give the rest back.

        A guest that has just begun is waited for: its driver is not there yet.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _DRIVER_S
        async with _orders(monitor) as asked:
            whole = (await asked.machine_config()).mem_size_mib
            while True:
                try:
                    return await asked.set_balloon(max(0, whole - target_mb))
                except api.Fault as fault:
                    if _NO_DRIVER not in fault.message or loop.time() > deadline:
                        raise
                await asyncio.sleep(_POLL_S)

    async def balloon_mb(self, monitor: Path) -> int:
        """Return how much memory the guest has now."""
        async with _orders(monitor) as asked:
            whole = (await asked.machine_config()).mem_size_mib
            return whole - (await asked.balloon_stats()).actual_mib

    def clean(self, name: str) -> None:
        """Ensure nothing is left of what `launch` made; its VMM has ended."""
        jail.remove(self._jails, name)
        jail.remove_tap(jail.tap_of_template(name))


def _tap(guest: hypervisor.Guest) -> str:
    return jail.tap_of_template(guest.name) if guest.devices is None else guest.devices.tap


def _memory_of(snapshot: hypervisor.Snapshot) -> Path:
    """Return the file with a saved guest's memory.

    Raises:
        Failure: `failed_precondition` it has none: another VMM saved it.
    """
    if snapshot.memory is None:
        raise errors.Failure("failed_precondition", "the snapshot is not one of Firecracker's")
    return snapshot.memory


def _link(path: Path, target: Path) -> None:
    """Let a short path stand for a socket in a jail."""
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _resolved(link: Path) -> Path:
    """Return where a socket in a jail lies.

    Raises:
        Gone: There is no jail.
    """
    try:
        return link.readlink()
    except OSError as error:
        raise api.Gone(f"no VMM takes orders at {link}: {error.strerror}") from error


@contextlib.asynccontextmanager
async def _orders(monitor: Path) -> AsyncIterator[api.Api]:
    """Yield the API of a VMM that runs; whatever goes wrong is a failure in words.

    Raises:
        Failure: `failed_precondition` nobody is there, `deadline_exceeded`, `internal` it refused.
    """
    try:
        async with api.Api.open(_resolved(monitor)) as asked:
            yield asked
    except api.Gone as error:
        raise errors.Failure("failed_precondition", str(error)) from error
    except api.Fault as error:
        raise errors.Failure("internal", str(error)) from error


async def _dig_holes(path: Path) -> None:
    """Give back what a file's zeros take of the disk; a file system that cannot is let be."""
    command = ["fallocate", "--dig-holes", str(path)]
    dug = await processes.run(command, timeout_s=api.SAVE_S, check=False)
    if dug.exit_code:
        logger.info("%s stays as large as it is: %s", path, dug.stderr.decode(errors="replace"))


def _give_new(root: Path, given: Mapping[str, Path]) -> None:
    """Make new files outside a jail that its VMM can write by their names inside."""
    owner = root.stat().st_uid
    for name, path in given.items():
        path.unlink(missing_ok=True)
        (root / name).unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.fchown(descriptor, owner, owner)
        finally:
            os.close(descriptor)
        os.link(path, root / name)


def _take_back(root: Path, given: Mapping[str, Path]) -> None:
    """Make the files root's again, on disk for good, and no longer the VMM's to name."""
    for name, path in given.items():
        (root / name).unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fchown(descriptor, 0, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
