"""The database is locked, gone, restarted or silent: said plainly, and over when it is over."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from godwit.base import errors
from godwit.store import database
from godwit.testing import postgres


@pytest.fixture
def server() -> Iterator[postgres.Server]:
    found = postgres.shared()
    yield found
    found.resume()


@pytest.fixture
async def remote(server: postgres.Server) -> AsyncIterator[database.Database]:
    name = server.create()
    store = await database.open_database(server.url(name))
    yield store
    await store.close()
    server.drop(name)


async def fails(store: database.Database) -> list[errors.Failure]:
    """Read and write, in vain."""
    found = []
    for transaction in (store.read, store.write):
        with pytest.raises(errors.Failure) as caught:
            async with transaction() as rows:
                await rows.meta.get()
        found.append(caught.value)
    assert {one.code for one in found} == {"unavailable"}
    return found


async def revision(store: database.Database) -> int:
    async with store.write() as rows:
        return await rows.meta.next_revision()


@pytest.mark.postgres
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["orderly", "crash"])
async def test_after_a_restart_the_next_request_works(
    server: postgres.Server, remote: database.Database, how: int
) -> None:
    async def read() -> None:
        async with remote.read() as rows:
            await rows.meta.get()

    # Several connections in the pool: every one of them is dead after the restart.
    await asyncio.gather(*(read() for _ in range(6)))
    assert await revision(remote) == 1
    server.stop(how)
    server.start()
    await asyncio.gather(*(read() for _ in range(6)))
    assert await revision(remote) == 2


@pytest.mark.postgres
async def test_while_it_is_gone_requests_fail_at_once_and_plainly(
    server: postgres.Server, remote: database.Database
) -> None:
    assert await revision(remote) == 1
    server.stop(signal.SIGINT)
    async with asyncio.timeout(60):
        for _ in range(3):
            for failure in await fails(remote):
                assert failure.message.startswith("the control database does not answer: ")
                assert "\n" not in failure.message
    server.start()
    assert await revision(remote) == 2


@pytest.mark.postgres
async def test_a_transaction_it_was_gone_in_is_told_and_undone(
    server: postgres.Server, remote: database.Database
) -> None:
    async def write() -> None:
        async with remote.write() as rows:
            await rows.meta.next_revision()
            await asyncio.to_thread(server.stop)
            await rows.meta.next_revision()

    with pytest.raises(errors.Failure) as caught:
        await write()
    assert caught.value.code == "unavailable"
    server.start()
    assert await revision(remote) == 1


@pytest.mark.postgres
async def test_a_server_that_keeps_silent_hangs_nobody(
    server: postgres.Server, remote: database.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_SEVER_S", 0.3)
    monkeypatch.setattr(database, "_DEADLINE_S", 1.0)
    entered = asyncio.Event()

    async def ask() -> None:
        async with remote.read() as rows:
            entered.set()
            server.freeze()
            await rows.meta.get()

    async with asyncio.timeout(60):
        with pytest.raises(errors.Failure, match="does not answer"):
            await ask()
        assert entered.is_set()
        await fails(remote)
    server.resume()
    # What a server that answers takes on a busy machine is no silence.
    monkeypatch.undo()
    async with asyncio.timeout(60):
        assert await revision(remote) == 1


@pytest.mark.postgres
async def test_a_database_that_is_not_there_or_not_ours_is_told_without_the_password(
    server: postgres.Server,
) -> None:
    for url in (
        f"postgresql://godwit:geheim@/nowhere?host={server.directory}",
        f"postgresql://somebody:geheim@/postgres?host={server.directory}",
        "postgresql://godwit:geheim@127.0.0.1:1/godwit",
        "postgresql://godwit:geheim@host:geheim/godwit",
        "mysql://godwit:geheim@127.0.0.1/godwit",
    ):
        with pytest.raises(errors.Failure) as caught:
            await database.open_database(url)
        told = f"{caught.value.message} {caught.value.hint} {caught.value.__cause__!r}"
        assert "geheim" not in told
        assert caught.value.code in ("unavailable", "invalid_argument")


async def test_sqlite_locked_for_longer_than_its_patience_refuses_writes_only(
    tmp_path: Path,
) -> None:
    store = await database.open_database(database.sqlite_url(tmp_path / "c.db"), busy_ms=50)
    other = sqlite3.connect(tmp_path / "c.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with store.read() as rows:
        assert (await rows.meta.get()).epoch == 1
    with pytest.raises(errors.Failure, match="does not answer: database is locked") as caught:
        async with store.write():
            pass
    assert caught.value.code == "unavailable"
    other.execute("ROLLBACK")
    other.close()
    assert await revision(store) == 1
    await store.close()
