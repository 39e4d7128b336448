"""A process in a machine that connected to `/.fly/api`: what a host takes off the channel."""

import asyncio

from godwit.agent import ports
from godwit.wire.channel import Kind


class GuestCall:
    """One connection, from both ends.

    Attributes:
        heard: What came back so far.
        pieces: In how many pieces it has spoken.
    """

    def __init__(self, said: bytes = b"", *, ended: bool = False) -> None:
        self.heard = bytearray()
        self.pieces = 0
        self._said: asyncio.Queue[ports.Chunk | None] = asyncio.Queue()
        self._over: asyncio.Future[ports.Exit] = asyncio.get_running_loop().create_future()
        if said:
            self.say(said)
        if ended:
            self._said.put_nowait(None)

    def say(self, data: bytes) -> None:
        """Send something."""
        self.pieces += 1
        self._said.put_nowait(ports.Chunk(Kind.STDOUT, data))

    def hang_up(self) -> None:
        """Go away without a word."""
        self._end()

    async def answer(self, within_s: float = 5.0) -> bytes:
        """Return all that came back, once the connection has ended."""
        async with asyncio.timeout(within_s):
            await asyncio.shield(self._over)
        return bytes(self.heard)

    async def read(self) -> ports.Chunk | None:
        """Return what the process says next."""
        chunk = await self._said.get()
        if chunk is None:
            self._said.put_nowait(None)
        return chunk

    async def write(self, data: bytes) -> None:
        """Take an answer."""
        if self._over.done():
            raise BrokenPipeError("the process has gone")
        self.heard += data

    async def write_eof(self) -> None:
        """End, as a process does that has its answer."""
        self._end()

    async def resize(self, window: ports.Window) -> None:
        """Do nothing: there is no terminal."""

    async def wait(self) -> ports.Exit:
        """Return once it has ended."""
        return await asyncio.shield(self._over)

    async def close(self, *, within_s: float = 5.0) -> None:
        """Be hung up on."""
        del within_s
        self._end()

    def _end(self) -> None:
        self._said.put_nowait(None)
        if not self._over.done():
            self._over.set_result(ports.Exit(0, None))
