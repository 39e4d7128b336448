"""Guest sizes as people ask for them; the table is `wire.guest_sizes`.

Source: spec/config-cli.md §1.10 (the client's wider sets, §6 no. 6).
"""

from pydantic import BaseModel, ConfigDict

from godwit.wire import guest_sizes

CpuKind = guest_sizes.Kind
DEFAULT_PRESET = guest_sizes.DEFAULT_PRESET


class Guest(BaseModel):
    """What a machine gets, in MB and CPUs."""

    model_config = ConfigDict(frozen=True)

    cpu_kind: CpuKind
    cpus: int
    memory_mb: int


def least_memory_mb(kind: CpuKind, cpus: int) -> int:
    """Return the memory that goes at least with so many CPUs."""
    return cpus * guest_sizes.RULES[kind].least_mb


def most_memory_mb(kind: CpuKind, cpus: int) -> int:
    """Return the memory that goes at most with so many CPUs."""
    return cpus * guest_sizes.RULES[kind].most_mb


PRESETS: dict[str, Guest] = {
    name: Guest(cpu_kind=one.cpu_kind, cpus=one.cpus, memory_mb=one.memory_mb)
    for name, one in guest_sizes.PRESETS.items()
}


def resolve(
    *,
    size: str | None = None,
    cpu_kind: CpuKind | None = None,
    cpus: int | None = None,
    memory_mb: int | None = None,
    max_memory_mb: int | None = None,
) -> Guest:
    """Return the guest that a size and the settings laid over it stand for.

    Memory that is not given is the preset's, or more if the CPUs need more.

    Raises:
        ValueError: The combination does not exist; the message says which would.
    """
    named = guest_sizes.preset(size or DEFAULT_PRESET)
    kind = cpu_kind or named.cpu_kind
    count = named.cpus if cpus is None else cpus
    memory = memory_mb
    if memory is None:
        most = most_memory_mb(kind, count)
        memory = min(max(named.memory_mb, least_memory_mb(kind, count)), most)
    guest_sizes.check(kind, count, memory, max_memory_mb=max_memory_mb or 0)
    return Guest(cpu_kind=kind, cpus=count, memory_mb=memory)
