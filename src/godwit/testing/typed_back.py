"""A command that answers what is typed: the fake behind terminals. `exit N` ends it."""

import asyncio

from godwit.agent import ports
from godwit.wire.channel import Kind


class TypedBack:
    """Says who it is, then every line it gets; `size` tells its window, `flood` says a lot."""

    def __init__(self, greeting: str, window: ports.Window | None) -> None:
        self._window = window
        self._said: asyncio.Queue[ports.Chunk | None] = asyncio.Queue()
        self._exit: asyncio.Future[ports.Exit] = asyncio.get_running_loop().create_future()
        self._line = bytearray()
        self.unread = 0
        self.pieces = 0
        self._say(greeting.encode() + b"\n")

    async def read(self) -> ports.Chunk | None:
        """Return what it says next."""
        chunk = await self._said.get()
        if chunk is None:
            self._said.put_nowait(None)
            return None
        self.unread -= len(chunk.data)
        return chunk

    async def write(self, data: bytes) -> None:
        """Take input, line by line."""
        if self._exit.done():
            raise BrokenPipeError("the command has ended")
        self._line += data
        while b"\n" in self._line:
            line, _, rest = bytes(self._line).partition(b"\n")
            self._line = bytearray(rest)
            self._take(line)

    async def write_eof(self) -> None:
        """End as a shell does."""
        self._end(0)

    async def resize(self, window: ports.Window) -> None:
        """Take note of the new size."""
        self._window = window

    async def wait(self) -> ports.Exit:
        """Return how it ended."""
        return await asyncio.shield(self._exit)

    async def close(self, *, within_s: float = 5.0) -> None:
        """End it."""
        del within_s
        self._end(137, 9)

    def _take(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        if word == b"exit":
            self._end(int(rest or b"0"))
        elif word == b"size" and self._window is not None:
            self._say(b"%d x %d\n" % self._window)
        elif word == b"flood":
            for _ in range(int(rest)):
                self._say(b"x" * 1024)
        elif word == b"warn":
            self._said.put_nowait(ports.Chunk(Kind.STDERR, rest + b"\n"))
        else:
            self._say(line + b"\n")

    def _say(self, data: bytes) -> None:
        self.unread += len(data)
        self._said.put_nowait(ports.Chunk(Kind.STDOUT, data))

    def _end(self, code: int, signal: int | None = None) -> None:
        if not self._exit.done():
            self._exit.set_result(ports.Exit(code, signal))
            self._said.put_nowait(None)


class PutIn(TypedBack):
    """What makes a file of its input, which is whole at the end."""

    def __init__(self, files: dict[str, str], path: str) -> None:
        super().__init__("", None)
        self._files = files
        self._path = path
        self._content = bytearray()

    async def write(self, data: bytes) -> None:
        """Take input."""
        self._content += data

    async def write_eof(self) -> None:
        """Make the file."""
        self._files[self._path] = self._content.decode()
        await super().write_eof()
