"""What is mounted where, from /proc/self/mountinfo. Source: proc_pid_mountinfo(5)."""

import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One mount.

    Attributes:
        source: `/dev/loop3`, `/dev/sdb1`, `tmpfs`.
        kind: The file system.
    """

    at: Path
    source: str
    kind: str


def at(directory: Path, table: Path = Path("/proc/self/mountinfo")) -> Mount | None:
    """Return what is mounted on a directory, the uppermost where there are several."""
    found = None
    for line in table.read_text().splitlines():
        before, _, after = line.partition(" - ")
        place = Path(_plain(before.split()[4]))
        if place == directory.resolve():
            kind, source, *_ = after.split()
            found = Mount(place, _plain(source), kind)
    return found


def _plain(field: str) -> str:
    """Return a field whose spaces and backslashes the kernel wrote in octal."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), field)
