"""The database is locked, or gone, for a minute in the middle of a deploy.

It goes after a write of the run's journal and is back a minute later. The world afterwards equals
that of a deploy nobody disturbed. SQLite's file is locked by another process's writer; the server
of PostgreSQL crashes and is started again.
"""

import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from godwit.base import errors, tasks
from godwit.control.deploys import worker
from godwit.testing import postgres
from godwit.testing.deploys import Mortal, Yard
from tests.unit.control.deploys.conftest import CHANGED, STRATEGIES
from tests.unit.control.deploys.copies import Base, finished

AWAY_S = 60.0
LONGEST_S = 3_600.0


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Write in a file of SQLite, and do not end."""
    with contextlib.closing(sqlite3.connect(urlsplit(url).path.removeprefix("/"))) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def crashed(_: str) -> Iterator[None]:
    """Have the server crash, and start it again."""
    postgres.shared().stop(signal.SIGQUIT)
    try:
        yield
    finally:
        postgres.shared().start()


OUTAGES = {"sqlite": locked, "postgres": crashed}


class Interrupted(Mortal):
    """A store whose database is away for a minute, from the n-th write of the journal on.

    Attributes:
        outage: What makes it so, as long as it is entered.
        refused: How many transactions failed meanwhile.
    """

    def __init__(
        self, yard: Yard, at: int, outage: Callable[[], contextlib.AbstractContextManager[None]]
    ) -> None:
        super().__init__(yard.ctx, None)
        self._at, self._outage, self._clock = at, outage, yard.clock
        self._tasks = tasks.Tasks("outage")
        self.refused = 0

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._tasks.__aexit__(*error)

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        """Open a view."""
        with self._counted():
            async with super().read() as rows:
                yield rows

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[Any]:
        """Open a transaction; after one that was the last for a minute nobody gets any."""
        before = self.writes
        with self._counted():
            async with super().write() as rows:
                yield rows
        if before < self._at <= self.writes:
            away = self._outage()
            away.__enter__()
            self._tasks.spawn(self._back(away), name="back")

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except errors.Failure as failure:
            self.refused += "database" in failure.message
            raise

    async def _back(self, away: contextlib.AbstractContextManager[None]) -> None:
        await self._clock.sleep(AWAY_S)
        away.__exit__(None, None, None)


async def carried(yard: Yard, run_id: str, store: Interrupted) -> None:
    """Have a control carry a run to its end."""
    control = worker.Worker(replace(yard.ctx, store=store, hosts=store))
    end = yard.clock.monotonic() + LONGEST_S
    async with tasks.Tasks("control") as owned:
        owned.spawn(control.run(), name="run")
        while yard.clock.monotonic() < end:
            await yard.clock.sleep(1.0)
            with contextlib.suppress(errors.Failure):
                if (await yard.look(run_id)).row.outcome:
                    return
    raise AssertionError("the deploy did not end")


async def world_after(base: Base, kind: str, image: str, options: dict[str, Any], at: int) -> Any:
    async with base.copied(busy_ms=20) as yard:
        run_id = await yard.begin(CHANGED, image, **options)
        outage = OUTAGES[kind]
        async with Interrupted(yard, at, lambda: outage(base.newest)) as store:
            await carried(yard, run_id, store)
        assert (store.refused > 0) == (at <= store.writes), at
        found = await finished(yard, run_id)
        return {**found, "message": bool(found["message"])}, store.writes


async def check(base: Base, kind: str, strategy: str, image: str, *, every: bool) -> None:
    options = {"strategy": strategy}
    wanted, writes = await world_after(base, kind, image, options, 10**6)
    for at in range(1, writes) if every else (writes // 2,):
        found, _ = await world_after(base, kind, image, options, at)
        assert found == wanted, at


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_deploy_outlives_a_minute_without_its_database(
    base: Base, kind: str, strategy: str
) -> None:
    await check(base, kind, strategy, "nginx:2", every=False)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("image", ["nginx:2", "nginx:sick"])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_whenever_the_database_goes_the_deploy_outlives_it(
    base: Base, kind: str, strategy: str, image: str
) -> None:
    await check(base, kind, strategy, image, every=True)
