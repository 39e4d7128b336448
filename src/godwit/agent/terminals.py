"""Commands that run in guests while somebody types.

Each is held here with a connection to its shim of its own: output waits until it was read, as
much as fits; then the guest waits. Ended by its command, by `close`, or when nobody has asked
for a while: a client that is gone leaves nothing running. An agent that ends takes them along.
"""

import asyncio
import base64
import contextlib
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from godwit.agent import ports
from godwit.base import clock, errors, tasks
from godwit.wire import terminals

MOST = 128
MOST_OF_ORG = 32
IDLE_S = 90.0
"""Past it without a read a terminal is closed: three times the longest read."""
_KEPT_BYTES = 262_144
_ANSWER_BYTES = 98_304
_CLOSE_S = 5.0
_LINGER_S = 60.0
_TYPED_BYTES = 131_072
_PORTION_BYTES = 16_384

Opener = Callable[[], AbstractAsyncContextManager[ports.ShimSession]]
"""Opens a session with the machine's shim."""


class Terminal:
    """One command, its output not yet read, and the end of its input.

    Attributes:
        machine_id: Where it runs.
        subject: Who opened it; nobody else may use it.
    """

    def __init__(self, machine_id: str, org_id: str, subject: str, the_clock: clock.Clock) -> None:
        self.terminal_id = secrets.token_hex(16)
        self.machine_id = machine_id
        self.org_id = org_id
        self.subject = subject
        self._clock = the_clock
        self._stream: ports.ExecStream | None = None
        self._kept: deque[tuple[str, bytes]] = deque()
        self._read_to = 0
        self._arrived_to = 0
        self._typed_to = 0
        self._exit: tuple[int, int | None] | None = None
        self._lost = ""
        self._changed = asyncio.Condition()
        self._typed = bytearray()
        self._type = asyncio.Event()
        self._closed = False
        self.touched_at = the_clock.monotonic()
        self.reading = 0

    async def follow(self, stream: ports.ExecStream) -> None:
        """Take the command's output until it ends."""
        self._stream = stream
        while (chunk := await stream.read()) is not None:
            name = chunk.kind.name.lower()
            async with self._changed:
                await self._changed.wait_for(
                    lambda: self._arrived_to - self._read_to < _KEPT_BYTES
                )
                self._kept.append((name, chunk.data))
                self._arrived_to += len(chunk.data)
                self._changed.notify_all()
        ended = await stream.wait()
        await self._end((ended.exit_code, ended.signal))

    async def lost(self, sentence: str) -> None:
        """Take note that the command cannot be followed any more."""
        self._lost = sentence
        await self._end(None)

    async def _end(self, how: tuple[int, int | None] | None) -> None:
        async with self._changed:
            self._exit = how
            self._lost = self._lost or ("" if how else "the machine's shim is gone")
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Tell whether nothing more can come."""
        return self._exit is not None or bool(self._lost)

    async def read(self, after: int, wait_s: float) -> terminals.TerminalOutput:
        """Return the output past a position, once there is some or it has ended.

        Raises:
            Failure: `invalid_argument` (a position that was never told or is gone),
                `unavailable` when the command was lost.
        """
        self.reading += 1
        try:
            async with self._changed:
                self._forget(after)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait_for(lambda: self._kept or self.ended)
                return self._told()
        finally:
            self.reading -= 1
            self.touched_at = self._clock.monotonic()

    def _forget(self, after: int) -> None:
        if not self._read_to <= after <= self._arrived_to:
            raise errors.invalid(
                f"after: output is kept from {self._read_to} to {self._arrived_to}, not {after}"
            )
        while self._read_to < after:
            name, data = self._kept.popleft()
            gone = min(len(data), after - self._read_to)
            if gone < len(data):
                self._kept.appendleft((name, data[gone:]))
            self._read_to += gone
        self._changed.notify_all()

    def _told(self) -> terminals.TerminalOutput:
        pieces, size = [], 0
        for name, data in self._kept:
            part = data[: _ANSWER_BYTES - size]
            if not part:
                break
            pieces.append(_piece(name, part))
            size += len(part)
        if not pieces and self._lost:
            raise errors.Failure("unavailable", f"the command was lost: {self._lost}")
        over = self._exit is not None and self._read_to + size == self._arrived_to
        code, signal = self._exit if over and self._exit else (None, None)
        return terminals.TerminalOutput(
            position=self._read_to + size,
            pieces=tuple(pieces),
            ended=over,
            exit_code=code,
            exit_signal=signal,
        )

    async def write(self, asked: terminals.WriteTerminal) -> int:
        """Take input, at most once; return how much of it was taken so far.

        Raises:
            Failure: `conflict` when there is a hole before it, `rate_limited` when the command
                takes no input now, `failed_precondition` when it has ended.
        """
        data = _decoded(asked.data_base64)
        self.touched_at = self._clock.monotonic()
        stream = self._stream
        if stream is None or self.ended or self._closed:
            raise errors.Failure("failed_precondition", "the command takes no more input")
        if asked.at > self._typed_to:
            raise errors.Failure("conflict", f"at: input was taken up to {self._typed_to}")
        fresh = data[self._typed_to - asked.at :]
        if len(self._typed) + len(fresh) > _TYPED_BYTES:
            raise errors.Failure(
                "rate_limited", "the command takes no input now", hint="send it again later"
            )
        if asked.window is not None:
            await _heard(stream.resize(ports.Window(asked.window.rows, asked.window.cols)))
        self._typed += fresh
        self._typed_to += len(fresh)
        self._closed = asked.eof
        self._type.set()
        return self._typed_to

    async def feed(self, stream: ports.ExecStream) -> None:
        """Pass input on as fast as the command takes it, until its end."""
        while True:
            await self._type.wait()
            self._type.clear()
            while self._typed:
                part = bytes(self._typed[:_PORTION_BYTES])
                await stream.write(part)
                del self._typed[: len(part)]
            if self._closed:
                await stream.write_eof()
                return


class Terminals:
    """Every terminal of this host."""

    def __init__(self, the_clock: clock.Clock, owned: tasks.Tasks) -> None:
        self._clock = the_clock
        self._tasks = owned
        self._open: dict[str, Terminal] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    async def open(
        self,
        opener: Opener,
        asked: terminals.OpenTerminal,
        env: dict[str, str],
        *,
        org_id: str,
        subject: str,
    ) -> Terminal:
        """Start a command and return its terminal once it runs.

        Raises:
            Failure: `rate_limited` (too many are open), and why it did not start.
        """
        self._demand_room(org_id)
        made = Terminal(asked.machine_id, org_id, subject, self._clock)
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open[made.terminal_id] = made
        running = self._tasks.spawn(
            self._run(made, opener, asked, env, started), name=f"terminal.{asked.machine_id}"
        )
        self._running[made.terminal_id] = running
        try:
            await asyncio.shield(started)
        except BaseException:
            running.cancel()
            raise
        return made

    def get(self, subject: str, machine_id: str, terminal_id: str) -> Terminal:
        """Return an open terminal to who opened it.

        Raises:
            Failure: `not_found`.
        """
        found = self._open.get(terminal_id)
        if found is None or (found.machine_id, found.subject) != (machine_id, subject):
            raise errors.not_found(
                "that terminal is not open",
                hint="it ends with its command, or when nobody has read from it for a while",
            )
        return found

    def close(self, terminal: Terminal) -> None:
        """End a terminal's command if it still runs."""
        running = self._running.get(terminal.terminal_id)
        if running is not None:
            running.cancel()

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def _demand_room(self, org_id: str) -> None:
        mine = sum(1 for one in self._open.values() if one.org_id == org_id)
        if len(self._open) >= MOST or mine >= MOST_OF_ORG:
            raise errors.Failure(
                "rate_limited", "too many terminals are open on this host", hint="close some"
            )

    async def _run(
        self,
        made: Terminal,
        opener: Opener,
        asked: terminals.OpenTerminal,
        env: dict[str, str],
        started: asyncio.Future[None],
    ) -> None:
        window = asked.window
        tty = None if window is None else ports.Window(window.rows, window.cols)
        try:
            async with opener() as session:
                stream = await session.open_exec(
                    asked.command, env, user=asked.user, tty=tty, container=asked.container
                )
                if not started.done():
                    started.set_result(None)
                await self._serve(made, stream)
        except errors.Failure as failure:
            if started.done():
                await made.lost(failure.message)
            else:
                started.set_exception(failure)
        finally:
            if not started.done():
                started.cancel()
            self._open.pop(made.terminal_id, None)
            self._running.pop(made.terminal_id, None)

    async def _serve(self, made: Terminal, stream: ports.ExecStream) -> None:
        """Follow a command to its end and until somebody heard of it, or nobody asks any more."""
        try:
            async with tasks.Tasks(made.machine_id) as owned:
                following = owned.spawn(self._follow(made, stream), name="follow")
                owned.spawn(_heard(made.feed(stream)), name="feed")
                while not following.done() and not self._deserted(made, IDLE_S):
                    await asyncio.wait({following}, timeout=1.0)
                while following.done() and not self._deserted(made, _LINGER_S):
                    await self._clock.sleep(1.0)
        finally:
            with contextlib.suppress(ConnectionError, TimeoutError):
                await stream.close(within_s=_CLOSE_S)

    async def _follow(self, made: Terminal, stream: ports.ExecStream) -> None:
        try:
            await made.follow(stream)
        except ConnectionError as error:
            await made.lost(str(error))
        except errors.Failure as failure:
            await made.lost(failure.message)

    def _deserted(self, made: Terminal, after_s: float) -> bool:
        return not made.reading and self._clock.monotonic() - made.touched_at > after_s


async def _heard(telling: Awaitable[None]) -> None:
    """Tell the command something; one that has just ended need not hear it."""
    with contextlib.suppress(ConnectionError):
        await telling


def _piece(name: str, data: bytes) -> terminals.Piece:
    return terminals.Piece.model_validate(
        {"stream": name, "data_base64": base64.b64encode(data).decode()}
    )


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise errors.invalid("data: is not base64") from error
    if len(data) > terminals.MOST_INPUT_BYTES:
        raise errors.invalid(f"data: at most {terminals.MOST_INPUT_BYTES} bytes at once")
    return data
