"""Sizes of machines from the `--vm-…` flags: of a new machine, and of one that has a size."""

from collections.abc import Mapping
from typing import Any

from godwit.appconfig import guests, sizes
from godwit.base import errors
from godwit.cli.rollout.overrides import Size

Json = dict[str, Any]

_SIZED = ("cpu_kind", "cpus", "memory_mb", "max_memory_mb")


def of(size: Size) -> Json:
    """Return the guest of a machine that had none before.

    Raises:
        Failure: There is no such size; the message says which would do.
    """
    return _resolved(size, {})


def changed(config: Mapping[str, Any], size: Size) -> Json:
    """Return the guest of a machine config with the flags laid over it.

    A preset brings its own memory; what is not about size stays as it is.

    Raises:
        Failure: There is no such size; the message says which would do.
    """
    present = shown(config)
    kept = {name: value for name, value in present.items() if name not in _SIZED}
    base = {} if size.size else {name: present[name] for name in _SIZED[:3]}
    made = _resolved(size, base)
    ceiling = present.get("max_memory_mb") or 0
    if not size.size and ceiling >= made["memory_mb"]:
        made["max_memory_mb"] = ceiling
    return {**made, **kept}


def shown(config: Mapping[str, Any]) -> Json:
    """Return the guest of a machine config with what the platform takes by default."""
    given = {name: value for name, value in (config.get("guest") or {}).items() if value}
    try:
        found = guests.resolve(
            size=config.get("size") or None,
            cpu_kind=given.get("cpu_kind"),
            cpus=given.get("cpus"),
            memory_mb=given.get("memory_mb"),
        ).model_dump()
    except ValueError:
        return {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256, **given}
    return {**given, **found}


def told(guest: Mapping[str, Any]) -> str:
    """Return a guest as people read it: `shared-cpu-1x, 256 MB`."""
    kind, cpus, memory = (guest[name] for name in _SIZED[:3])
    named = f"{'shared-cpu' if kind == 'shared' else kind}-{cpus}x"
    return f"{named}, {memory} MB"


def _resolved(size: Size, base: Json) -> Json:
    """Return a guest; memory that was not asked for follows the CPUs as far as it must."""
    if size.cpu_kind not in (None, "shared", "performance"):
        raise errors.invalid(
            f'--vm-cpu-kind: expected shared or performance, got "{size.cpu_kind}"'
        )
    kind: Any = size.cpu_kind or base.get("cpu_kind")
    cpus: Any = size.cpus or base.get("cpus")
    try:
        memory = sizes.memory_mb(_number(size.memory)) if size.memory else None
        if memory is None and base:
            least, most = guests.least_memory_mb(kind, cpus), guests.most_memory_mb(kind, cpus)
            memory = min(max(base["memory_mb"], least), most)
        return guests.resolve(
            size=size.size, cpu_kind=kind, cpus=cpus, memory_mb=memory
        ).model_dump()
    except ValueError as error:
        raise errors.invalid(str(error)) from error


def _number(text: str) -> str | int:
    return int(text) if text.isdecimal() else text
