"""Doing the same to several things at once, a few at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from godwit.base import errors

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 5


async def each(things: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """Return what the work made of each thing, in their order; all are tried.

    Raises:
        Failure: Some could not be done: the first failure's code and hint, every one's words.
    """
    room = asyncio.Semaphore(AT_ONCE)
    done: dict[int, R] = {}
    refused: list[errors.Failure] = []

    async def one(number: int, thing: T) -> None:
        async with room:
            try:
                done[number] = await work(thing)
            except errors.Failure as failure:
                refused.append(failure)

    async with asyncio.TaskGroup() as group:
        for number, thing in enumerate(things):
            group.create_task(one(number, thing))
    if len(refused) == 1:
        raise refused[0]
    if refused:
        said = "; ".join(dict.fromkeys(failure.message for failure in refused))
        raise errors.Failure(refused[0].code, said, hint=refused[0].hint)
    return [done[number] for number in range(len(things))]
