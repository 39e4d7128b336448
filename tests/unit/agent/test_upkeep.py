"""Upkeep goes on after a bad moment, and only after one."""

import asyncio
import sqlite3

import pytest

from godwit.agent import upkeep
from godwit.base import errors, processes
from godwit.testing import clock

BAD_MOMENTS: list[Exception] = [
    sqlite3.OperationalError("database or disk is full"),
    OSError("no space left on device"),
    errors.Failure("unavailable", "not now"),
    processes.ProgramFailed(("nft",), "exit 1", "busy"),
]


@pytest.mark.parametrize("trouble", BAD_MOMENTS)
def test_one_bad_moment_does_not_end_it(trouble: Exception) -> None:
    async def whole() -> None:
        done: list[float] = []
        the_clock = clock.FakeClock()

        async def chore() -> None:
            done.append(the_clock.monotonic())
            if len(done) == 2:
                raise trouble

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(45):
                await upkeep.every(the_clock, 10, chore)
        assert done == [0, 10, 20, 30, 40]

    clock.run(whole())


def test_a_bug_ends_it_aloud() -> None:
    async def chore() -> None:
        raise KeyError("oops")

    with pytest.raises(KeyError):
        clock.run(upkeep.every(clock.FakeClock(), 10, chore))
