"""An app with its first release, copied for each deploy that is disturbed."""

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from godwit.control import upkeep
from godwit.store import database
from godwit.testing import databases
from godwit.testing.control import World
from godwit.testing.deploys import Yard


class Base:
    """An app with its first release, copied for each deploy that is disturbed.

    Attributes:
        newest: The URL of the copy that was made last.
    """

    def __init__(self, path: Path, url: str, around: World, yard: Yard) -> None:
        self._path = path
        self._url = url
        self._world = around
        self._yard = yard
        self._machines = copy.deepcopy(yard.host.machines)
        self._now_ms = yard.clock.now_ms()
        self._count = 0
        self.newest = ""

    @asynccontextmanager
    async def copied(self, *, busy_ms: int = 5_000) -> AsyncIterator[Yard]:
        """Return the app as it was, in a database of its own."""
        self._count += 1
        with databases.copied(self._url, self._path, f"copy{self._count}") as url:
            self.newest = url
            store = await database.open_database(url, busy_ms=busy_ms)
            ctx = replace(self._world.ctx, store=store)
            around = replace(self._world, ctx=ctx, store=store)
            yard = Yard(around, self._yard.who, now_ms=self._now_ms)
            yard.host.machines = copy.deepcopy(self._machines)
            try:
                yield yard
            finally:
                await store.close()


async def finished(yard: Yard, run_id: str) -> dict[str, Any]:
    """Return what a deploy has left, whichever way it went."""
    await upkeep.Upkeep(yard.ctx).sweep()
    done = await yard.look(run_id)
    async with yard.world.store.read() as rows:
        unfinished = await rows.runs.unfinished_of(done.row.app_id)
        unwanted = await rows.placements.unwanted(2**62, 100)
    return {
        "outcome": done.row.outcome,
        "message": done.row.message.partition(" ")[2] if done.row.message else "",
        "release": done.release.status,
        "machines": yard.machines(),
        "leased": yard.leased(),
        "unfinished": unfinished,
        "unwanted": [row.machine_id for row in unwanted],
    }
