"""Running other programs: always with a deadline, never through a shell.

The only module of the package that starts subprocesses: `run` for short-lived ones, `stream` for
those whose lines are wanted as they come, `detach` for the few that are meant to outlive us.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finished:
    """A program that ended by itself."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: bytes
    stderr: bytes


class ProgramFailed(Exception):
    """A program exited non-zero, could not be started or ran past its deadline.

    Attributes:
        argv: What was run.
        reason: `exit 2`, `not installed`, `no answer within 30 s`.
        stderr: The end of what it said.
    """

    def __init__(self, argv: Sequence[str], reason: str, stderr: str = "") -> None:
        said = f": {stderr.strip()[-2000:]}" if stderr.strip() else ""
        super().__init__(f"{argv[0]}: {reason}{said}")
        self.argv = tuple(argv)
        self.reason = reason
        self.stderr = stderr


async def run(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout_s: float = 60.0,
    check: bool = True,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run a program to its end and return what it printed.

    Raises:
        ProgramFailed: It is not installed, ran past `timeout_s`, or exited non-zero
            while `check` is set.
    """
    process, transport = await _start(
        argv, cwd, env, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate(stdin)
    except TimeoutError as error:
        raise ProgramFailed(argv, f"no answer within {timeout_s:g} s") from error
    finally:
        # Kills it too. First, since `wait` waits for the pipes, which others may hold.
        transport.close()
        await process.wait()
    code = process.returncode if process.returncode is not None else -1
    if check and code != 0:
        raise ProgramFailed(argv, f"exit {code}", stderr.decode(errors="replace"))
    return Finished(tuple(argv), code, stdout, stderr)


async def _start(
    argv: Sequence[str],
    cwd: str | None,
    env: Mapping[str, str] | None,
    *,
    stdin: int,
    stderr: int,
    start_new_session: bool = False,
) -> tuple[asyncio.subprocess.Process, asyncio.SubprocessTransport]:
    """Start a program whose output is read here.

    As `asyncio.create_subprocess_exec`, which keeps the transport to itself: without closing it,
    the pipe stays open for as long as anything that left the program's group holds its other end.

    Raises:
        ProgramFailed: It is not installed.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, protocol = await loop.subprocess_exec(
            lambda: asyncio.subprocess.SubprocessStreamProtocol(_BUFFERED, loop),
            *argv,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=cwd,
            env=env,
            start_new_session=start_new_session,
        )
    except FileNotFoundError as error:
        raise ProgramFailed(argv, "not installed") from error
    return asyncio.subprocess.Process(transport, protocol, loop), transport


_BUFFERED = 65_536
_CLEAR_OF_TARGETS = 64
_RESET_SIGNALS = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


def detach(
    argv: Sequence[str],
    *,
    stderr: int,
    descriptors: Mapping[int, int],
    env: Mapping[str, str],
) -> int:
    """Start a program that outlives us, in a session of its own; return its pid.

    It gets no input, its output is thrown away, and it inherits nothing but what is named. While
    this process and its event loop live, its end is reaped; after that init does so.

    Args:
        argv: Program (a path) and arguments.
        stderr: Descriptor that its standard error goes to.
        descriptors: Its numbers (from 3, below 64) to descriptors of ours.
        env: Its whole environment.

    Raises:
        ProgramFailed: It could not be started.
    """
    with contextlib.ExitStack() as ours:
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ]
        for theirs, given in {2: stderr, **descriptors}.items():
            moved = fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, _CLEAR_OF_TARGETS)
            ours.callback(os.close, moved)
            actions.append((os.POSIX_SPAWN_DUP2, moved, theirs))
        try:
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                dict(env),
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_RESET_SIGNALS,
            )
        except OSError as error:
            raise ProgramFailed(argv, error.strerror or "could not be started") from error
    _reap(pid)
    return pid


def _reap(pid: int) -> None:
    """Collect the exit of a child of ours when it comes."""
    loop = asyncio.get_running_loop()
    ended = os.pidfd_open(pid)

    def collect() -> None:
        loop.remove_reader(ended)
        os.close(ended)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    loop.add_reader(ended, collect)


_LONGEST_LINE = 16_384


async def stream(
    argv: Sequence[str],
    *,
    timeout_s: float,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    grace_s: float = 5.0,
) -> AsyncGenerator[str]:
    """Run a program and yield the lines it prints, to either output, as they come.

    Closing the generator early, its deadline and cancellation end the program and everything it
    started: SIGTERM to its process group, SIGKILL after `grace_s`. Close it with
    `contextlib.aclosing`. Lines longer than 16 KiB come in parts.

    Raises:
        ProgramFailed: It is not installed, ran past `timeout_s`, or exited non-zero.
    """
    process, transport = await _start(
        argv,
        cwd,
        env,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    try:
        rest = b""
        while piece := await asyncio.wait_for(_more(process), deadline - loop.time()):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                yield line.decode(errors="replace").rstrip("\r")
        if rest:
            yield rest.decode(errors="replace")
        code = await asyncio.wait_for(process.wait(), max(0.0, deadline - loop.time()))
    except TimeoutError as error:
        raise ProgramFailed(argv, f"no answer within {timeout_s:g} s") from error
    finally:
        try:
            await _end_group(process, grace_s)
        finally:
            transport.close()
    if code != 0:
        raise ProgramFailed(argv, f"exit {code}")


async def _more(process: asyncio.subprocess.Process) -> bytes:
    return await process.stdout.read(_LONGEST_LINE) if process.stdout is not None else b""


async def _end_group(process: asyncio.subprocess.Process, grace_s: float) -> None:
    """End what is left of a process and of its group; at once when waiting is cancelled."""
    try:
        await _ask_then_kill(process, grace_s)
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise


async def _ask_then_kill(process: asyncio.subprocess.Process, grace_s: float) -> None:
    for sign, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), wait_s)
            if sign is signal.SIGKILL:
                return
