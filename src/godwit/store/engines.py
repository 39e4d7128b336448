"""Engines: how each kind of database is connected to, and how a transaction begins in it.

Called by `store.database` and `store.moving`: `make` for what is done once, at the start, and
`threaded` for what requests do. Both kinds keep one promise: one writer at a time,
so a transaction never fails half-way for another's sake, and a read sees one moment. SQLite
takes its file's lock at BEGIN; in PostgreSQL every writer takes the same advisory lock there.
"""

import contextlib
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import conninfo
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from godwit.base import errors
from godwit.control import residence

_PROBE_S = 5.0
_AGAIN_S = 0.01
_LOCK = 4_714_201_918_340_427
"""Any number, as long as every Godwit takes the same."""
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE = f"BEGIN; SELECT pg_advisory_xact_lock({_LOCK})"
# Steps to a new release may take long, and another replica may be doing them.
_LONG = (
    "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '300s';"
    f" SET LOCAL idle_in_transaction_session_timeout = 0; SELECT pg_advisory_xact_lock({_LOCK})"
)
_POSTGRES_SESSION = {
    # A transaction's deadline is 15 s: the server gives up first, and says what it waited for.
    "lock_timeout": "10s",
    "statement_timeout": "12s",
    # A writer that froze keeps the others out no longer than this.
    "idle_in_transaction_session_timeout": "60s",
}
_POSTGRES_DEFAULTS: dict[str, Any] = {
    "application_name": "godwit-control",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    # Of several hosts the one that takes writes; a standby alone is none.
    "target_session_attrs": "read-write",
}


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return f"sqlite+aiosqlite:///{path}"


def make(url: str, busy_ms: int) -> AsyncEngine:
    """Return the engine for a URL; nothing is connected to yet.

    Its transactions read, unless execution options say `godwit_write`: `True` for a writer,
    `"long"` for one that may wait and work for minutes.

    Raises:
        Failure: `invalid_argument` for what is no URL of a database. The URL is not repeated,
            for it may hold a password.
    """
    name, options = _named(url)
    engine = create_async_engine(name, **options)
    _listen(engine.sync_engine, busy_ms)
    return engine


def threaded(url: str, busy_ms: int) -> sa.Engine:
    """Return the same engine for threads (`store.lanes`), which wait for the database themselves.

    Raises:
        Failure: As `make`.
    """
    name, options = _named(url)
    engine = sa.create_engine(name.replace("+aiosqlite", ""), **options)
    _listen(engine, busy_ms)
    return engine


def probe_sqlite(path: str) -> None:
    """Try whether a SQLite file opens.

    Raises:
        Failure: `unavailable`, with the reason.
    """
    try:
        sqlite3.connect(path, timeout=_PROBE_S).close()
    except sqlite3.OperationalError as error:
        raise errors.Failure(
            "unavailable", f"the control database {path} cannot be opened: {error}"
        ) from error


def sever(driver: psycopg.Connection | sqlite3.Connection) -> None:
    """Cut a connection whose database keeps silent; who waits on it learns at once."""
    if isinstance(driver, sqlite3.Connection):
        with contextlib.suppress(sqlite3.Error):
            driver.interrupt()
        return
    with (
        contextlib.suppress(OSError, psycopg.Error),
        # A copy: the driver goes on owning its descriptor.
        socket.socket(fileno=os.dup(driver.fileno())) as copy,
    ):
        copy.shutdown(socket.SHUT_RDWR)


def _named(url: str) -> tuple[str, dict[str, Any]]:
    """Return SQLAlchemy's name of a database, and how to connect to it."""
    pool = {"pool_size": 8, "max_overflow": 8, "pool_timeout": 10}
    if residence.is_url(url):
        # All goes by arguments: the URL of the engine then holds nothing to keep secret.
        return "postgresql+psycopg://", {"connect_args": _postgres(url), **pool}
    if not url.startswith("sqlite"):
        raise errors.invalid("the control database is a SQLite file or a postgresql:// URL")
    return url, {"connect_args": {"check_same_thread": False}, **pool}


def _postgres(url: str) -> dict[str, Any]:
    name = residence.place(url)
    try:
        given = conninfo.conninfo_to_dict("postgresql:" + url.partition(":")[2])
    except psycopg.ProgrammingError:
        # Without the reason and without its cause: both repeat parts of the URL.
        raise errors.invalid(f"the URL of this database is malformed: {name}") from None
    return {**_POSTGRES_DEFAULTS, **given}


def _listen(engine: sa.Engine, busy_ms: int) -> None:
    if engine.dialect.name == "postgresql":
        event.listen(engine, "connect", _configure_postgres)
        event.listen(engine, "begin", _begin_postgres)
    else:
        event.listen(engine, "connect", _configured_sqlite(busy_ms))
        event.listen(engine, "begin", _begin_sqlite)


def _configure_postgres(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: `_begin_postgres` does.
    connection.autocommit = True
    cursor = connection.cursor()
    for name, value in _POSTGRES_SESSION.items():
        cursor.execute(f"SET {name} = '{value}'")
    cursor.close()


def _begin_postgres(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("godwit_write", False)
    connection.exec_driver_sql(_LONG if writes == "long" else _WRITE if writes else _READ)


def _configured_sqlite(busy_ms: int) -> Callable[[Any, Any], None]:
    pragmas = (f"busy_timeout={busy_ms}", "synchronous=FULL", "foreign_keys=ON")

    def configure(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: `_begin_sqlite` does.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        _keep_a_log(cursor, busy_ms)
        cursor.close()

    return configure


def _keep_a_log(cursor: Any, busy_ms: int) -> None:
    """Have the file written through a log; that is for good, so all but the first find it so.

    SQLite does not wait for another process that is just doing the same to a new file.
    """
    ends = time.monotonic() + busy_ms / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= ends:
                raise
            time.sleep(_AGAIN_S)
        else:
            return


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("godwit_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
