"""What one guest looks like to Firecracker: its devices, by their paths in the jail. Pure.

Devices and their names are the same for every guest, so that a clone of a template finds its own
files where the template had its own: a saved guest remembers paths, and each jail has different
files behind the same ones.
"""

from pathlib import Path
from typing import Final

from godwit.agent import ports, slots
from godwit.agent.vmm import hypervisor
from godwit.agent.vmm.firecracker import bodies
from godwit.base import errors

KERNEL: Final = "kernel"
INITRAMFS: Final = "initramfs"
ROOT: Final = "root"
SCRATCH: Final = "scratch"
DISKS: Final = (ROOT, SCRATCH)
"""What every guest has; names, in the order the guest finds them: it is told."""
NETWORK: Final = "net"
API_SOCKET: Final = "api.sock"
CHANNEL_SOCKET: Final = "v.sock"
CONFIG_FILE: Final = "config.json"
STATE: Final = "state"
MEMORY: Final = "memory"
CHANNEL_PORT: Final = 1024
"""Where the guest's init listens; twin of `PORT` in `rust/crates/init/src/vsock.rs`."""
MOST_VCPUS: Final = 32
_TEMPLATE_MAC: Final = "02:67:00:00:00:00"
_GUEST_CID: Final = 3
"""Every guest is alone on its own vsock."""
_STATS_S: Final = 1
_ENTROPY_BYTES_S: Final = 65_536
_SECOND_MS: Final = 1_000
_MTU: Final = 1420


def disk_limiter(rates: hypervisor.Rates) -> bodies.RateLimiter | None:
    """Return the limiter of each disk."""
    return _limiter(
        _bucket(rates.root_bytes_s, rates.root_burst_bytes), _bucket(rates.root_iops, 0)
    )


def network_limiter(rates: hypervisor.Rates) -> bodies.RateLimiter | None:
    """Return the limiter of one direction of the interface."""
    return _limiter(_bucket(rates.network_bytes_s, 0), None)


def _limiter(
    bandwidth: bodies.TokenBucket | None, ops: bodies.TokenBucket | None
) -> bodies.RateLimiter | None:
    if bandwidth is None and ops is None:
        return None
    return bodies.RateLimiter(bandwidth=bandwidth, ops=ops)


def _bucket(per_second: int, burst: int) -> bodies.TokenBucket | None:
    """Return a bucket that a rested guest finds full: a second's worth and the burst."""
    if per_second == 0:
        return None
    size = per_second + burst
    return bodies.TokenBucket(size=size, refill_time=size * _SECOND_MS // per_second)


def disks_of(further: tuple[ports.FurtherDisk, ...]) -> tuple[str, ...]:
    """Return the names of a guest's disks in the order it finds them."""
    return (*DISKS, *further)


def kernel_arguments(further: tuple[ports.FurtherDisk, ...] = ()) -> str:
    """Return the kernel's command line of a guest with these disks beside root and scratch.

    `reboot=k` has a restart end the VMM; the keyboard controller behind it is not searched for a
    mouse. Firecracker adds `pci=off` and what its devices need.
    """
    keyboard = "i8042.noaux i8042.nomux i8042.dumbkbd"
    disks = f"godwit.disks={','.join(disks_of(further))}"
    return f"console=ttyS0 reboot=k panic=-1 quiet {keyboard} {disks}"


def cold_boot(guest: hypervisor.Guest, tap: str, rates: hypervisor.Rates) -> bodies.Config:
    """Return the configuration with which a guest boots a kernel.

    Raises:
        Failure: `invalid_argument` when Firecracker has no guests of that size.
    """
    if guest.resources.cpus > MOST_VCPUS:
        raise errors.invalid(
            f"Firecracker runs at most {MOST_VCPUS} vCPUs, not {guest.resources.cpus}",
            hint="choose a smaller guest, or a host that runs QEMU",
        )
    limiter = disk_limiter(rates)
    return bodies.Config(
        boot_source=bodies.BootSource(
            kernel_image_path=jailed(KERNEL),
            initrd_path=jailed(INITRAMFS),
            boot_args=" ".join((kernel_arguments(guest.disks), *guest.kernel_arguments)),
        ),
        machine=bodies.MachineConfig(
            vcpu_count=guest.resources.cpus, mem_size_mib=guest.resources.memory_mb
        ),
        drives=tuple(
            bodies.Drive(
                drive_id=name,
                path_on_host=jailed(name),
                is_root_device=name == ROOT,
                is_read_only=name == ROOT or name in ports.IMAGE_DISKS,
                cache_type="Writeback" if name == SCRATCH and guest.lasting_root else "Unsafe",
                rate_limiter=limiter,
            )
            for name in disks_of(guest.disks)
        ),
        network=(_interface(guest, tap, network_limiter(rates)),),
        vsock=bodies.Vsock(guest_cid=_GUEST_CID, uds_path=jailed(CHANNEL_SOCKET)),
        balloon=_balloon(guest),
        entropy=bodies.Entropy(
            rate_limiter=bodies.RateLimiter(bandwidth=_bucket(_ENTROPY_BYTES_S, 0))
        ),
    )


def _balloon(guest: hypervisor.Guest) -> bodies.Balloon | None:
    """Return the balloon of a guest that may grow, which must not let it take memory by itself.

    Its VMM is held to what the guest should have: a balloon that gave way in need would have the
    VMM killed where a process of the guest should be.
    """
    if not guest.resources.max_memory_mb:
        return None
    return bodies.Balloon(
        amount_mib=0,
        deflate_on_oom=False,
        stats_polling_interval_s=_STATS_S,
        free_page_reporting=True,
    )


def _interface(
    guest: hypervisor.Guest, tap: str, limiter: bodies.RateLimiter | None
) -> bodies.NetworkInterface:
    return bodies.NetworkInterface(
        iface_id=NETWORK,
        host_dev_name=tap,
        guest_mac=_TEMPLATE_MAC if guest.devices is None else slots.guest_mac(guest.slot),
        mtu=_MTU,
        rx_rate_limiter=limiter,
        tx_rate_limiter=limiter,
    )


def restore(tap: str) -> bodies.SnapshotLoad:
    """Return the request that makes a fresh process a saved guest, standing still.

    The guest's clock is not moved: init sets it, with fresh entropy, before anything else runs.
    """
    return bodies.SnapshotLoad(
        snapshot_path=jailed(STATE),
        mem_backend=bodies.MemoryBackend(backend_path=jailed(MEMORY)),
        network_overrides=(bodies.NetworkOverride(iface_id=NETWORK, host_dev_name=tap),),
        vsock_override=bodies.VsockOverride(uds_path=jailed(CHANNEL_SOCKET)),
    )


def rates_of_a_clone(
    rates: hypervisor.Rates, further: tuple[ports.FurtherDisk, ...] = ()
) -> tuple[tuple[bodies.DriveUpdate, ...], bodies.NetworkUpdate]:
    """Return what gives a restored guest full buckets of its own; a saved one's may be empty."""
    disks = disk_limiter(rates) or _UNLIMITED
    network = network_limiter(rates) or _UNLIMITED
    return (
        tuple(bodies.DriveUpdate(drive_id=name, rate_limiter=disks) for name in disks_of(further)),
        bodies.NetworkUpdate(iface_id=NETWORK, rx_rate_limiter=network, tx_rate_limiter=network),
    )


_NO_BUCKET = bodies.TokenBucket(size=0, refill_time=0)
_UNLIMITED = bodies.RateLimiter(bandwidth=_NO_BUCKET, ops=_NO_BUCKET)


def jailed(name: str) -> str:
    """Return a file's path as the jailed process sees it."""
    return str(Path("/") / name)
