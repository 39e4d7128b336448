"""Databases for tests: the same test runs on SQLite and on PostgreSQL."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from godwit.store import database, engines, tables
from godwit.testing import postgres

KINDS = ("sqlite", "postgres")
_MIGRATED: dict[str, bytes] = {}


@contextlib.contextmanager
def empty(kind: str, directory: Path) -> Iterator[str]:
    """Give the URL of a database with nothing in it, not even tables."""
    if kind == "sqlite":
        yield database.sqlite_url(directory / "control.db")
        return
    server = postgres.shared()
    name = server.create()
    try:
        yield server.url(name)
    finally:
        server.drop(name)


@contextlib.asynccontextmanager
async def migrated(kind: str, directory: Path) -> AsyncIterator[str]:
    """Give the URL of a fresh database; migrated once per test process, then copied."""
    if kind not in _MIGRATED:
        _MIGRATED[kind] = await _first(kind, directory)
    if kind == "sqlite":
        path = directory / "control.db"
        await asyncio.to_thread(path.write_bytes, _MIGRATED[kind])
        yield database.sqlite_url(path)
        return
    server = postgres.shared()
    name = server.create(_MIGRATED[kind].decode())
    try:
        yield server.url(name)
    finally:
        server.drop(name)


@contextlib.contextmanager
def copied(url: str, directory: Path, name: str) -> Iterator[str]:
    """Give a copy of a database that nobody is connected to.

    Args:
        url: Of that database.
        directory: Where the copy's file is, if it is one.
        name: Of that file.
    """
    if url.startswith("sqlite"):
        path = directory / f"{name}.db"
        shutil.copyfile(urlsplit(url).path.removeprefix("/"), path)
        yield database.sqlite_url(path)
        path.unlink()
        return
    server = postgres.shared()
    made = server.create(urlsplit(url).path.removeprefix("/"))
    try:
        yield server.url(made)
    finally:
        server.drop(made)


async def dump(url: str) -> str:
    """Return everything a database holds, as text; bytes as their `repr`."""
    engine = engines.make(url, busy_ms=5_000)
    try:
        async with engine.connect() as connection:
            found = []
            for table in tables.METADATA.sorted_tables:
                rows = await connection.execute(table.select())
                found.append(f"{table.name}: {rows.all()!r}")
            return "\n".join(found)
    finally:
        await engine.dispose()


async def _first(kind: str, directory: Path) -> bytes:
    """Make the database that others are copied from; return the file, or its name."""
    if kind == "sqlite":
        path = directory / "first.db"
        await (await database.open_database(database.sqlite_url(path))).close()
        return path.read_bytes()
    name = postgres.shared().create()
    await (await database.open_database(postgres.shared().url(name))).close()
    return name.encode()
