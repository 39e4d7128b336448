"""What a machine config takes from its host; the table of sizes is `wire.guest_sizes`. Pure."""

from godwit.base import errors
from godwit.control.machine_config import MachineConfig
from godwit.wire import guest_sizes
from godwit.wire.host_rpc import Resources


def resources(config: MachineConfig) -> Resources:
    """Return what a machine takes from its host.

    Raises:
        Failure: `invalid_argument`, naming the field and what would be right;
            `insufficient_capacity` for GPUs.
    """
    guest = config.guest
    if guest is not None and config.size:
        raise errors.invalid("config.size: give size or guest, not both")
    try:
        if guest is None:
            name = config.size or guest_sizes.DEFAULT_PRESET
            if name in guest_sizes.GPU_PRESETS:
                raise _no_gpus("size")
            return guest_sizes.preset(name)
        if guest.gpu_kind or guest.gpus:
            raise _no_gpus("guest.gpu_kind" if guest.gpu_kind else "guest.gpus")
        kind: guest_sizes.Kind = guest.cpu_kind or "shared"
        cpus = guest.cpus or 1
        return guest_sizes.check(
            kind,
            cpus,
            guest.memory_mb or cpus * guest_sizes.RULES[kind].least_mb,
            max_memory_mb=guest.max_memory_mb or 0,
            step_mb=guest_sizes.API_STEP_MB,
        )
    except guest_sizes.Mistake as mistake:
        where = mistake.field if mistake.field == "size" else f"guest.{mistake.field}"
        raise errors.invalid(f"config.{where}: {mistake}") from mistake


def _no_gpus(field: str) -> errors.Failure:
    return errors.Failure("insufficient_capacity", f"config.{field}: {guest_sizes.NO_GPUS}")
