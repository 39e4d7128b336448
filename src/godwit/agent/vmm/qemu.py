"""The QEMU command line of one machine. Pure.

The VMM opens nothing by name: kernel, disks, tap and control socket reach it as descriptors, so
its user needs no right to any path. Device slots are fixed, because a guest that is one day
restored from a template finds its devices where the template had them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from godwit.agent import ports, slots
from godwit.agent.vmm import probe, running

CONTROL_PORT = "godwit.control"
OVERHEAD_MB = {"kvm": 96, "tcg": 256}
"""What QEMU takes beside the guest's memory; under emulation its translations are the most."""
_TRANSLATIONS_MB = 128
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_SLOTS = ("channel", "net", "root", "scratch", "volume", "swap", "spare")
"""Devices in the order of their virtio-mmio transports; the last three are for what comes."""
_FIRST_TRANSPORT = 8
"""A device on transport 0 is not found by the guest (QEMU 7.2, acpi=on)."""


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

    @property
    def all(self) -> tuple[int, ...]:
        """Return every number."""
        return (self.kernel, self.initramfs, self.image, self.scratch, self.tap, self.channel)


def command(
    plan: ports.VmPlan,
    kit: Kit,
    accelerator: probe.Accelerator,
    given: Descriptors = Descriptors(),
) -> tuple[str, ...]:
    """Return program and arguments."""
    return (
        *(probe.QEMU, "-name", running.vm_name(plan.machine_id)),
        *("-M", "microvm,acpi=on,rtc=on,isa-serial=on,pit=on,pic=on"),
        *_processor(accelerator),
        *("-smp", str(plan.resources.cpus), "-m", f"{plan.resources.memory_mb}M"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-sandbox", _SANDBOX),
        *("-global", "virtio-mmio.force-legacy=false"),
        *("-kernel", f"/proc/self/fd/{given.kernel}"),
        *("-initrd", f"/proc/self/fd/{given.initramfs}"),
        *("-append", kernel_arguments(kit, accelerator)),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *_channel(given.channel),
        *_network(plan.slot, given.tap),
        *_disk("root", given.image, number=1, read_only=True),
        *_disk("scratch", given.scratch, number=2, read_only=False),
    )


def kernel_arguments(kit: Kit, accelerator: probe.Accelerator) -> str:
    """Return the guest kernel's command line.

    Under emulation the rate of the time-stamp counter is told, or half of the boots would hang
    calibrating it on a busy host; under KVM the paravirtual clock tells it.
    """
    arguments = ["console=ttyS0", "reboot=t", "panic=-1", "quiet"]
    if accelerator.kind == "tcg":
        arguments.append(f"tsc_early_khz={kit.tsc_khz}")
    return " ".join(arguments)


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


def _network(slot: int, descriptor: int) -> tuple[str, ...]:
    device = f"virtio-net-device,netdev=net,mac={slots.guest_mac(slot)},bus={_bus('net')}"
    return ("-netdev", f"tap,id=net,fd={descriptor},vhost=off", "-device", device)


def _disk(name: str, descriptor: int, *, number: int, read_only: bool) -> tuple[str, ...]:
    """Return a disk named by its serial; an image is shared, a scratch disk never synced.

    A host without room fails the guest's write: QEMU would stop the guest for ever otherwise.
    """
    access = "read-only=on,file.locking=off" if read_only else "discard=unmap,cache.no-flush=on"
    backing = f"driver=raw,node-name={name},file.driver=file,file.filename=/dev/fdset/{number}"
    device = f"virtio-blk-device,drive={name},serial={name},bus={_bus(name)},werror=report"
    return (
        *("-add-fd", f"fd={descriptor},set={number}"),
        *("-blockdev", f"{backing},{access}", "-device", device),
    )


def _bus(device: str) -> str:
    return f"virtio-mmio-bus.{_FIRST_TRANSPORT + _SLOTS.index(device)}"
