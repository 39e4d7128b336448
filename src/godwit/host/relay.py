"""Passes connections on: the registry listens on loopback alone, and other hosts pull from it.

Run by control on the address under which other hosts reach this one; what goes through is between
them and the registry, which lets nobody pull without a token of control's.
"""

import asyncio
import contextlib
import logging

from godwit.base import tasks

logger = logging.getLogger(__name__)

_AGAIN_S = 2.0
_CONNECT_S = 5.0
_PIECE = 65_536


async def share(at: str, to: str) -> None:
    """Pass what comes to one address on to another, for ever.

    Args:
        at: `host:port` to listen on; it may not be there yet, as before the mesh is.
        to: `host:port` of who answers.
    """
    async with tasks.Tasks("relay") as owned:

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _pass(reader, writer, to, owned)

        while True:
            try:
                server = await asyncio.start_server(take, *_parts(at))
            except OSError as error:
                logger.debug("%s is not there yet: %s", at, error.strerror)
                await asyncio.sleep(_AGAIN_S)
                continue
            logger.info("what comes to %s goes to %s", at, to)
            async with server:
                await server.serve_forever()


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: str, owned: tasks.Tasks
) -> None:
    try:
        async with asyncio.timeout(_CONNECT_S):
            far_reader, far_writer = await asyncio.open_connection(*_parts(to))
    except (OSError, TimeoutError):
        writer.close()
        return
    there = owned.spawn(_copy(reader, far_writer), name="there")
    try:
        await _copy(far_reader, writer)
        await there
    finally:
        there.cancel()
        for each in (writer, far_writer):
            each.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
