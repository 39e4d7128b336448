"""QEMU's `microvm` behind the seam. Implements `hypervisor.Hypervisor`.

The VMM opens nothing by name: kernel, disks, memory, tap and sockets reach it as descriptors, so
its user needs no right to any path, and its sandbox lets it start nothing. Device slots are fixed:
a guest restored from a template finds its devices where the template had them.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from godwit.agent import ports, slots
from godwit.agent.vmm import hypervisor, probe, qmp, running, sockets
from godwit.base import errors

logger = logging.getLogger(__name__)

CONTROL_PORT = "godwit.control"
OVERHEAD_MB = {"kvm": 96, "tcg": 256}
"""What QEMU takes beside the guest's memory; under emulation its translations are the most."""
_MACHINE = "microvm,acpi=on,rtc=on,isa-serial=on,pit=on,pic=on,dump-guest-core=off"
"""A core dump of the VMM would hold what the guest holds."""
_TRANSLATIONS_MB = 128
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_SLOTS = (
    *("channel", "net", "root", "scratch", "volume", "swap", "cache", "balloon"),
    *ports.IMAGE_DISKS,
)
"""Devices in the order of their virtio-mmio transports, of which a `microvm` has 24; `volume` is
for what comes. Own disks are on those of images, from the last."""
_SHARED_SLOTS: dict[str, str] = dict(
    zip(ports.OWN_DISKS, reversed(ports.IMAGE_DISKS), strict=True)
)
_FURTHER = ("swap", "cache", *ports.IMAGE_DISKS, *ports.OWN_DISKS)
_FIRST_TRANSPORT = 8
"""A device on transport 0 is not found by the guest (QEMU 7.2, acpi=on)."""
_TEMPLATE_MAC = "02:67:00:00:00:00"
_NOTHING_BYTES = 2047 * 512
"""Size of a template's disks, by which init knows them (`NOTHING` in its disks.rs)."""
_DEVICES_EARLY = "godwit.devices=early"
"""A copy's disks are announced to its drivers, so a template may have met them."""
_BEGIN_S = 20.0
_SAVE_S = 120.0
_POLL_S = 0.02
_MB = 1 << 20
_PACE = "pace"
_OPERATION_BYTES = 16_384
_MEMORY_APART = "x-ignore-shared"
_ENDED = frozenset({"completed", "failed", "cancelled"})


class Kit(Protocol):
    """What every guest is booted from (`guestkit.GuestKit`)."""

    @property
    def kernel(self) -> Path:
        """Return the kernel."""

    @property
    def initramfs(self) -> Path:
        """Return the archive with init and its modules."""

    @property
    def tsc_khz(self) -> int:
        """Return the rate of this host's time-stamp counter."""


@dataclass(frozen=True)
class Descriptors:
    """Numbers under which the VMM inherits what it works on."""

    kernel: int = 3
    initramfs: int = 4
    image: int = 5
    scratch: int = 6
    tap: int = 7
    channel: int = 8
    monitor: int = 9
    memory: int = 10
    further_disks: int = 11

    def further(self, disk: ports.FurtherDisk) -> int:
        """Return the number of a disk beside root and scratch."""
        return self.further_disks + _FURTHER.index(disk)


class Qemu:
    """QEMU on this host."""

    def __init__(
        self,
        kit: Kit,
        accelerator: probe.Accelerator,
        rates: hypervisor.Rates | None = None,
    ) -> None:
        """Take what all guests of this host share; traffic is paced by the host's network."""
        self._kit = kit
        self._accelerator = accelerator
        self._rates = rates or hypervisor.Rates()

    @property
    def build(self) -> str:
        """Return accelerator and program: a package that is installed again keeps its dates."""
        found = Path(probe.QEMU).stat()
        return f"qemu {self._accelerator.kind} {found.st_size} {found.st_mtime_ns}"

    @property
    def boots(self) -> str:
        """Return kernel, initramfs (its name carries its hash) and kernel arguments."""
        arguments = kernel_arguments(self._kit, self._accelerator)
        return f"{self._kit.kernel} {self._kit.initramfs} {arguments}"

    @property
    def overhead_mb(self) -> int:
        """Return what QEMU takes beside its guest's memory."""
        return OVERHEAD_MB[self._accelerator.kind]

    @contextlib.contextmanager
    def launch(self, guest: hypervisor.Guest) -> Iterator[hypervisor.Launch]:
        """Open what the VMM works on; see `hypervisor.Hypervisor`."""
        given = Descriptors()
        group = self._accelerator.group
        with contextlib.ExitStack() as stack:
            opened = {number: make() for number, make in self._openers(guest, given, stack)}
            yield hypervisor.Launch(
                argv=command(guest, self._kit, self._accelerator, given, rates=self._rates),
                uid=guest.uid,
                gid=guest.uid if group is None else group,
                descriptors=opened,
            )

    def _openers(
        self, guest: hypervisor.Guest, given: Descriptors, stack: contextlib.ExitStack
    ) -> Iterator[tuple[int, Callable[[], int]]]:
        def held(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        def file(path: Path, flags: int) -> Callable[[], int]:
            return lambda: held(os.open(path, flags))

        yield given.channel, lambda: held(sockets.listen(guest.channel))
        yield given.monitor, lambda: held(sockets.listen(guest.monitor))
        if guest.snapshot is None:
            yield given.kernel, file(self._kit.kernel, os.O_RDONLY)
            yield given.initramfs, file(self._kit.initramfs, os.O_RDONLY)
        memory = _memory_file(guest)
        if memory is not None:
            if guest.snapshot is None or guest.snapshot.memory is None:
                make_memory(memory, guest.resources.memory_mb)
            yield given.memory, file(memory, os.O_RDONLY)
        if guest.devices is not None:
            devices = guest.devices
            yield given.image, file(devices.image, os.O_RDONLY)
            yield given.scratch, file(devices.scratch, os.O_RDWR)
            yield given.tap, lambda: held(slots.open_tap(devices.tap))
            for disk in guest.disks:
                access = os.O_RDONLY if disk in ports.IMAGE_DISKS else os.O_RDWR
                yield given.further(disk), file(devices.further[disk], access)
        else:
            yield given.image, lambda: held(_nothing())
            yield given.scratch, lambda: held(_nothing())
            yield given.tap, lambda: held(slots.open_passing_tap())
            for disk in guest.disks:
                yield given.further(disk), lambda: held(_nothing())

    def is_vmm(self, name: str, uids: range) -> Callable[[int], bool]:
        """Return a test for a guest's process."""
        return running.is_vmm(name, uids)

    def clean(self, name: str) -> None:
        """Leave nothing, for nothing was made: descriptors ended with their VMM."""

    async def begin(self, guest: hypervisor.Guest) -> None:
        """Have a guest with a snapshot go on; one that boots needs no word."""
        if guest.snapshot is None:
            return
        try:
            async with qmp.connected(guest.monitor) as monitor:
                await self._load(monitor, guest.snapshot)
        except errors.Failure as error:
            code = "failed_precondition" if error.code == "internal" else error.code
            raise errors.Failure(code, f"the guest does not go on: {error.message}") from error

    async def _load(self, monitor: qmp.Monitor, snapshot: hypervisor.Snapshot) -> None:
        with _opened(snapshot.state, os.O_RDONLY) as state:
            answers = await monitor.run(
                qmp.capabilities({_MEMORY_APART: snapshot.memory is not None}),
                qmp.Command("migrate-set-parameters", {"announce-rounds": 0}),
                qmp.Command("getfd", {"fdname": "state"}, descriptor=state),
                qmp.Command("query-status"),
                within_s=_BEGIN_S,
            )
        status = answers[-1]["status"]
        if status == "inmigrate":
            await monitor.run(qmp.Command("migrate-incoming", {"uri": "fd:state"}))
            await monitor.event(("RESUME",), within_s=_BEGIN_S)
        elif status != "running":
            raise errors.Failure("failed_precondition", f"it is {status}")

    async def pause(self, monitor: Path) -> None:
        """Stop the virtual processors; QEMU writes out what its disks have pending."""
        async with qmp.connected(monitor) as vmm:
            await vmm.run(qmp.Command("stop"))

    async def go_on(self, monitor: Path) -> None:
        """Let the virtual processors run."""
        async with qmp.connected(monitor) as vmm:
            await vmm.run(qmp.Command("cont"))

    async def save(self, monitor: Path, into: hypervisor.Snapshot) -> hypervisor.Snapshot:
        """Write the state to a file, with the memory unless that has a file of its own."""
        async with qmp.connected(monitor) as vmm:
            await _end_earlier_saving(vmm)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with _opened(into.state, flags) as state:
            async with qmp.connected(monitor) as vmm:
                own = await _has_memory_file(vmm)
                await _announce_other_disks(vmm)
                await vmm.run(
                    qmp.capabilities({"events": True, _MEMORY_APART: own}),
                    qmp.Command("migrate-set-parameters", {"max-bandwidth": 1 << 40}),
                    qmp.Command("getfd", {"fdname": "state"}, descriptor=state),
                )
                await vmm.run(qmp.Command("migrate", {"uri": "fd:state"}))
                await _migrated(vmm)
            os.fsync(state)
        return into if own else hypervisor.Snapshot(into.state, None)

    async def set_balloon(self, monitor: Path, target_mb: int) -> None:
        """Set the balloon's target; the guest follows when it can."""
        async with qmp.connected(monitor) as vmm:
            await vmm.run(qmp.Command("balloon", {"value": target_mb * _MB}))

    async def balloon_mb(self, monitor: Path) -> int:
        """Return how much memory the guest has now."""
        async with qmp.connected(monitor) as vmm:
            (answer,) = await vmm.run(qmp.Command("query-balloon"))
        return int(answer["actual"]) // _MB


async def _end_earlier_saving(vmm: qmp.Monitor) -> None:
    """End what an agent began that did not live to see it through.

    A guest that was saved whole is not saved again before it was told to go on. It is asleep, and
    at once it stands still again.
    """
    (earlier,) = await vmm.run(qmp.Command("query-migrate"))
    status = earlier.get("status", "none")
    if status == "none":
        return
    if status not in _ENDED:
        await vmm.run(qmp.Command("migrate_cancel"))
    async with asyncio.timeout(_SAVE_S):
        while status not in _ENDED:
            await asyncio.sleep(_POLL_S)
            (earlier,) = await vmm.run(qmp.Command("query-migrate"))
            status = earlier["status"]
    if status == "completed":
        await vmm.run(qmp.Command("cont"))
    await vmm.run(qmp.Command("stop"))


async def _has_memory_file(vmm: qmp.Monitor) -> bool:
    """Tell whether the guest writes its memory straight to a file."""
    asked = qmp.Command("qom-get", {"path": "/objects/memory", "property": "share"})
    return bool((await vmm.run(asked))[0])


async def _announce_other_disks(vmm: qmp.Monitor) -> None:
    """Have every copy of a template ask its disks for their size before anything else.

    Another size raises the interrupt that says so, and it is saved before the guest can take it.
    """
    (nodes,) = await vmm.run(qmp.Command("query-named-block-nodes", {"flat": True}))
    for node in nodes:
        name, size = node["node-name"], node["image"]["virtual-size"]
        if name in (*_SLOTS, *_SHARED_SLOTS) and size == _NOTHING_BYTES:
            resize = {"node-name": name, "size": _NOTHING_BYTES + 512}
            await vmm.run(qmp.Command("block_resize", resize))


def _nothing() -> int:
    """Return a disk of no use."""
    descriptor = os.memfd_create("nothing", os.MFD_CLOEXEC)
    os.truncate(descriptor, _NOTHING_BYTES)
    return descriptor


async def _migrated(vmm: qmp.Monitor) -> None:
    """Return once the state is written.

    Raises:
        Failure: `internal` it failed.
    """
    while True:
        said = await vmm.event(("MIGRATION",), within_s=_SAVE_S)
        status = said["data"]["status"]
        if status == "completed":
            return
        if status in _ENDED:
            raise errors.Failure("internal", f"saving the guest ended as {status}")


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_memory(path: Path, size_mb: int) -> None:
    """Make an empty memory file, in place of whatever is there.

    Its VMM opens it anew by its own descriptor, as another user: the file is everybody's, in a
    directory that only root can enter.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.truncate(descriptor, size_mb * _MB)
        os.fchmod(descriptor, 0o666)
    finally:
        os.close(descriptor)


def command(
    guest: hypervisor.Guest,
    kit: Kit,
    accelerator: probe.Accelerator,
    given: Descriptors = Descriptors(),
    *,
    rates: hypervisor.Rates | None = None,
) -> tuple[str, ...]:
    """Return program and arguments."""
    real = guest.devices is not None
    group = _group(rates or hypervisor.Rates()) if real else None
    scratch = _SYNCED if guest.lasting_root else _NEVER
    return (
        *(probe.QEMU, "-name", running.vm_name(guest.name)),
        *("-M", f"{_MACHINE},memory-backend=memory"),
        *_processor(accelerator),
        *("-smp", str(guest.resources.cpus), "-m", f"{guest.resources.memory_mb}M"),
        *("-object", _memory(guest, given)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-sandbox", _SANDBOX),
        *("-global", "virtio-mmio.force-legacy=false"),
        *("-global", "migration.store-global-state=off"),
        *_boot(guest, kit, accelerator, given),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,fd={given.monitor},server=on,wait=off"),
        *("-mon", "chardev=monitor,mode=control"),
        *_channel(given.channel),
        *_network(guest, given.tap),
        *_balloon(guest),
        *(("-object", group) if group else ()),
        *_disk("root", given.image, number=1, kind=_IMAGE if real else _NEVER, paced=bool(group)),
        *_disk("scratch", given.scratch, number=2, kind=scratch, paced=bool(group)),
        *itertools.chain.from_iterable(
            _disk(
                name,
                given.further(name),
                number=number,
                kind=_IMAGE if real and name in ports.IMAGE_DISKS else _NEVER,
                paced=bool(group),
            )
            for number, name in enumerate(guest.disks, start=3)
        ),
    )


def kernel_arguments(kit: Kit, accelerator: probe.Accelerator) -> str:
    """Return the guest kernel's command line.

    Under emulation the rate of the time-stamp counter is told, or half of the boots would hang
    calibrating it on a busy host; under KVM the paravirtual clock tells it.
    """
    arguments = ["console=ttyS0", "reboot=t", "panic=-1", "quiet", _DEVICES_EARLY]
    if accelerator.kind == "tcg":
        arguments.append(f"tsc_early_khz={kit.tsc_khz}")
    return " ".join(arguments)


def _boot(
    guest: hypervisor.Guest, kit: Kit, accelerator: probe.Accelerator, given: Descriptors
) -> tuple[str, ...]:
    """Return what the guest begins with: a kernel, or a state that is yet to come."""
    if guest.snapshot is not None:
        return ("-incoming", "defer")
    return (
        *("-kernel", f"/proc/self/fd/{given.kernel}"),
        *("-initrd", f"/proc/self/fd/{given.initramfs}"),
        *("-append", " ".join((kernel_arguments(kit, accelerator), *guest.kernel_arguments))),
    )


def _memory_file(guest: hypervisor.Guest) -> Path | None:
    if guest.own_memory is not None:
        return guest.own_memory
    return guest.snapshot.memory if guest.snapshot is not None else None


def _memory(guest: hypervisor.Guest, given: Descriptors) -> str:
    """Return the backing of the guest's memory; of a template's file it gets a private view."""
    size = f"id=memory,size={guest.resources.memory_mb}M"
    if _memory_file(guest) is None:
        return f"memory-backend-ram,{size}"
    share = "off" if guest.own_memory is None else "on"
    return f"memory-backend-file,{size},mem-path=/proc/self/fd/{given.memory},share={share}"


def _processor(accelerator: probe.Accelerator) -> tuple[str, ...]:
    if accelerator.kind == "kvm":
        return ("-accel", "kvm", "-cpu", "host")
    translations = f"tcg,thread=multi,tb-size={_TRANSLATIONS_MB}"
    return ("-accel", translations, "-cpu", "max,la57=off")


def _channel(descriptor: int) -> tuple[str, ...]:
    serial = f"virtio-serial-device,id=channel,max_ports=2,bus={_bus('channel')}"
    port = f"virtserialport,bus=channel.0,nr=1,chardev=control,name={CONTROL_PORT}"
    socket = f"socket,id=control,fd={descriptor},server=on,wait=off"
    return ("-chardev", socket, "-device", serial, "-device", port)


def _network(guest: hypervisor.Guest, descriptor: int) -> tuple[str, ...]:
    mac = _TEMPLATE_MAC if guest.devices is None else slots.guest_mac(guest.slot)
    device = f"virtio-net-device,netdev=net,mac={mac},bus={_bus('net')}"
    return ("-netdev", f"tap,id=net,fd={descriptor},vhost=off", "-device", device)


def _balloon(guest: hypervisor.Guest) -> tuple[str, ...]:
    """Return the balloon of a guest that may grow.

    No other has one: QEMU gives a page back by a hole in the memory's file, also where the guest
    has only a private view of it. Into a template's file no guest may punch holes.
    """
    only_a_view = guest.own_memory is None and _memory_file(guest) is not None
    if only_a_view or not guest.resources.max_memory_mb:
        return ()
    device = f"virtio-balloon-device,id=balloon,free-page-reporting=on,bus={_bus('balloon')}"
    return ("-device", device)


def _group(rates: hypervisor.Rates) -> str | None:
    """Return the bucket that the root's disks share, `None` when nothing is limited.

    It is full at first and fills at the rate; an operation counts as 16 KB of a burst.
    """
    limits: dict[str, int] = {}
    for name, rate, burst in (
        ("iops-total", rates.root_iops, rates.root_burst_bytes // _OPERATION_BYTES),
        ("bps-total", rates.root_bytes_s, rates.root_burst_bytes),
    ):
        if rate:
            limits[name] = rate
            limits[f"{name}-max"] = max(rate, burst)
    if not limits:
        return None
    return json.dumps({"qom-type": "throttle-group", "id": _PACE, "limits": limits})


_IMAGE = ("read-only=on", "file.locking=off")
_NEVER = ("discard=unmap", "cache.no-flush=on")
_SYNCED = ("discard=unmap", "cache.no-flush=off")
"""Kinds of disks: read by many at once; never synced; synced when the guest says so."""


def _disk(
    name: str, descriptor: int, *, number: int, kind: tuple[str, str], paced: bool
) -> tuple[str, ...]:
    """Return a disk named by its serial.

    A host without room fails the guest's write: QEMU would stop the guest for ever otherwise.
    """
    device = f"virtio-blk-device,drive={name},serial={name},bus={_bus(name)},werror=report"
    access, cache = kind
    node = f"{name}-file" if paced else name
    backing = f"driver=raw,node-name={node},file.driver=file,file.filename=/dev/fdset/{number}"
    filters: tuple[str, ...] = ()
    if paced:
        pace = f"driver=throttle,node-name={name},throttle-group={_PACE},file={node},{access}"
        filters = ("-blockdev", pace)
    return (
        *("-add-fd", f"fd={descriptor},set={number}"),
        *("-blockdev", f"{backing},{access},{cache}", *filters, "-device", device),
    )


def _bus(device: str) -> str:
    slot = _SLOTS.index(_SHARED_SLOTS.get(device, device))
    return f"virtio-mmio-bus.{_FIRST_TRANSPORT + slot}"
