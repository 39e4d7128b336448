"""The database: migrations, pragmas, transactions, refusals."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from godwit.base import errors
from godwit.control.records import Organization
from godwit.store import database, tables


def organization(number: int, slug: str) -> Organization:
    return Organization(id=f"org_{number}", number=number, slug=slug, name=slug, created_at_ms=1)


async def test_a_migrated_database_has_exactly_the_tables_of_this_release(tmp_path: Path) -> None:
    db = await database.open_database(database.sqlite_url(tmp_path / "c.db"))
    await db.close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'c.db'}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, tables.METADATA)
    engine.dispose()
    assert differences == []


async def test_opening_again_keeps_what_is_there(tmp_path: Path) -> None:
    url = database.sqlite_url(tmp_path / "c.db")
    db = await database.open_database(url)
    async with db.write() as rows:
        await rows.organizations.add(organization(1, "acme"))
    await db.close()
    db = await database.open_database(url)
    async with db.read() as rows:
        assert (await rows.organizations.by_slug("acme")) == organization(1, "acme")
    await db.close()


async def test_a_newer_releases_database_is_refused_with_a_sentence(tmp_path: Path) -> None:
    url = database.sqlite_url(tmp_path / "c.db")
    await (await database.open_database(url)).close()
    with sqlite3.connect(tmp_path / "c.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '0999'")
    raw.close()
    with pytest.raises(errors.Failure, match="newer release") as caught:
        await database.open_database(url)
    assert caught.value.code == "failed_precondition"
    assert caught.value.hint


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


async def test_it_runs_in_wal_mode_and_syncs(store: database.Database) -> None:
    async with store.read() as rows:
        connection = rows._connection
        mode = (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one()
        busy = (await connection.exec_driver_sql("PRAGMA busy_timeout")).scalar_one()
    assert (mode, busy) == ("wal", 5000)


async def test_a_database_that_stays_locked_is_unavailable_for_writes_only(tmp_path: Path) -> None:
    url = database.sqlite_url(tmp_path / "c.db")
    db = await database.open_database(url, busy_ms=50)
    other = sqlite3.connect(tmp_path / "c.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with db.read() as rows:
        assert (await rows.meta.get()).epoch == 1
    with pytest.raises(errors.Failure, match="does not answer: database is locked") as caught:
        async with db.write():
            pass
    assert caught.value.code == "unavailable"
    other.execute("ROLLBACK")
    other.close()
    async with db.write() as rows:
        assert await rows.meta.next_revision() == 1
    await db.close()


async def test_a_full_disk_is_unavailable_and_reads_go_on(store: database.Database) -> None:
    async with store.read() as rows:
        pages = (await rows._connection.exec_driver_sql("PRAGMA page_count")).scalar_one()

    async def fill() -> None:
        async with store.write() as rows:
            await rows._connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 1}")
            for number in range(1, 2000):
                await rows.organizations.add(organization(number, "a" * 50 + str(number)))

    with pytest.raises(errors.Failure, match="full") as caught:
        await fill()
    assert caught.value.code == "unavailable"
    async with store.read() as rows:
        assert await rows.organizations.count() == 0
