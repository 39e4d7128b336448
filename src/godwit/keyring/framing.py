"""Messages on the keyring's socket: a length (u32, big endian), then so many bytes."""

import asyncio
import struct

from godwit.wire.keyring import LONGEST_MESSAGE

_LENGTH = struct.Struct(">I")


class BadMessage(ValueError):
    """A message is too long, or ended early."""


async def read(reader: asyncio.StreamReader) -> bytes:
    """Return the next message.

    Raises:
        BadMessage: It is too long or ends early.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > LONGEST_MESSAGE:
            raise BadMessage(f"a message of {length} bytes")
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise BadMessage("it ended early") from error


async def write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a message.

    Raises:
        BadMessage: It is too long.
    """
    if len(data) > LONGEST_MESSAGE:
        raise BadMessage(f"a message of {len(data)} bytes")
    writer.write(_LENGTH.pack(len(data)) + data)
    await writer.drain()
