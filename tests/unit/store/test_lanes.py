"""Transactions work on threads: many at once, cut off, cancelled, or closed in the middle."""

import asyncio
import sqlite3
from collections.abc import Coroutine
from pathlib import Path

import pytest
import sqlalchemy as sa

from godwit.base import errors
from godwit.store import database, lanes
from godwit.testing import postgres
from tests.unit.store.test_outages import revision


async def read(store: database.Database) -> int:
    async with store.read() as rows:
        return (await rows.meta.get()).revision


async def test_more_transactions_than_lanes_take_turns(store: database.Database) -> None:
    found = await asyncio.gather(
        *(read(store) for _ in range(4 * lanes.MOST)), *(revision(store) for _ in range(8))
    )
    assert sorted(found[-8:]) == list(range(1, 9))


async def test_who_gets_no_lane_in_time_is_told_that_the_database_does_not_answer(
    store: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_WAIT_S", 0.05)
    done = asyncio.Event()
    holding = asyncio.Semaphore(0)

    async def hold() -> None:
        async with store.read() as rows:
            await rows.meta.get()
            holding.release()
            await done.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(lanes.MOST):
            group.create_task(hold())
        for _ in range(lanes.MOST):
            await holding.acquire()
        with pytest.raises(errors.Failure, match="does not answer") as caught:
            await read(store)
        done.set()
    assert caught.value.code == "unavailable"
    assert await read(store) == 0


async def test_the_loop_goes_on_and_others_read_while_a_write_waits_for_the_disk(
    tmp_path: Path,
) -> None:
    store = await database.open_database(database.sqlite_url(tmp_path / "c.db"))
    with sqlite3.connect(tmp_path / "c.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(revision(store))
            for _ in range(20):
                assert await read(store) == 0
            assert not waiting.done()
            other.execute("ROLLBACK")
    other.close()
    assert waiting.result() == 1
    await store.close()


async def test_a_cancelled_write_leaves_nothing_and_the_next_has_its_turn(
    store: database.Database,
) -> None:
    written = asyncio.Event()

    async def write() -> None:
        async with store.write() as rows:
            await rows.meta.next_revision()
            written.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(write())
        await written.wait()
        following = group.create_task(revision(store))
        task.cancel()
    assert task.cancelled()
    assert following.result() == 1


async def test_a_transaction_that_asks_nothing_takes_no_connection(
    store: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(_engine: sa.Engine) -> sa.Connection:
        raise AssertionError("nothing was asked")

    monkeypatch.setattr(lanes, "_begin", connect)
    async with store.read():
        pass
    await store.close()


async def test_what_is_under_way_when_all_is_closed_comes_to_its_end(
    store: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_GRACE_S", 0.05)
    async with store.read() as rows:
        await rows.meta.get()
        await store.close()


@pytest.mark.postgres
async def test_closing_does_not_wait_for_a_server_that_keeps_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "_GRACE_S", 0.1)
    server = postgres.shared()
    name = server.create()
    store = await database.open_database(server.url(name))
    asked = asyncio.Event()

    async def ask() -> None:
        async with store.read() as rows:
            await rows.meta.get()
            server.freeze()
            asked.set()
            await rows.meta.get()

    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            asking = group.create_task(fails(ask()))
            await asked.wait()
            await store.close()
    finally:
        server.resume()
    assert asking.result().code == "unavailable"
    server.drop(name)


@pytest.mark.postgres
async def test_a_server_that_goes_before_a_transactions_end_leaves_nothing_to_complain_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = postgres.shared()
    name = server.create()
    store = await database.open_database(server.url(name))
    ended: list[asyncio.Future[None]] = []
    end = lanes.Connection.end

    def noting(connection: lanes.Connection) -> "asyncio.Future[None]":
        ended.append(end(connection))
        return ended[-1]

    monkeypatch.setattr(lanes.Connection, "end", noting)
    try:
        async with store.read() as rows:
            await rows.meta.get()
            await asyncio.to_thread(server.stop)
    finally:
        server.start()
    await asyncio.wait(ended)
    assert [one.exception() for one in ended] == [None]
    assert await read(store) == 0
    await store.close()
    server.drop(name)


async def fails(asked: Coroutine[None, None, None]) -> errors.Failure:
    """Return what it fails with."""
    with pytest.raises(errors.Failure) as caught:
        await asked
    return caught.value
