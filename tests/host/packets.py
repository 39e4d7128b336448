"""What became of bytes that were written to a TCP connection of this host, by what the kernel tells."""

import asyncio
import fcntl
import socket
import struct
import termios
from pathlib import Path

from tests.host import rust_components as parts

_PAUSE_S = 0.001


async def arrived(writer: asyncio.StreamWriter) -> None:
    """Wait until the other end's kernel has all that was written."""
    await writer.drain()
    async with asyncio.timeout(parts.PATIENCE_S):
        while writer.transport.get_write_buffer_size() or _unacknowledged(writer):
            await asyncio.sleep(_PAUSE_S)


async def taken_in(writer: asyncio.StreamWriter) -> None:
    """Wait until the other end has read all that was written, or is gone."""
    await arrived(writer)
    async with asyncio.timeout(parts.PATIENCE_S):
        while _unread(writer):
            await asyncio.sleep(_PAUSE_S)


def _unacknowledged(writer: asyncio.StreamWriter) -> int:
    told = fcntl.ioctl(writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", told)[0])


def _unread(writer: asyncio.StreamWriter) -> int:
    """Return the bytes in the other end's queue (proc_net_tcp of the kernel's documentation)."""
    ours, theirs = (writer.get_extra_info(name) for name in ("sockname", "peername"))
    wanted = [_hexadecimal(theirs), _hexadecimal(ours)]
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[1:3] == wanted:
            return int(fields[4].partition(":")[2], 16)
    return 0


def _hexadecimal(address: tuple[str, int]) -> str:
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{number:08X}:{address[1]:04X}"
