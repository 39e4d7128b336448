"""TCP servers of tests, whose last connection has ended when they are left."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_TURNS = 5
"""In as many turns of the loop a connection that was accepted has reached its handler."""
_END_S = 60.0


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[int]:
    """Serve on a free port of this host, and give the port.

    Each connection is closed once its handler returns. What still is under way at the end is
    waited for: its clients have gone, so it ends.
    """
    under_way: set[asyncio.Task[None] | None] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        under_way.add(task)
        try:
            await answer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            under_way.discard(task)

    listening = await asyncio.start_server(tracked, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await listening.wait_closed()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await asyncio.wait_for(_ended(under_way), _END_S)


async def _ended(under_way: set[asyncio.Task[None] | None]) -> None:
    while tasks := [one for one in under_way if one is not None]:
        await asyncio.wait(tasks)
