"""Processes of machines that somebody stopped (SIGSTOP): found, and told to go on.

A VMM that stands still looks alive to everybody but the machine's users. Nothing of this platform
stops one by a signal (a suspended machine's is paused through its own interface), so what is found
stopped twice in a row was stopped by hand or by accident.
"""

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from godwit.agent.vmm import running
from godwit.agent.vmm.cgroups import Cgroups

_PROC = Path("/proc")
_STOPPED = b"T"


def machines(directory: Path, groups: Cgroups) -> frozenset[str]:
    """Return the ids of machines of which the shim or the VMM is stopped."""
    return frozenset(
        machine_id
        for machine_id, shim in running.shims(directory).items()
        if any(map(_is_stopped, (shim, *groups.members(machine_id))))
    )


def end(directory: Path, groups: Cgroups, machine_id: str) -> None:
    """Have what is stopped of a machine go on."""
    shim = running.shims(directory).get(machine_id)
    found: Iterable[int] = (*groups.members(machine_id), *(() if shim is None else (shim,)))
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                if _is_stopped(pid):
                    signal.pidfd_send_signal(handle, signal.SIGCONT)
            finally:
                os.close(handle)


def _is_stopped(pid: int) -> bool:
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] == _STOPPED
