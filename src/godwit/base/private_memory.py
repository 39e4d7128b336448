"""Keeping what a process holds in memory out of core dumps, its own and its children's.

Called first thing by every process that ever holds a secret. Three locks, because each has a gap:
the limit of zero bytes binds files but not a `core_pattern` that is a pipe; the filter is
inherited by programs that are started, VMMs among them; not being dumpable ends with `exec`.
"""

import contextlib
import ctypes
import os
import resource
from pathlib import Path

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_FILTER = Path("/proc/self/coredump_filter")


def keep_out_of_core_dumps() -> None:
    """Ensure that no core dump of this process, or of what it starts, shows memory.

    Raises:
        OSError: The kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A kernel without core dumps has no filter either.
    with contextlib.suppress(FileNotFoundError):
        _FILTER.write_text("0\n")
    _prctl(_PR_SET_DUMPABLE, 0)


def become(uid: int) -> None:
    """Leave root behind for good: user and group `uid`, no further groups, no way back.

    Raises:
        OSError: The kernel refuses; nothing secret may be touched then.
    """
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Changing the user may have set it again.
    _prctl(_PR_SET_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
