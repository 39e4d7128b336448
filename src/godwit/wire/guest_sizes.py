"""Guest sizes: the one table of presets, CPUs and memory (spec/machines.md §6). Pure.

What `fly.toml` and the command line allow (`appconfig.guests`) and what the API allows
(`control.guest_sizes`) is the same but for one rule: the API takes memory in multiples of 256 MB
for every kind, the client's steps are coarser for performance CPUs.
"""

import difflib
from dataclasses import dataclass
from typing import Literal

from godwit.wire.host_rpc import Resources

Kind = Literal["shared", "performance"]


@dataclass(frozen=True)
class Rules:
    """What goes with one kind of CPU; memory in MB.

    Attributes:
        cpus: How many a machine may have.
        presets: Those of them that have a name.
        least_mb: Per CPU; what a preset has.
        most_mb: Per CPU.
        step_mb: Steps in which people's tools let them ask for memory.
    """

    prefix: str
    cpus: tuple[int, ...]
    presets: tuple[int, ...]
    least_mb: int
    most_mb: int
    step_mb: int


RULES: dict[Kind, Rules] = {
    "shared": Rules("shared-cpu", (1, 2, 4, 6, 8), (1, 2, 4, 6, 8), 256, 2_048, 256),
    "performance": Rules(
        "performance",
        (1, 2, 4, 6, 8, 10, 12, 14, 16, 32, 64, 128),
        (1, 2, 4, 6, 8, 10, 12, 14, 16),
        2_048,
        8_192,
        1_024,
    ),
}
API_STEP_MB = 256
"""All that the API demands of memory, whatever the kind of CPU."""
DEFAULT_PRESET = "shared-cpu-1x"
GPU_PRESETS = ("a10", "l40s", "a100-40gb", "a100-80gb")
NO_GPUS = "no host here has GPUs; leave gpu_kind and gpus out"

PRESETS: dict[str, Resources] = {
    f"{rules.prefix}-{cpus}x": Resources(cpu_kind=kind, cpus=cpus, memory_mb=cpus * rules.least_mb)
    for kind, rules in RULES.items()
    for cpus in rules.presets
}


class Mistake(ValueError):
    """A size that does not exist.

    Attributes:
        field: What is wrong: `size`, `cpus`, `memory_mb` or `max_memory_mb`.
        nearest: What would be right and is nearest to it.
    """

    def __init__(self, field: str, message: str, nearest: int | str | None) -> None:
        said = message if nearest is None else f"{message}; the nearest is {nearest}"
        super().__init__(said)
        self.field = field
        self.nearest = nearest


def preset(name: str) -> Resources:
    """Return what a preset such as `shared-cpu-2x` takes.

    Raises:
        Mistake: There is none of that name.
    """
    found = PRESETS.get(name)
    if found is not None:
        return found
    if name in GPU_PRESETS:
        raise Mistake("size", f'"{name}" is a GPU size, and no host here has GPUs', None)
    near = difflib.get_close_matches(name.lower(), PRESETS, n=1)
    sizes = ", ".join(PRESETS)
    raise Mistake(
        "size", f'there is no size "{name}"; sizes are {sizes}', near[0] if near else None
    )


def memory_range(kind: Kind, cpus: int) -> range:
    """Return the memory that goes with so many CPUs, in the steps of people's tools."""
    rules = RULES[kind]
    return range(cpus * rules.least_mb, cpus * rules.most_mb + 1, rules.step_mb)


def check(
    kind: Kind, cpus: int, memory_mb: int, *, max_memory_mb: int = 0, step_mb: int = 0
) -> Resources:
    """Return what a machine of that size takes.

    Args:
        kind: Of its CPUs.
        cpus: How many.
        memory_mb: What it begins with.
        max_memory_mb: How far it may grow; 0 for not at all.
        step_mb: Memory comes in multiples of it; 0 for the kind's own.

    Raises:
        Mistake: That does not go together; says what would.
    """
    rules = RULES[kind]
    if cpus not in rules.cpus:
        listed = ", ".join(map(str, rules.cpus))
        nearest = min(rules.cpus, key=lambda each: abs(each - cpus))
        raise Mistake("cpus", f"{kind} CPUs come in {listed}; got {cpus}", nearest)
    _check_memory("memory_mb", kind, cpus, memory_mb, step_mb or rules.step_mb)
    if max_memory_mb:
        _check_memory("max_memory_mb", kind, cpus, max_memory_mb, step_mb or rules.step_mb)
        if max_memory_mb < memory_mb:
            message = f"a machine of {memory_mb} MB cannot grow to {max_memory_mb} MB"
            raise Mistake("max_memory_mb", message, memory_mb)
    return Resources(cpu_kind=kind, cpus=cpus, memory_mb=memory_mb, max_memory_mb=max_memory_mb)


def _check_memory(field: str, kind: Kind, cpus: int, memory_mb: int, step_mb: int) -> None:
    rules = RULES[kind]
    least, most = cpus * rules.least_mb, cpus * rules.most_mb
    nearest = min(most, max(least, (memory_mb + step_mb // 2) // step_mb * step_mb))
    if not least <= memory_mb <= most:
        noun = f"{cpus} {kind} CPU{'s' if cpus > 1 else ''} go{'es' if cpus == 1 else ''}"
        message = f"{noun} with {least} to {most} MB of memory; got {memory_mb}"
        raise Mistake(field, message, nearest)
    if memory_mb % step_mb:
        message = f"memory with {kind} CPUs comes in steps of {step_mb} MB; got {memory_mb}"
        raise Mistake(field, message, nearest)
