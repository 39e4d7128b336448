"""Guest sizes: presets and the rules for memory (spec/machines.md §6). Pure."""

import re
from typing import Literal

from godwit.base import errors
from godwit.control.machine_config import MachineConfig
from godwit.wire.host_rpc import Resources

Kind = Literal["shared", "performance"]

CPUS: dict[Kind, tuple[int, ...]] = {
    "shared": (1, 2, 4, 6, 8),
    "performance": (1, 2, 4, 6, 8, 10, 12, 14, 16),
}
_LEAST_MB: dict[Kind, int] = {"shared": 256, "performance": 2_048}
_MOST_MB: dict[Kind, int] = {"shared": 2_048, "performance": 8_192}
_STEP_MB = 256
_PRESET = re.compile(r"(shared-cpu|performance)-([0-9]{1,3})x")


def resources(config: MachineConfig) -> Resources:
    """Return what a machine takes from its host.

    Raises:
        Failure: `invalid_argument`, naming the field and what would be right.
    """
    guest = config.guest
    if guest is not None and config.size:
        raise errors.invalid("config.size: give size or guest, not both")
    if guest is None:
        return preset(config.size or "shared-cpu-1x")
    if guest.gpu_kind or guest.gpus:
        raise errors.Failure("insufficient_capacity", "config.guest.gpu_kind: no host has GPUs")
    kind: Kind = guest.cpu_kind or "shared"
    cpus = guest.cpus or 1
    if cpus not in CPUS[kind]:
        raise errors.invalid(
            f"config.guest.cpus: {cpus} is not a size of {kind} machines;"
            f" they have {_listed(CPUS[kind])} CPUs"
        )
    memory_mb = guest.memory_mb or cpus * _LEAST_MB[kind]
    _check_memory(kind, cpus, memory_mb)
    return Resources(cpu_kind=kind, cpus=cpus, memory_mb=memory_mb)


def preset(name: str) -> Resources:
    """Return what a preset such as `shared-cpu-2x` takes.

    Raises:
        Failure: `invalid_argument`.
    """
    parts = _PRESET.fullmatch(name)
    if parts is not None:
        kind: Kind = "shared" if parts[1] == "shared-cpu" else "performance"
        cpus = int(parts[2])
        if cpus in CPUS[kind]:
            return Resources(cpu_kind=kind, cpus=cpus, memory_mb=cpus * _LEAST_MB[kind])
    raise errors.invalid(
        f"config.size: {name!r} is not a size; there are shared-cpu-Nx for N in"
        f" {_listed(CPUS['shared'])} and performance-Nx for N in {_listed(CPUS['performance'])}"
    )


def _check_memory(kind: Kind, cpus: int, memory_mb: int) -> None:
    least, most = cpus * _LEAST_MB[kind], cpus * _MOST_MB[kind]
    if memory_mb % _STEP_MB:
        raise errors.invalid(
            f"config.guest.memory_mb: {memory_mb} is not a multiple of {_STEP_MB}"
        )
    if not least <= memory_mb <= most:
        raise errors.invalid(
            f"config.guest.memory_mb: {memory_mb} is outside what {cpus} {kind} CPUs allow:"
            f" {least} to {most}"
        )


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
