"""Running one command in a guest to its end: input in, output gathered, a deadline around it.

The guest's processes are told the same way: init's own program, run beside PID 1, prints them.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError

from godwit.agent import ports
from godwit.agent.vmm import exec_stream
from godwit.base import encoded, errors, tasks
from godwit.wire import channel, host_rpc

OUTPUT_BYTES = 131_072
"""Kept of each stream; the rest is thrown away, and the output says so."""
ENCODED_BYTES = 196_608
"""Of each stream as JSON: what is no text takes up to six times its room, and an answer with both
streams has to fit the bus."""
_CUT = "\n[cut: the rest of the output is not shown]\n"
_TERMINAL = ports.Window(rows=24, cols=80)
_PS = ("/proc/1/exe", "ps")
_PS_S = 10.0
_UNKNOWN_TO_INIT = 2
"""What an init exits with that does not know the word: one of an older release."""


class Guest(Protocol):
    """What starts commands."""

    async def open_exec(
        self,
        argv: tuple[str, ...],
        env: dict[str, str],
        *,
        user: str = "",
        working_directory: str = "/",
        tty: ports.Window | None = None,
        container: str = "",
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
        """Return all that is kept."""
        return self._kept.decode(errors="replace")

    def shown(self) -> str:
        """Return as much as fits an answer; what was cut says so."""
        text = self.text()
        fitting = encoded.beginning(text, ENCODED_BYTES)
        return fitting + _CUT if self._cut or len(fitting) < len(text) else text


@dataclass(frozen=True)
class _Ended:
    """How a command ended, and what it put out."""

    exit_code: int
    exit_signal: int | None
    stdout: _Output
    stderr: _Output


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
    ended = await _bounded(guest, request, env)
    return host_rpc.ExecAnswer(
        exit_code=ended.exit_code,
        exit_signal=ended.exit_signal,
        stdout=ended.stdout.shown(),
        stderr=ended.stderr.shown(),
    )


async def _bounded(guest: Guest, request: host_rpc.ExecRequest, env: dict[str, str]) -> _Ended:
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


async def processes(guest: Guest) -> tuple[host_rpc.GuestProcess, ...]:
    """Return the guest's processes, at most a few hundred.

    Raises:
        Failure: `failed_precondition` (not running, or its init is too old to tell),
            `deadline_exceeded`, `unavailable` (the guest tells nonsense).
    """
    request = host_rpc.ExecRequest(machine_id="", command=_PS, timeout_s=_PS_S)
    answer = await _bounded(guest, request, {})
    if answer.exit_code == _UNKNOWN_TO_INIT:
        raise errors.Failure(
            "failed_precondition",
            "the machine was started by an older release, whose init tells of no processes",
            hint="restart the machine",
        )
    try:
        return host_rpc.GuestProcesses.model_validate_json(answer.stdout.text()).processes
    except ValidationError as error:
        raise errors.Failure(
            "unavailable",
            "the guest's list of processes cannot be read",
            hint="look with a command of the image's own, such as ps",
        ) from error


async def _run(guest: Guest, request: host_rpc.ExecRequest, env: dict[str, str]) -> _Ended:
    stream = await guest.open_exec(
        request.command,
        env,
        user=request.user,
        tty=_TERMINAL if request.tty else None,
        container=request.container,
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
    return _Ended(
        exit_code=ended.exit_code,
        exit_signal=ended.signal,
        stdout=gathered[channel.Kind.STDOUT],
        stderr=gathered[channel.Kind.STDERR],
    )


async def _feed(stream: exec_stream.ExecStream, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        await stream.write(data)
        await stream.write_eof()
