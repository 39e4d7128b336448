"""Which shims and VMMs run on this host, seen from outside: the process table is the truth.

Files with pids go stale and sockets outlive who listened; a command line that names the machine's
own shim.json does not. A process is signalled through a descriptor of it, after another look, so
that a pid used again is never hit.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

_PROC = Path("/proc")
_CONFIG_FLAG = b"--config"
CONFIG_NAME = "shim.json"
_NAME_FLAG = b"-name"

Test = Callable[[int], bool]
"""Whether a pid is the one that is meant."""


def vm_name(machine_id: str) -> str:
    """Return what a machine's VMM is called on its command line."""
    return f"godwit-{machine_id}"


def shims(machines: Path) -> dict[str, int]:
    """Return machine id and pid of every shim that runs for a directory of machines."""
    found = {}
    for pid in pids():
        config = _after(command_line(pid), _CONFIG_FLAG)
        if config is None:
            continue
        path = Path(os.fsdecode(config))
        if path.name == CONFIG_NAME and path.parent.parent == machines:
            found[path.parent.name] = pid
    return found


def is_shim(machines: Path, machine_id: str) -> Callable[[int], bool]:
    """Return a test for the machine's shim."""
    config = os.fsencode(machines / machine_id / CONFIG_NAME)
    return lambda pid: _after(command_line(pid), _CONFIG_FLAG) == config


def is_vmm(machine_id: str, uids: range, *, flag: bytes = _NAME_FLAG) -> Callable[[int], bool]:
    """Return a test for the machine's VMM: its name behind a flag, under one of our own users."""
    name = vm_name(machine_id).encode()

    def test(pid: int) -> bool:
        return _after(command_line(pid), flag) == name and _uid(pid) in uids

    return test


def pids() -> list[int]:
    """Return every pid there is now."""
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]


def command_line(pid: int) -> list[bytes]:
    """Return a process's program and arguments; nothing for one that is gone or a zombie."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def argument(pid: int, flag: bytes) -> bytes | None:
    """Return what a process was told behind a flag; `None` for one that is gone or was not."""
    return _after(command_line(pid), flag)


def is_alive(pid: int) -> bool:
    """Tell whether a process has yet to end.

    For a moment after it was started a process has no command line, but it is alive.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def kill(pid: int, is_it: Callable[[int], bool]) -> None:
    """Kill a process, if it is still the one that is meant."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if is_it(pid):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


async def end(candidates: Iterable[int], is_it: Callable[[int], bool], *, within_s: float) -> None:
    """Kill those of the processes that are meant, and return when they have ended.

    Raises:
        TimeoutError: One of them does not die.
    """
    for pid in candidates:
        if not is_it(pid):
            continue
        kill(pid, is_it)
        async with asyncio.timeout(within_s):
            while is_it(pid):
                await asyncio.sleep(0.01)


def _after(arguments: list[bytes], flag: bytes) -> bytes | None:
    try:
        return arguments[arguments.index(flag) + 1]
    except (ValueError, IndexError):
        return None


def _uid(pid: int) -> int | None:
    try:
        status = (_PROC / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(status.partition("\nUid:")[2].split(maxsplit=1)[0])
