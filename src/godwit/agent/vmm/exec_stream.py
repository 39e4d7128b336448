"""One command in a guest, as three byte streams with flow control and an end.

Made by `Session.open_exec`. The session's reader puts in what arrives (`take…`, `lost`); whoever
runs the command takes it out. Credit keeps both sides bounded: what is not read here is not sent
there (see `wire.channel`).
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from godwit.agent.ports import Chunk, Exit, Window
from godwit.base import errors
from godwit.wire import channel

MESSAGES = frozenset({"exec_started", "exec_exited", "exec_failed"})
_CREDIT = struct.Struct(">I")
_GRANT_BYTES = 65_536
"""Consumed bytes are granted again in portions, not one by one."""


def not_running(message: str) -> errors.Failure:
    """Return the failure for a machine that takes no commands now."""
    return errors.Failure("failed_precondition", f"the machine is not running: {message}")


class ExecStream:
    """A command that runs in a guest.

    Attributes:
        number: Names it on its connection.
        pieces: How many pieces of output have come.
    """

    def __init__(
        self,
        number: int,
        send: Callable[[bytes], Awaitable[None]],
        credit: int = channel.INITIAL_CREDIT,
    ) -> None:
        self.number = number
        self.pieces = 0
        self._send = send
        loop = asyncio.get_running_loop()
        self._pid: asyncio.Future[int] = loop.create_future()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self._output: asyncio.Queue[Chunk | None] = asyncio.Queue()
        self._to_grant = 0
        self._allowed = credit
        self._portion = min(_GRANT_BYTES, credit)
        self._ended = False
        self._credit = channel.INITIAL_CREDIT
        self._may_write = asyncio.Event()

    async def started(self) -> int:
        """Return the command's pid in the guest, once it runs.

        Raises:
            Failure: `invalid_argument` (no such program or user), `failed_precondition`.
            ConnectionError: The shim is gone.
        """
        return await asyncio.shield(self._pid)

    async def read(self) -> Chunk | None:
        """Return the next output, `None` at its end."""
        chunk = await self._output.get()
        if chunk is None:
            self._output.put_nowait(None)
            return None
        self._to_grant += len(chunk.data)
        if self._to_grant >= self._portion and not self._exit.done():
            granted, self._to_grant = self._to_grant, 0
            self._allowed += granted
            await self._frame(channel.Kind.CREDIT, _CREDIT.pack(granted))
        return chunk

    async def write(self, data: bytes) -> None:
        """Send bytes to the command's standard input, as fast as it takes them.

        Raises:
            BrokenPipeError: The command has ended.
            ConnectionError: The shim is gone.
        """
        rest = memoryview(data)
        while rest:
            while self._credit == 0 and not self._exit.done():
                self._may_write.clear()
                await self._may_write.wait()
            if self._exit.done():
                raise BrokenPipeError("the command has ended")
            size = min(len(rest), self._credit, channel.MAX_PAYLOAD)
            self._credit -= size
            await self._frame(channel.Kind.STDIN, bytes(rest[:size]))
            rest = rest[size:]

    async def write_eof(self) -> None:
        """Tell the command that its input is at an end."""
        await self._frame(channel.Kind.EOF, b"")

    async def resize(self, window: Window) -> None:
        """Change the size of the command's terminal."""
        await self._message({"type": "resize", **window._asdict()})

    async def signal(self, name: str) -> None:
        """Send the command a signal, such as `SIGINT`."""
        await self._message({"type": "exec_signal", "signal": name})

    async def wait(self) -> Exit:
        """Return how the command ended. Its output must be read, or it may never end.

        Raises:
            ConnectionError: The shim is gone.
        """
        return await asyncio.shield(self._exit)

    async def close(self, *, within_s: float = 5.0) -> None:
        """End the command if it still runs; what it has yet to say is thrown away."""
        if self._exit.done():
            return
        await self.signal("SIGKILL")
        async with asyncio.timeout(within_s):
            while await self.read() is not None:
                pass

    def take(self, frame: channel.Frame) -> None:
        """Take a frame of this stream.

        Raises:
            BadFrame: More output than was allowed.
        """
        if frame.kind in (channel.Kind.STDOUT, channel.Kind.STDERR):
            self._allowed -= len(frame.payload)
            if self._allowed < 0:
                raise channel.BadFrame(f"stream {self.number} sends without credit")
            self.pieces += 1
            self._output.put_nowait(Chunk(frame.kind, frame.payload))
        elif frame.kind == channel.Kind.EOF and not self._ended:
            self._ended = True
            self._output.put_nowait(None)
        elif frame.kind == channel.Kind.CREDIT and len(frame.payload) == _CREDIT.size:
            self._credit += _CREDIT.unpack(frame.payload)[0]
            self._may_write.set()

    def take_message(self, body: dict[str, Any]) -> bool:
        """Take a message about this stream; return whether it was the last."""
        if body["type"] == "exec_started":
            if not self._pid.done():
                self._pid.set_result(int(body.get("pid", 0)))
            return False
        if body["type"] == "exec_failed":
            message = str(body.get("message", "the command did not start"))
            broken = errors.Failure("unavailable", f"the command was lost: {message}")
            self._fail(broken if self._pid.done() else errors.invalid(message))
            return True
        if not self._pid.done():
            self._pid.set_result(0)
        if not self._exit.done():
            self._exit.set_result(Exit(int(body.get("exit_code", -1)), body.get("signal")))
        self._output.put_nowait(None)
        self._may_write.set()
        return True

    def refuse(self, message: str) -> bool:
        """Take the shim's word that it cannot start this; return whether it was waiting to."""
        if self._pid.done():
            return False
        self._fail(not_running(message))
        return True

    def lost(self, error: Exception) -> None:
        """Take note that the connection is gone."""
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        for future in (self._pid, self._exit):
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: nobody may be waiting
        self._output.put_nowait(None)
        self._may_write.set()

    async def _frame(self, kind: channel.Kind, payload: bytes) -> None:
        await self._send(channel.encode(channel.Frame(kind, self.number, payload)))

    async def _message(self, body: dict[str, Any]) -> None:
        await self._send(channel.message({**body, "stream": self.number}))
