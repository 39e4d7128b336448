import asyncio
import os
import signal
from pathlib import Path

import pytest

from godwit.base import processes


async def ended(pid: int) -> None:
    def exists() -> bool:
        return Path(f"/proc/{pid}").exists()

    async with asyncio.timeout(60):
        while exists():
            await asyncio.sleep(0.01)


def shell(script: str, stderr: int, descriptors=None, env=None) -> int:
    return processes.detach(
        ["/bin/sh", "-c", script],
        stderr=stderr,
        descriptors=descriptors or {},
        env=env or {"PATH": "/bin:/usr/bin"},
    )


@pytest.fixture
def log(tmp_path):
    descriptor = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def said(log: int) -> str:
    return os.pread(log, 10_000, 0).decode()


async def test_it_lives_in_a_session_of_its_own_and_is_reaped(log):
    pid = shell("sleep 30", log)
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGKILL)
    await ended(pid)


async def test_it_inherits_what_is_named_under_the_given_numbers(log, tmp_path):
    (tmp_path / "a").write_text("first")
    (tmp_path / "b").write_text("second")
    a, b = os.open(tmp_path / "a", os.O_RDONLY), os.open(tmp_path / "b", os.O_RDONLY)
    await ended(shell("cat <&3 >&2; cat <&4 >&2", log, {3: b, 4: a}))
    assert said(log) == "secondfirst"
    os.close(a)
    os.close(b)


async def test_descriptors_may_change_places(log, tmp_path):
    (tmp_path / "a").write_text("first")
    (tmp_path / "b").write_text("second")
    a, b = os.open(tmp_path / "a", os.O_RDONLY), os.open(tmp_path / "b", os.O_RDONLY)
    await ended(shell(f"cat /proc/self/fd/{b} /proc/self/fd/{a} >&2", log, {b: a, a: b}))
    assert said(log) == "firstsecond"
    os.close(a)
    os.close(b)


async def test_it_inherits_nothing_else(log, tmp_path):
    leak = os.open(tmp_path / "secret", os.O_RDWR | os.O_CREAT)
    await ended(shell("ls /proc/self/fd >&2; env >&2", log, env={"PATH": "/bin:/usr/bin"}))
    words = said(log).split()
    assert str(leak) not in words or leak < 4  # ls itself opens 3
    assert not any(word.startswith("HOME=") for word in words)
    os.close(leak)


async def test_signals_are_what_they_are_by_default(log):
    await ended(shell("kill -PIPE $$; echo survived >&2", log))
    assert said(log) == ""


async def test_a_program_that_is_not_there_is_told(log):
    with pytest.raises(processes.ProgramFailed, match="No such file"):
        processes.detach(["/no/such"], stderr=log, descriptors={}, env={})
