"""Which process is which: pid files that survive their writer and never name a stranger.

A pid alone may have been given to another program; together with the process's start time
(/proc/<pid>/stat, field 22) it names one process for ever.
"""

import contextlib
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

MARK = "GODWIT_SUPERVISED"
"""Variable in the environment of every component: the run directory and the component's name."""


@dataclass(frozen=True)
class Process:
    """One process of this machine, now or in the past."""

    pid: int
    start_time: int

    @property
    def alive(self) -> bool:
        """Tell whether it still runs or holds what it had open (a zombie does neither)."""
        return _start_time(self.pid) == self.start_time

    def signal(self, number: int) -> None:
        """Send a signal if it still runs."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self, stop_s: float) -> None:
        """Ask it to stop, wait, then kill it; returns once it is gone or past all hope."""
        self.signal(signal.SIGTERM)
        if not self.wait(stop_s):
            self.signal(signal.SIGKILL)
            self.wait(5)

    def wait(self, timeout_s: float) -> bool:
        """Wait at most that long for its end; return whether it ended."""
        deadline = time.monotonic() + timeout_s
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def this() -> Process:
    """Return the calling process."""
    return of(os.getpid())


def of(pid: int) -> Process:
    """Return the process that has this pid now (start time 0 if there is none)."""
    return Process(pid, _start_time(pid) or 0)


def write(path: Path, process: Process) -> None:
    """Remember a process in a file."""
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(asdict(process)))
    scratch.replace(path)


def read(path: Path) -> Process | None:
    """Return the remembered process if it still runs."""
    try:
        process = Process(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return process if process.alive else None


def session(pid: int) -> int:
    """Return the session a process belongs to, 0 when there is no such process."""
    fields = _stat(pid)
    return int(fields[3]) if fields else 0


def marked(mark: str) -> dict[int, str]:
    """Return processes that were started with `GODWIT_SUPERVISED=<mark>:<name>`, and the names.

    They bear the mark from their first instruction on, so it finds also what no file names.
    """
    wanted = f"{MARK}={mark}:".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for variable in (folder / "environ").read_bytes().split(b"\0"):
                if variable.startswith(wanted):
                    found[int(folder.name)] = variable[len(wanted) :].decode(errors="replace")
    return found


def _start_time(pid: int) -> int | None:
    fields = _stat(pid)
    if not fields or fields[0] == "X":
        return None
    # The first thread may be a zombie while others still hold sockets and files: until the last
    # of them is gone, the process is not (field 20 of proc(5) counts them).
    if fields[0] == "Z" and int(fields[17]) <= 1:
        return None
    return int(fields[19])


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third on, none without the process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # The second field is the program's name in parentheses and may hold anything.
    return stat.rpartition(")")[2].split()
