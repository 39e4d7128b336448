"""Guest sizes: the presets and what memory goes with how many CPUs.

Source: spec/config-cli.md §1.10, spec/machines.md §6 (the client's wider sets, §6 no. 6).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

CpuKind = Literal["shared", "performance"]

CPU_COUNTS: dict[CpuKind, tuple[int, ...]] = {
    "shared": (1, 2, 4, 6, 8),
    "performance": (1, 2, 4, 6, 8, 10, 12, 14, 16, 32, 64, 128),
}
_LEAST_PER_CPU: dict[CpuKind, int] = {"shared": 256, "performance": 2048}
_MOST_PER_CPU: dict[CpuKind, int] = {"shared": 2048, "performance": 8192}
_STEP: dict[CpuKind, int] = {"shared": 256, "performance": 1024}
GPU_PRESETS = ("a10", "l40s", "a100-40gb", "a100-80gb")
DEFAULT_PRESET = "shared-cpu-1x"


class Guest(BaseModel):
    """What a machine gets, in MB and CPUs."""

    model_config = ConfigDict(frozen=True)

    cpu_kind: CpuKind
    cpus: int
    memory_mb: int


def least_memory_mb(kind: CpuKind, cpus: int) -> int:
    """Return the memory that goes at least with so many CPUs."""
    return cpus * _LEAST_PER_CPU[kind]


def most_memory_mb(kind: CpuKind, cpus: int) -> int:
    """Return the memory that goes at most with so many CPUs."""
    return cpus * _MOST_PER_CPU[kind]


_FAMILIES: tuple[tuple[CpuKind, str, tuple[int, ...]], ...] = (
    ("shared", "shared-cpu", (1, 2, 4, 6, 8)),
    ("performance", "performance", (1, 2, 4, 6, 8, 10, 12, 14, 16)),
)
PRESETS: dict[str, Guest] = {
    f"{prefix}-{cpus}x": Guest(cpu_kind=kind, cpus=cpus, memory_mb=least_memory_mb(kind, cpus))
    for kind, prefix, counts in _FAMILIES
    for cpus in counts
}


def resolve(
    *,
    size: str | None = None,
    cpu_kind: CpuKind | None = None,
    cpus: int | None = None,
    memory_mb: int | None = None,
) -> Guest:
    """Return the guest that a size and the settings laid over it stand for.

    Memory that is not given is the preset's, or more if the CPUs need more.

    Raises:
        ValueError: The combination does not exist; the message says which would.
    """
    preset = PRESETS.get(size or DEFAULT_PRESET)
    if preset is None:
        raise ValueError(_unknown_preset(size or ""))
    kind = cpu_kind or preset.cpu_kind
    count = preset.cpus if cpus is None else cpus
    if count not in CPU_COUNTS[kind]:
        counts = ", ".join(map(str, CPU_COUNTS[kind]))
        raise ValueError(f"{kind} CPUs come in {counts}; got {count}")
    least, most = least_memory_mb(kind, count), most_memory_mb(kind, count)
    memory = min(max(preset.memory_mb, least), most) if memory_mb is None else memory_mb
    if not least <= memory <= most:
        raise ValueError(
            f"{count} {kind} CPU{'s' if count > 1 else ''} "
            f"go{'es' if count == 1 else ''} with {least} to {most} MB of memory; got {memory}"
        )
    if memory % _STEP[kind]:
        raise ValueError(
            f"memory with {kind} CPUs comes in steps of {_STEP[kind]} MB; got {memory}"
        )
    return Guest(cpu_kind=kind, cpus=count, memory_mb=memory)


def _unknown_preset(size: str) -> str:
    if size in GPU_PRESETS:
        return f'"{size}" is a GPU size, and no host here has GPUs'
    return f'there is no size "{size}"; sizes are {", ".join(PRESETS)}'
