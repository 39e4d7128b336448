"""A lock file that other processes respect, waited for without blocking the event loop.

Called by `store.py` (one conversion per digest, also between processes) and `bases.py`.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from godwit.base.errors import Failure

_ASK_AGAIN_S: Final = 0.05


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Return a descriptor that holds the lock until it is closed, `None` when it is taken.

    Whoever holds a lock alone may remove its file; a lock on a file that was removed meanwhile
    counts as taken, because others hold the file that has the name now.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


@contextlib.asynccontextmanager
async def held(
    path: Path, *, timeout_s: float, what: str, shared: bool = False
) -> AsyncIterator[None]:
    """Hold a lock file, alone or shared, waiting for whoever holds it otherwise.

    The file stays, unless who holds it alone removes it.

    Raises:
        Failure: `deadline_exceeded` when another process keeps it.
    """
    descriptor = None
    try:
        async with asyncio.timeout(timeout_s):
            while (descriptor := try_lock(path, shared=shared)) is None:
                await asyncio.sleep(_ASK_AGAIN_S)
    except TimeoutError as error:
        raise Failure(
            "deadline_exceeded",
            f"another process is busy with {what} for more than {timeout_s:g} s",
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)
