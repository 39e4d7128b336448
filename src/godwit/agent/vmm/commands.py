"""Running one command in a guest to its end: input in, output gathered, a deadline around it."""

import asyncio
import contextlib
from typing import Protocol

from godwit.agent.vmm import exec_stream
from godwit.base import errors, tasks
from godwit.wire import channel, host_rpc

OUTPUT_BYTES = 131_072
"""Kept of each stream; the rest is thrown away, and the output says so."""
_CUT = "\n[cut: the rest of the output is not shown]\n"
_TERMINAL = exec_stream.Window(rows=24, cols=80)


class Guest(Protocol):
    """What starts commands."""

    async def open_exec(
        self,
        argv: tuple[str, ...],
        env: dict[str, str],
        *,
        user: str = "",
        working_directory: str = "/",
        tty: exec_stream.Window | None = None,
    ) -> exec_stream.ExecStream:
        """Start a command."""


class _Output:
    """One stream's bytes up to the limit."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._cut = False

    def add(self, data: bytes) -> None:
        room = OUTPUT_BYTES - len(self._kept)
        self._kept += data[:room]
        self._cut = self._cut or len(data) > room

    def text(self) -> str:
        return self._kept.decode(errors="replace") + (_CUT if self._cut else "")


async def run(
    guest: Guest, request: host_rpc.ExecRequest, env: dict[str, str]
) -> host_rpc.ExecAnswer:
    """Run the command.

    Raises:
        Failure: `deadline_exceeded`, `failed_precondition` (not running), `invalid_argument` (no
            such program or user).
    """
    if not request.command:
        raise errors.invalid("there is no command to run")
    try:
        async with asyncio.timeout(request.timeout_s):
            return await _run(guest, request, env)
    except TimeoutError as error:
        raise errors.Failure(
            "deadline_exceeded",
            f"the command did not end within {request.timeout_s:g} s and was killed",
            hint="give it more time, or run it in the background",
        ) from error
    except ConnectionError as error:
        raise exec_stream.not_running(str(error)) from error


async def _run(
    guest: Guest, request: host_rpc.ExecRequest, env: dict[str, str]
) -> host_rpc.ExecAnswer:
    stream = await guest.open_exec(
        request.command, env, user=request.user, tty=_TERMINAL if request.tty else None
    )
    gathered = {channel.Kind.STDOUT: _Output(), channel.Kind.STDERR: _Output()}
    try:
        async with tasks.Tasks("exec") as feeding:
            feeding.spawn(_feed(stream, request.stdin.encode()), name="stdin")
            while (chunk := await stream.read()) is not None:
                gathered[chunk.kind].add(chunk.data)
            ended = await stream.wait()
    finally:
        with contextlib.suppress(ConnectionError, TimeoutError):
            await stream.close()
    return host_rpc.ExecAnswer(
        exit_code=ended.exit_code,
        exit_signal=ended.signal,
        stdout=gathered[channel.Kind.STDOUT].text(),
        stderr=gathered[channel.Kind.STDERR].text(),
    )


async def _feed(stream: exec_stream.ExecStream, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        await stream.write(data)
        await stream.write_eof()
