"""Control's database: opens, migrates, gives transactions. Implements `control.ports.Store`.

Called by `godwit.cmd.control`. A file of SQLite or a PostgreSQL server, by URL; `store.engines`
knows what differs. One writer works at a time, so a transaction never fails half-way for
another's sake.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from godwit.base import errors
from godwit.store import engines, lanes, schema
from godwit.store.engines import sqlite_url
from godwit.store.tables import META
from godwit.store.transaction import Transaction

__all__ = ["Database", "open_database", "sqlite_url"]

_DEADLINE_S = 15.0
_SEVER_S = 14.0


class Database:
    """A migrated database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._lanes = lanes.Lanes(engine)
        self._moved: errors.Failure | None = None
        self._one_writer = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """Open a consistent view of the rows."""
        if self._moved is not None:
            raise self._moved
        with said_plainly():
            async with (
                asyncio.timeout(_DEADLINE_S),
                self._lanes.transaction(write=False, sever_s=_SEVER_S) as connection,
            ):
                yield Transaction(connection)

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """Open a transaction: committed at the end, rolled back by an exception."""
        with said_plainly():
            async with (
                asyncio.timeout(_DEADLINE_S),
                self._one_writer,
                self._lanes.transaction(write=True, sever_s=_SEVER_S) as connection,
            ):
                await self._demand_home(connection)
                yield Transaction(connection)
                await connection.commit()

    async def close(self) -> None:
        """Close every connection."""
        await self._lanes.close()

    async def _demand_home(self, connection: lanes.Connection) -> None:
        """Refuse to write into what was left behind, though it was ours when it was opened."""
        try:
            await demand_home(connection)
        except errors.Failure as failure:
            self._moved = failure
            raise


async def open_database(url: str, *, busy_ms: int = 5_000) -> Database:
    """Open a database and bring its tables to this release.

    Args:
        url: SQLAlchemy's form for SQLite, libpq's for PostgreSQL.
        busy_ms: How long SQLite waits for another process's write.

    Raises:
        Failure: `failed_precondition` when a newer release wrote it, `unavailable` when it
            cannot be opened.
    """
    engine = engines.make(url, busy_ms)
    try:
        with opened_plainly():
            if engine.dialect.name == "sqlite":
                # A thread of its own learns why a file does not open; the driver's would linger.
                await asyncio.to_thread(engines.probe_sqlite, engine.url.database or "")
            async with engine.execution_options(godwit_write="long").begin() as connection:
                await connection.run_sync(schema.migrate)
                await demand_home(connection)
    finally:
        await engine.dispose()
    return Database(engines.threaded(url, busy_ms))


async def demand_home(connection: AsyncConnection | lanes.Connection) -> None:
    """Return if the platform lives in this database.

    Raises:
        Failure: `failed_precondition` when it was moved away, or has not arrived yet.
    """
    columns = sa.select(META.c.residence, META.c.moved_to)
    residence, moved_to = (await connection.execute(columns)).one()
    if residence == "moved":
        raise errors.Failure(
            "failed_precondition",
            f"the platform was moved from this database to: {moved_to}",
            hint="its copy here is out of date: open that one, or restore a copy of this one",
        )
    if residence == "arriving":
        raise errors.Failure(
            "failed_precondition",
            "the move of a platform into this database was not finished",
            hint="start the control that it was moved from: it finishes the move or undoes it",
        )


@contextlib.contextmanager
def opened_plainly() -> Iterator[None]:
    """As `said_plainly`, where also rights and foreign tables may be in the way."""
    try:
        with said_plainly():
            yield
    except sa.exc.DBAPIError as error:
        raise errors.Failure(
            "failed_precondition",
            f"the control database cannot be used: {' '.join(str(error.orig).split())}",
            hint="on PostgreSQL its user needs the right to make tables there",
        ) from error


@contextlib.contextmanager
def said_plainly() -> Iterator[None]:
    """Turn what the drivers raise into failures that people understand."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        reason = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise errors.Failure(
            "unavailable", f"the control database does not answer: {' '.join(str(reason).split())}"
        ) from error
    except sa.exc.DataError as error:
        # SQLite keeps these; what they are asked of is refused before, wherever it is known.
        raise errors.invalid(
            f"this cannot be kept: {' '.join(str(error.orig).split())}"
        ) from error
    except TimeoutError as error:
        raise errors.Failure("unavailable", "the control database does not answer") from error
