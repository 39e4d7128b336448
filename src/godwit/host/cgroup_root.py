"""The instance's own cgroups, gone after `godwit down`."""

import contextlib
from pathlib import Path


def remove(instance: str, root: Path = Path("/sys/fs/cgroup")) -> None:
    """Remove the (empty) cgroups of an instance from every hierarchy of version 1 and 2.

    Its shims are in groups beside those of its machines.
    """
    for parent in {*root.glob("*/godwit"), *root.glob("godwit")}:
        for own in (parent / instance, parent / f"{instance}.shims"):
            for folder in sorted(own.rglob("*/"), reverse=True):
                _rmdir(folder)
            _rmdir(own)
        _rmdir(parent)


def _rmdir(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
