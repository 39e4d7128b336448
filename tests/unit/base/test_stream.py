"""Programs whose lines come as they are printed."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from pathlib import Path

import pytest

from godwit.base import processes
from godwit.base.tasks import Tasks


def read(pid_file):
    return pid_file.read_text().strip() if pid_file.exists() else ""


def is_alive(pid):
    # A process may also end between the opening of its file and the reading: no such process.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        stat = Path("/proc", str(pid), "stat").read_text()
        return stat.rpartition(")")[2].split()[0] not in "ZX"
    return False


async def lines(code, **more):
    given = {"timeout_s": 20} | more
    async with contextlib.aclosing(
        processes.stream([sys.executable, "-c", code], **given)
    ) as found:
        return [line async for line in found]


async def test_both_outputs_come_in_order():
    code = (
        "import sys; print('a', flush=True); print('b', file=sys.stderr, flush=True); print('c')"
    )
    assert await lines(code) == ["a", "b", "c"]


async def test_a_last_line_without_an_end_comes_too():
    assert await lines("print('a\\nb', end='')") == ["a", "b"]


async def test_a_line_without_end_comes_in_parts():
    found = await lines("print('x' * 100_000)")
    assert "".join(found) == "x" * 100_000
    assert len(found) > 1


async def test_an_exit_code_is_a_failure_after_the_lines():
    found = processes.stream(
        [sys.executable, "-c", "print('x'); raise SystemExit(3)"], timeout_s=20
    )
    assert await anext(found) == "x"
    with pytest.raises(processes.ProgramFailed, match="exit 3"):
        await anext(found)


async def test_what_is_not_installed_is_said_so():
    with pytest.raises(processes.ProgramFailed, match="not installed"):
        await anext(processes.stream(["/no/such/program"], timeout_s=1))


CHILD = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(p.pid, flush=True); p.wait()"


async def test_closing_early_ends_the_whole_family():
    async with contextlib.aclosing(
        processes.stream([sys.executable, "-c", CHILD], timeout_s=20)
    ) as found:
        child = int(await anext(found))
        assert is_alive(child)
    async with asyncio.timeout(60):
        while is_alive(child):
            await asyncio.sleep(0.01)


async def test_a_deadline_ends_it():
    with pytest.raises(processes.ProgramFailed, match="no answer"):
        await lines("import time; time.sleep(60)", timeout_s=0.3)


async def test_a_program_that_ignores_sigterm_is_killed():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(60)"
    async with asyncio.timeout(60):
        async with contextlib.aclosing(
            processes.stream([sys.executable, "-c", code], timeout_s=20, grace_s=0.2)
        ) as found:
            assert await anext(found) == "x"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_program_is_killed_when_even_its_ending_is_cancelled(tmp_path):
    pid_file = tmp_path / "pid"
    stubborn = f"trap '' TERM; echo $$ > {pid_file}; echo up; while :; do sleep 0.05; done"

    async def follow():
        async with contextlib.aclosing(
            processes.stream(["sh", "-c", stubborn], timeout_s=20)
        ) as lines:
            async for _ in lines:
                pass

    async with asyncio.timeout(60), Tasks("test") as owned:
        task = owned.spawn(follow(), name="follow")
        while not (pid := read(pid_file)):
            await asyncio.sleep(0.01)
        # A cancelled anyio scope cancels every await anew, cleaning up included.
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        while is_alive(pid):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
    # Nobody was left to note its end: what complains of that does so here.
    gc.collect()


ESCAPED = """
import subprocess, time
sleeper = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(sleeper.pid, flush=True)
time.sleep(60)
"""


def pipes():
    """Return the pipes that this process has open."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(descriptor.readlink())
            found |= {target} if target.startswith("pipe:") else set()
    return found


async def test_a_pipe_is_closed_even_when_a_program_that_got_away_still_holds_it():
    before = pipes()
    async with contextlib.aclosing(
        processes.stream([sys.executable, "-c", ESCAPED], timeout_s=20)
    ) as found:
        escaped = int(await anext(found))
    try:
        async with asyncio.timeout(60):
            while not pipes() <= before:
                await asyncio.sleep(0.01)
    finally:
        os.kill(escaped, signal.SIGKILL)


async def test_a_pipe_is_closed_when_a_program_runs_past_its_deadline(tmp_path):
    before = pipes()
    pid_file = tmp_path / "pid"
    code = f"sleep 60 & echo $! > {pid_file}; wait"
    with pytest.raises(processes.ProgramFailed, match="no answer"):
        await processes.run(["sh", "-c", code], timeout_s=4)
    escaped = int(read(pid_file))
    try:
        async with asyncio.timeout(60):
            while not pipes() <= before:
                await asyncio.sleep(0.01)
    finally:
        os.kill(escaped, signal.SIGKILL)
