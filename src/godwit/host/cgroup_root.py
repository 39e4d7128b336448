"""The instance's own cgroups, gone after `godwit down`."""

import contextlib
from pathlib import Path


def remove(instance: str, root: Path = Path("/sys/fs/cgroup")) -> None:
    """Remove the (empty) cgroups of an instance from every hierarchy of version 1 and 2."""
    for parent in {*root.glob("*/godwit"), *root.glob("godwit")}:
        for folder in sorted((parent / instance).rglob("*/"), reverse=True):
            _rmdir(folder)
        _rmdir(parent / instance)
        _rmdir(parent)


def _rmdir(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
