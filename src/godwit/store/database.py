"""Control's database: opens, migrates, gives transactions. Implements `control.ports.Store`.

Called by `godwit.cmd.control`. SQLite runs in WAL mode with foreign keys on; one writer at a
time takes its lock at BEGIN, so a transaction never fails half-way for another's sake.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from godwit.base import errors
from godwit.store.transaction import Transaction

_MIGRATIONS = Path(__file__).parent / "migrations"
_PROBE_S = 5.0
_DEADLINE_S = 15.0


class Database:
    """A migrated database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._reader = engine
        self._writer = engine.execution_options(godwit_write=True)
        self._one_writer = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Open a consistent view of the rows."""
        with _said_plainly():
            async with asyncio.timeout(_DEADLINE_S), self._reader.connect() as connection:
                yield Transaction(connection)

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """Open a transaction: committed at the end, rolled back by an exception."""
        with _said_plainly():
            async with (
                asyncio.timeout(_DEADLINE_S),
                self._one_writer,
                self._writer.begin() as connection,
            ):
                yield Transaction(connection)

    async def close(self) -> None:
        """Close every connection."""
        await self._reader.dispose()


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return f"sqlite+aiosqlite:///{path}"


async def open_database(url: str, *, busy_ms: int = 5_000) -> Database:
    """Open a database and bring its tables to this release.

    Args:
        url: SQLAlchemy's form.
        busy_ms: How long SQLite waits for another process's write.

    Raises:
        Failure: `failed_precondition` when a newer release wrote it, `unavailable` when it
            cannot be opened.
    """
    engine = _engine(url, busy_ms)
    try:
        with _said_plainly():
            if engine.dialect.name == "sqlite":
                # A thread of its own learns why a file does not open; the driver's would linger.
                await asyncio.to_thread(_probe_sqlite, engine.url.database or "")
            async with engine.execution_options(godwit_write=True).begin() as connection:
                await connection.run_sync(_migrate)
    except BaseException:
        await engine.dispose()
        raise
    return Database(engine)


def _engine(url: str, busy_ms: int) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=8, max_overflow=8, pool_timeout=10)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _configured_sqlite(busy_ms))
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _probe_sqlite(path: str) -> None:
    try:
        sqlite3.connect(path, timeout=_PROBE_S).close()
    except sqlite3.OperationalError as error:
        raise errors.Failure(
            "unavailable", f"the control database {path} cannot be opened: {error}"
        ) from error


def _configured_sqlite(busy_ms: int) -> Callable[[Any, Any], None]:
    pragmas = (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={busy_ms}",
    )

    def configure(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: `_begin_sqlite` does.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return configure


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("godwit_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    present = MigrationContext.configure(connection).get_current_revision()
    if present is not None and present not in known:
        raise errors.Failure(
            "failed_precondition",
            f"the control database is of a newer release (schema {present})",
            hint="start the newer godwit, or restore a copy made by this one",
        )
    command.upgrade(config, "head")


@contextlib.contextmanager
def _said_plainly() -> Iterator[None]:
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        reason = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise errors.Failure(
            "unavailable", f"the control database does not answer: {reason}"
        ) from error
    except TimeoutError as error:
        raise errors.Failure("unavailable", "the control database does not answer") from error
