"""Being in another process's network: for threads that ask from a node, and for relays."""

import asyncio
import ctypes
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000


def network_of(pid: int) -> None:
    """Put the calling thread, and it alone, into the network of a process.

    Raises:
        OSError: There is no such process, or this one is not root.
    """
    with Path(f"/proc/{pid}/ns/net").open("rb") as there:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(there.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network of process {pid}")


def run(pid: int, main: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
    """Run a coroutine in a thread of its own in the network of a process.

    A socket belongs to the network of the thread that made it, so everything the coroutine
    connects or listens to is there; names are resolved by this process's own files.
    """
    thread = ThreadPoolExecutor(1, f"network-of-{pid}", initializer=network_of, initargs=(pid,))
    try:
        return thread.submit(lambda: asyncio.run(main()))
    finally:
        # The thread ends with the coroutine.
        thread.shutdown(wait=False)
