"""The database thread: transactions, shared commits, migrations, refusal of newer files."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from godwit.base import errors
from godwit.durable import database

SCHEMA = {"things": ("CREATE TABLE things (name TEXT PRIMARY KEY) STRICT",)}


def add(name: str) -> database.Work[None]:
    def work(tx: database.Transaction) -> None:
        tx.execute("INSERT INTO things VALUES (?)", (name,))

    return work


def names(tx: database.Transaction) -> list[str]:
    return [row["name"] for row in tx.execute("SELECT name FROM things ORDER BY name")]


@pytest.fixture
async def opened(tmp_path: Path):
    made = database.Database(tmp_path / "x.db", SCHEMA)
    yield made
    await made.close()


async def test_a_write_is_there_for_the_next_reader(opened: database.Database) -> None:
    await opened.write(add("a"))
    assert await opened.read(names) == ["a"]


async def test_work_that_raises_leaves_nothing_and_others_stand(opened: database.Database) -> None:
    def broken(tx: database.Transaction) -> None:
        add("b")(tx)
        raise ValueError("no")

    results = await asyncio.gather(
        opened.write(add("a")),
        opened.write(broken),
        opened.write(add("c")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), ValueError, type(None)]
    assert await opened.read(names) == ["a", "c"]


async def test_many_writers_at_once_all_get_their_answer(opened: database.Database) -> None:
    await asyncio.gather(*(opened.write(add(f"{n:03}"), synced=n % 2 == 0) for n in range(200)))
    assert len(await opened.read(names)) == 200


async def test_what_was_written_survives_reopening(tmp_path: Path) -> None:
    first = database.Database(tmp_path / "x.db", SCHEMA)
    await first.write(add("a"))
    await first.close()
    second = database.Database(tmp_path / "x.db", SCHEMA)
    assert await second.read(names) == ["a"]
    await second.close()


async def test_a_closed_database_says_so(tmp_path: Path) -> None:
    made = database.Database(tmp_path / "x.db", SCHEMA)
    await made.close()
    with pytest.raises(errors.Failure, match="going down"):
        await made.write(add("a"))


async def test_the_next_version_migrates_what_the_last_one_wrote(tmp_path: Path) -> None:
    old = database.Database(tmp_path / "x.db", SCHEMA)
    await old.write(add("a"))
    await old.close()
    newer = {"things": (*SCHEMA["things"], "ALTER TABLE things ADD COLUMN size INTEGER")}
    new = database.Database(tmp_path / "x.db", newer)
    sizes = await new.read(lambda tx: [row["size"] for row in tx.execute("SELECT * FROM things")])
    assert sizes == [None]
    await new.close()


def test_a_file_of_a_newer_version_is_refused_with_a_way_out(tmp_path: Path) -> None:
    newer = {"things": (*SCHEMA["things"], "ALTER TABLE things ADD COLUMN size INTEGER")}
    database.connect(tmp_path / "x.db", newer).close()
    with pytest.raises(errors.Failure, match="newer Godwit") as refused:
        database.connect(tmp_path / "x.db", SCHEMA)
    assert refused.value.code == "failed_precondition"
    assert "newer version" in refused.value.hint


def test_a_migration_that_fails_halfway_leaves_the_version_before(tmp_path: Path) -> None:
    broken = {"things": (*SCHEMA["things"], "CREATE TABLE a (x TEXT); CREATE TABLE nonsense (")}
    database.connect(tmp_path / "x.db", SCHEMA).close()
    with pytest.raises(sqlite3.Error):
        database.connect(tmp_path / "x.db", broken)
    again = database.connect(tmp_path / "x.db", SCHEMA)
    tables = [row["name"] for row in again.execute("SELECT name FROM sqlite_master")]
    assert "a" not in tables
    again.close()


def test_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    database.connect(tmp_path / "x.db", SCHEMA).close()
    assert (tmp_path / "x.db").stat().st_mode & 0o777 == 0o600
