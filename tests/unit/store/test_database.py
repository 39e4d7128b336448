"""The database: migrations, pragmas, transactions, refusals; on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from godwit.base import errors
from godwit.control.records import Organization
from godwit.store import database, engines, tables


def organization(number: int, slug: str) -> Organization:
    return Organization(id=f"org_{number}", number=number, slug=slug, name=slug, created_at_ms=1)


def differences(connection: sa.Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, tables.METADATA))


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[database.Database]:
    opened = await database.open_database(database.sqlite_url(tmp_path / "control.db"))
    yield opened
    await opened.close()


async def test_a_migrated_database_has_exactly_the_tables_of_this_release(
    database_url: str,
) -> None:
    engine = engines.make(database_url, busy_ms=100)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_opening_again_keeps_what_is_there(database_url: str) -> None:
    db = await database.open_database(database_url)
    async with db.write() as rows:
        await rows.organizations.add(organization(1, "acme"))
    await db.close()
    db = await database.open_database(database_url)
    async with db.read() as rows:
        assert (await rows.organizations.by_slug("acme")) == organization(1, "acme")
    await db.close()


async def test_a_newer_releases_database_is_refused_with_a_sentence(database_url: str) -> None:
    engine = engines.make(database_url, busy_ms=100).execution_options(godwit_write=True)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    await engine.dispose()
    with pytest.raises(errors.Failure, match="newer release") as caught:
        await database.open_database(database_url)
    assert caught.value.code == "failed_precondition"
    assert caught.value.hint


async def test_two_that_open_a_new_database_at_once_migrate_it_once(empty_url: str) -> None:
    opened = await asyncio.gather(*(database.open_database(empty_url) for _ in range(2)))
    for one in opened:
        async with one.read() as rows:
            assert (await rows.meta.get()).revision == 0
        await one.close()


async def test_writers_of_two_processes_take_turns(database_url: str) -> None:
    """Eight at once through two engines: no number twice, no write lost or refused."""
    stores = [await database.open_database(database_url) for _ in range(2)]

    async def write(store: database.Database) -> list[tuple[int, int]]:
        found = []
        for _ in range(10):
            async with store.write() as rows:
                number = await rows.meta.next_number("networks")
                found.append((await rows.meta.next_revision(), number))
        return found

    seen = await asyncio.gather(*(write(stores[which % 2]) for which in range(8)))
    numbers = sorted(one for found in seen for one in found)
    assert numbers == [(n, n) for n in range(1, 81)]
    for store in stores:
        await store.close()


async def test_a_read_sees_one_moment(database_url: str) -> None:
    readers, writers = [await database.open_database(database_url) for _ in range(2)]
    async with readers.read() as rows:
        before = await rows.meta.get()
        async with writers.write() as other:
            await other.meta.next_revision()
        assert await rows.meta.get() == before
    async with readers.read() as rows:
        assert (await rows.meta.get()).revision == before.revision + 1
    await readers.close()
    await writers.close()


async def test_a_read_cannot_write(store: database.Database, kind: str) -> None:
    if kind == "sqlite":
        pytest.skip("SQLite's readers may; they only lack the lock")
    with pytest.raises(sa.exc.InternalError, match="read-only"):
        async with store.read() as rows:
            await rows.meta.next_revision()


async def test_text_is_in_the_order_of_its_bytes(store: database.Database) -> None:
    slugs = ["b-c", "B", "bc", "ba", "a-z", "ä", "ab"]
    async with store.write() as rows:
        for number, slug in enumerate(slugs, 1):
            await rows.organizations.add(organization(number, slug))
    async with store.read() as rows:
        found = [one.slug for one in await rows.organizations.by_ids(None)]
    assert found == sorted(slugs)


async def test_what_postgresql_cannot_keep_is_refused_in_words(
    store: database.Database, kind: str
) -> None:
    async def add(slug: str) -> None:
        async with store.write() as rows:
            await rows.organizations.add(organization(1, slug))

    if kind == "sqlite":
        pytest.skip("SQLite keeps any text of any length")
    for slug, reason in (("a\0b", "NUL"), ("a" * 64, "too long")):
        with pytest.raises(errors.Failure, match=reason) as caught:
            await add(slug)
        assert caught.value.code == "invalid_argument"


async def test_an_exception_rolls_everything_back(store: database.Database) -> None:
    async def fail_half_way() -> None:
        async with store.write() as rows:
            await rows.organizations.add(organization(1, "acme"))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        await fail_half_way()
    async with store.read() as rows:
        assert await rows.organizations.by_slug("acme") is None


async def test_a_failed_write_does_not_keep_the_lock(store: database.Database) -> None:
    for _ in range(20):
        with pytest.raises(ValueError):
            async with store.write():
                raise ValueError
    async with store.write() as rows:
        await rows.organizations.add(organization(1, "acme"))


async def test_counters_never_give_a_number_twice(store: database.Database) -> None:
    seen = []
    for _ in range(3):
        async with store.write() as rows:
            seen.append(await rows.meta.next_number("networks"))
    assert seen == [1, 2, 3]


async def test_foreign_keys_are_enforced(store: database.Database) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        async with store.write() as rows:
            await rows._connection.execute(
                tables.NETWORKS.insert().values(
                    id="n", number=1, org_id="nobody", name="default", created_at_ms=1
                )
            )


async def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(errors.Failure) as caught:
        await database.open_database(database.sqlite_url(tmp_path / "no" / "c.db"))
    assert caught.value.code == "unavailable"


async def test_sqlite_runs_in_wal_mode_and_syncs(sqlite_store: database.Database) -> None:
    async with sqlite_store.read() as rows:
        connection = rows._connection
        mode = (await connection.execute(sa.text("PRAGMA journal_mode"))).scalar_one()
        busy = (await connection.execute(sa.text("PRAGMA busy_timeout"))).scalar_one()
    assert (mode, busy) == ("wal", 5000)


async def test_a_full_disk_is_unavailable_and_reads_go_on(
    sqlite_store: database.Database,
) -> None:
    async with sqlite_store.read() as rows:
        pages = (await rows._connection.execute(sa.text("PRAGMA page_count"))).scalar_one()

    async def fill() -> None:
        async with sqlite_store.write() as rows:
            await rows._connection.execute(sa.text(f"PRAGMA max_page_count={pages + 1}"))
            for number in range(1, 2000):
                await rows.organizations.add(organization(number, "a" * 50 + str(number)))

    with pytest.raises(errors.Failure, match="full") as caught:
        await fill()
    assert caught.value.code == "unavailable"
    async with sqlite_store.read() as rows:
        assert await rows.organizations.count() == 0
