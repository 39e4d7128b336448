"""This program's terminal joined to one in a machine: keys there, output here, until it ends."""

import asyncio
import contextlib
import os
import signal
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from godwit.base import errors, tasks
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.terminals import MOST_AT_ONCE, Window

_AGAIN_S = 0.5
_PATIENCE_S = 30.0
_PASSING = frozenset({"unavailable", "deadline_exceeded", "rate_limited"})


@dataclass(frozen=True)
class Place:
    """A terminal in a machine."""

    app: str
    machine_id: str
    terminal_id: str


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person sits at a stream."""
    return stream.isatty()


def window(stream: TextIO) -> Window:
    """Return the size of a terminal as it is now, whatever COLUMNS said at the start."""
    size = os.get_terminal_size(stream.fileno())
    return Window(rows=size.lines, cols=size.columns)


async def open_and_attach(
    here: Session,
    api: Api,
    app: str,
    machine_id: str,
    command: list[str],
    *,
    user: str = "",
    container: str = "",
) -> int:
    """Run a command in a machine with this program's input and output; return its exit code.

    Where this program's input and output are a terminal, the command gets one too.

    Raises:
        Failure: It did not start, or was lost.
    """
    lively = is_terminal(here.stdin) and is_terminal(here.out.stdout)
    terminal_id = await api.terminals.open(
        app,
        machine_id,
        command,
        user=user,
        term=here.environ.get("TERM", ""),
        window=window(here.out.stdout) if lively else None,
        container=container,
    )
    place = Place(app, machine_id, terminal_id)
    try:
        with _raw(here.stdin) if lively else contextlib.nullcontext():
            return await _joined(here, api, place, lively=lively)
    finally:
        with contextlib.suppress(errors.Failure):
            await api.terminals.close(app, machine_id, terminal_id)


async def _joined(here: Session, api: Api, place: Place, *, lively: bool) -> int:
    async with tasks.Tasks("terminal", grace_s=1.0) as owned:
        keys = _Keys(here, api, place)
        typing = owned.spawn(keys.pass_on(lively=lively), name="keys")
        showing = owned.spawn(_show(here, api, place), name="show")
        await asyncio.wait({typing, showing}, return_when=asyncio.FIRST_COMPLETED)
        if not showing.done():
            # Input is at its end, or cannot be passed on.
            await typing
        return await showing


async def _show(here: Session, api: Api, place: Place) -> int:
    """Print the command's output until it ends; return its exit code."""
    position, broken_since = 0, None
    while True:
        try:
            came = await api.terminals.read(
                place.app, place.machine_id, place.terminal_id, after=position
            )
        except errors.Failure as failure:
            # An API that is being restarted: the terminal waits for us at its host.
            now = here.clock.monotonic()
            broken_since = now if broken_since is None else broken_since
            if failure.code not in _PASSING or now - broken_since > _PATIENCE_S:
                raise
            await here.clock.sleep(_AGAIN_S)
            continue
        broken_since, position = None, came.position
        for name, data in came.pieces:
            _print(here.out.stdout if name == "stdout" else here.out.stderr, data)
        if came.exit_code is not None:
            return came.exit_code


def _print(stream: TextIO, data: bytes) -> None:
    binary = getattr(stream, "buffer", None)
    if binary is None:
        stream.write(data.decode(errors="replace"))
    else:
        binary.write(data)
    stream.flush()


class _Keys:
    """What is typed here, on its way to the machine."""

    def __init__(self, here: Session, api: Api, place: Place) -> None:
        self._here = here
        self._api = api
        self._place = place
        self._typed = bytearray()
        self._ended = False
        self._resized = False
        self._something = asyncio.Event()
        self._at = 0

    async def pass_on(self, *, lively: bool) -> None:
        """Pass input on until its end."""
        loop = asyncio.get_running_loop()
        source = self._here.stdin.fileno()
        if lively:
            loop.add_signal_handler(signal.SIGWINCH, self._resize)
            loop.add_reader(source, self._read, source)
        try:
            if lively:
                await self._send()
            else:
                async with tasks.Tasks("stdin", grace_s=0.1) as owned:
                    owned.spawn(self._read_all(source), name="read")
                    await self._send()
        finally:
            if lively:
                loop.remove_reader(source)
                loop.remove_signal_handler(signal.SIGWINCH)

    def _read(self, source: int) -> None:
        try:
            data = os.read(source, MOST_AT_ONCE)
        except OSError:
            data = b""
        self._take(data)
        if not data:
            asyncio.get_running_loop().remove_reader(source)

    async def _read_all(self, source: int) -> None:
        """Read a pipe or file: those cannot all be polled."""
        while data := await asyncio.to_thread(os.read, source, MOST_AT_ONCE):
            self._take(data)
            while len(self._typed) > MOST_AT_ONCE:
                await asyncio.sleep(0.01)
        self._take(b"")

    def _take(self, data: bytes) -> None:
        self._typed += data
        self._ended = self._ended or not data
        self._something.set()

    def _resize(self) -> None:
        self._resized = True
        self._something.set()

    async def _send(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while self._typed or self._resized:
                await self._send_once(bytes(self._typed[:MOST_AT_ONCE]))
            if self._ended:
                await self._send_once(b"", eof=True)
                return

    async def _send_once(self, data: bytes, *, eof: bool = False) -> None:
        resized, self._resized = self._resized, False
        place = self._place
        try:
            self._at = await self._api.terminals.write(
                place.app,
                place.machine_id,
                place.terminal_id,
                at=self._at,
                data=data,
                eof=eof,
                window=window(self._here.out.stdout) if resized else None,
            )
        except errors.Failure as failure:
            if failure.code in ("failed_precondition", "not_found"):
                # The command has ended; its output tells how.
                self._typed.clear()
                self._ended = True
                return
            if failure.code not in _PASSING:
                raise
            self._resized = self._resized or resized
            await self._here.clock.sleep(_AGAIN_S)
            if eof:
                await self._send_once(data, eof=True)
            return
        del self._typed[: len(data)]


@contextlib.contextmanager
def _raw(stream: TextIO) -> Iterator[None]:
    """Have every key come as it is, Ctrl-C included, until the end."""
    source = stream.fileno()
    before = termios.tcgetattr(source)
    tty.setraw(source)
    try:
        yield
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)
