"""Bringing a fresh guest to rest, so that it can be saved: channel first, CPU time then."""

import asyncio
import contextlib
import json
from pathlib import Path

from godwit.agent.vmm import running
from godwit.base import errors
from godwit.wire import channel

_READ_BYTES = 65_536
_LOOK_S = 0.02
_STILL_LOOKS = 5
_BUSY_NS = 2_000_000
_IDLE_S = 20.0


async def asleep(path: Path, port: int | None, pid: int) -> None:
    """Return once the guest has said hello, was asked to sleep and said its last word.

    The connection is closed then: a guest is saved with nobody on its channel. The caller has a
    deadline on it.

    Args:
        path: Socket of its control channel.
        port: The guest's, where the socket leads to several.
        pid: Its VMM's.

    Raises:
        ConnectionError: The guest ended.
    """
    if port is None:
        reader, writer = await asyncio.open_unix_connection(str(path))
    else:
        reader, writer = await _call(path, port, pid)
    try:
        await _hear(reader, "hello")
        writer.write(channel.message({"type": "sleep"}))
        await _hear(reader, "asleep")
    finally:
        writer.close()


async def _call(
    path: Path, port: int, pid: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection to a guest's port, once its VMM and its init are there to make it.

    Raises:
        ConnectionError: The VMM ended.
    """
    while running.is_alive(pid):
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(f"CONNECT {port}\n".encode())
            if (await reader.readline()).startswith(b"OK "):
                return reader, writer
            writer.close()
        await asyncio.sleep(_LOOK_S)
    raise ConnectionResetError("its VMM ended")


async def _hear(reader: asyncio.StreamReader, wanted: str) -> None:
    """Return when a message of that type came; nothing else is said before a run spec."""
    decoder = channel.Decoder()
    while data := await reader.read(_READ_BYTES):
        for frame in decoder.feed(data):
            if frame.kind is channel.Kind.MESSAGE and json.loads(frame.payload)["type"] == wanted:
                return
    raise ConnectionResetError("it hung up")


async def idle(pid: int) -> None:
    """Return once a VMM has stood still for a tenth of a second: all that a boot starts is done.

    Whatever the kernel still has to do would be done by every copy, again and again.

    Raises:
        Failure: `deadline_exceeded` it never rests.
    """
    still, before = 0, _cpu_ns(pid)
    try:
        async with asyncio.timeout(_IDLE_S):
            while still < _STILL_LOOKS:
                await asyncio.sleep(_LOOK_S)
                now = _cpu_ns(pid)
                still = still + 1 if now - before < _BUSY_NS else 0
                before = now
    except TimeoutError as error:
        raise errors.Failure("deadline_exceeded", "its guest never rests") from error


def _cpu_ns(pid: int) -> int:
    """Return the CPU time of all of a process's threads."""
    tasks = Path(f"/proc/{pid}/task")
    try:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())
    except OSError as error:
        raise errors.Failure("unavailable", "its VMM ended") from error
