"""Kernel parameters under `/proc/sys/net`: set, remembered, put back.

What Godwit changes for the whole host is written to a file in the run directory with the value it
had before, so that `HostNetwork.stop` in a later process can put it back; a parameter that
somebody else has changed since is left alone. Parameters of taps end with the tap.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from godwit.base import errors

_ROOT = Path("/proc/sys/net")


def set_all(pairs: Iterable[tuple[str, str]], root: Path = _ROOT) -> None:
    """Set parameters that end with their interface."""
    for name, value in pairs:
        (root / name).write_text(value)


class HostParameters:
    """The parameters that outlive a machine, and what they were before Godwit."""

    def __init__(self, remembered_in: Path, root: Path = _ROOT) -> None:
        self._file = remembered_in
        self._root = root

    def ensure(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Set each parameter that differs, after writing down what it was.

        Raises:
            Failure: `failed_precondition` when this kernel has no such parameter.
        """
        before = self._load()
        for name, value in pairs:
            path = self._root / name
            if not path.exists():
                raise errors.Failure(
                    "failed_precondition",
                    f"this kernel has no parameter net/{name}",
                    hint="boot it with IPv4 and IPv6 enabled",
                )
            now = path.read_text().strip()
            if now == value:
                continue
            before.setdefault(name, {"was": now})["is"] = value
            self._store(before)
            path.write_text(value)

    def was(self, name: str) -> str:
        """Return what a parameter was before Godwit changed it, or is if it did not."""
        change = self._load().get(name)
        return change["was"] if change else (self._root / name).read_text().strip()

    def restore(self) -> None:
        """Put back what was before, the last change first, and forget it."""
        for name, change in reversed(self._load().items()):
            path = self._root / name
            if path.exists() and path.read_text().strip() == change["is"]:
                path.write_text(change["was"])
        self._file.unlink(missing_ok=True)

    def _load(self) -> dict[str, dict[str, str]]:
        if not self._file.exists():
            return {}
        loaded: dict[str, dict[str, str]] = json.loads(self._file.read_text())
        return loaded

    def _store(self, before: dict[str, dict[str, str]]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(before))
        new.replace(self._file)


def keep_router_advertisements(root: Path = _ROOT) -> list[tuple[str, str]]:
    """Return what keeps the host's own IPv6 routes when it begins to forward.

    A forwarding kernel drops routes it learned from router advertisements and ignores further
    ones, unless the interface's `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst).
    """
    found = []
    for path in sorted((root / "ipv6/conf").glob("*/accept_ra")):
        interface = path.parent.name
        if interface not in ("all", "default", "lo") and path.read_text().strip() == "1":
            found.append((f"ipv6/conf/{interface}/accept_ra", "2"))
    return found
