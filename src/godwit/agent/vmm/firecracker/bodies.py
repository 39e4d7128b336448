"""What Firecracker is told, as records: the bodies of its API, the sections of its config file.

Held to the API of release 1.16; a field that is left out keeps Firecracker's own default. Sizes
are in the units of the names: `_mib`, and bytes, operations and milliseconds in token buckets.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["Not started", "Running", "Paused"]
_ID = r"^[A-Za-z0-9_]+$"


class Body(BaseModel):
    """A body; what is `None` is not sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def json_text(self) -> str:
        """Return the body as it is sent."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


class TokenBucket(Body):
    """A rate: `size` tokens, filled again within `refill_time` milliseconds."""

    size: int = Field(ge=0)
    refill_time: int = Field(ge=0)
    one_time_burst: int | None = Field(None, ge=0)


class RateLimiter(Body):
    """Bounds of bytes and of operations."""

    bandwidth: TokenBucket | None = None
    ops: TokenBucket | None = None


class MachineConfig(Body):
    """The size of the guest."""

    vcpu_count: int = Field(ge=1, le=32)
    mem_size_mib: int = Field(ge=1)
    smt: bool = False
    track_dirty_pages: bool = False


class BootSource(Body):
    """What is booted, by its paths in the jail."""

    kernel_image_path: str
    initrd_path: str | None = None
    boot_args: str | None = None


class Drive(Body):
    """A disk of the guest; the root device comes first, the others in the order they are given."""

    drive_id: str = Field(pattern=_ID)
    path_on_host: str
    is_root_device: bool
    is_read_only: bool
    cache_type: Literal["Unsafe", "Writeback"] = "Unsafe"
    io_engine: Literal["Sync", "Async"] = "Sync"
    rate_limiter: RateLimiter | None = None


class DriveUpdate(Body):
    """Another file or other rates for a disk of a machine that was started."""

    drive_id: str = Field(pattern=_ID)
    path_on_host: str | None = None
    rate_limiter: RateLimiter | None = None


class NetworkInterface(Body):
    """The guest's interface on a tap that its VMM's user owns."""

    iface_id: str = Field(pattern=_ID)
    host_dev_name: str
    guest_mac: str | None = None
    mtu: int | None = Field(None, ge=68, le=65_535)
    rx_rate_limiter: RateLimiter | None = None
    tx_rate_limiter: RateLimiter | None = None


class NetworkUpdate(Body):
    """Other rates for an interface of a machine that was started."""

    iface_id: str = Field(pattern=_ID)
    rx_rate_limiter: RateLimiter | None = None
    tx_rate_limiter: RateLimiter | None = None


class Vsock(Body):
    """The guest's vsock device; `uds_path` is where the host connects, in the jail."""

    guest_cid: int = Field(ge=3, le=0xFFFF_FFFF)
    uds_path: str


class Balloon(Body):
    """The memory balloon; reporting gives pages the guest freed back to the host by itself."""

    amount_mib: int = Field(ge=0)
    deflate_on_oom: bool
    stats_polling_interval_s: int = Field(0, ge=0, le=65_535)
    free_page_reporting: bool = False


class BalloonUpdate(Body):
    """Another size of the balloon of a machine that was started."""

    amount_mib: int = Field(ge=0)


class BalloonStats(BaseModel):
    """What the balloon holds and what the guest's kernel says of its memory, in MiB and bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    target_mib: int
    actual_mib: int
    total_memory: int | None = None
    free_memory: int | None = None
    available_memory: int | None = None


class Entropy(Body):
    """The guest's source of random bytes."""

    rate_limiter: RateLimiter | None = None


class Vm(Body):
    """Whether a started machine's virtual CPUs run."""

    state: Literal["Paused", "Resumed"]


class Action(Body):
    """A thing to do at once."""

    action_type: Literal["InstanceStart", "SendCtrlAltDel", "FlushMetrics"]


class SnapshotCreate(Body):
    """Where a paused machine is saved; its drives are not part of it."""

    snapshot_path: str
    mem_file_path: str
    snapshot_type: Literal["Full"] = "Full"


class MemoryBackend(Body):
    """Where a restored guest's memory comes from: mapped privately, so many may share a file."""

    backend_path: str
    backend_type: Literal["File"] = "File"


class NetworkOverride(Body):
    """The tap of a restored interface."""

    iface_id: str
    host_dev_name: str


class VsockOverride(Body):
    """The socket of a restored vsock device."""

    uds_path: str


class SnapshotLoad(Body):
    """What a process that was told nothing else yet is to become."""

    snapshot_path: str
    mem_backend: MemoryBackend
    resume_vm: bool = False
    network_overrides: tuple[NetworkOverride, ...] = ()
    vsock_override: VsockOverride | None = None
    clock_realtime: bool = False


class InstanceInfo(BaseModel):
    """What a Firecracker process says of itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    state: State
    vmm_version: str
    app_name: str


class Config(Body):
    """The whole configuration of a cold boot, as `--config-file` reads it."""

    boot_source: BootSource = Field(alias="boot-source")
    machine: MachineConfig = Field(alias="machine-config")
    drives: tuple[Drive, ...]
    network: tuple[NetworkInterface, ...] = Field((), alias="network-interfaces")
    vsock: Vsock
    balloon: Balloon | None = None
    entropy: Entropy | None = None
