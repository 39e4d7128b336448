import asyncio

import pytest

from godwit.base import errors
from godwit.cli import together


async def test_a_few_at_a_time_and_in_order():
    running, most = 0, 0

    async def work(thing):
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(10 - thing % 10):
            await asyncio.sleep(0)
        running -= 1
        return thing * 2

    assert await together.each(list(range(20)), work) == [one * 2 for one in range(20)]
    assert most == together.AT_ONCE


async def test_all_are_tried_and_every_failure_is_told_once():
    tried = []

    async def work(thing):
        tried.append(thing)
        if thing % 2:
            raise errors.Failure("conflict", f"no {thing % 4}", hint="wait")

    with pytest.raises(errors.Failure) as told:
        await together.each(list(range(8)), work)
    assert (told.value.code, told.value.message, told.value.hint) == (
        "conflict",
        "no 1; no 3",
        "wait",
    )
    assert sorted(tried) == list(range(8))


async def test_one_failure_is_told_as_it_is():
    async def work(_):
        raise errors.not_found("gone")

    with pytest.raises(errors.Failure, match="gone"):
        await together.each(["x"], work)
