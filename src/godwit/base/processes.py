"""Running other programs: always with a deadline, never through a shell.

The only module of the package that starts short-lived subprocesses.
"""

import asyncio
from collections.abc import Mapping, Sequence
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
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd,
            env=env,
        )
    except FileNotFoundError as error:
        raise ProgramFailed(argv, "not installed") from error
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate(stdin)
    except TimeoutError as error:
        raise ProgramFailed(argv, f"no answer within {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    code = process.returncode if process.returncode is not None else -1
    if check and code != 0:
        raise ProgramFailed(argv, f"exit {code}", stderr.decode(errors="replace"))
    return Finished(tuple(argv), code, stdout, stderr)
