"""One SQLite file behind one thread: every write is a transaction, writes that wait share one.

Owns the connection. The journal and its caller's own tables live in the same file, so that the
end of an operation and the state it led to are committed together.
"""

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from godwit.base import errors

T = TypeVar("T")

Transaction = sqlite3.Connection
Work = Callable[[Transaction], T]
Schema = Mapping[str, Sequence[str]]
"""Migrations of each component by its name: the n-th script leads to version n."""

_MAX_BATCH = 64


class Writer(Protocol):
    """What the journal and the stores need: transactions, one after the other."""

    async def write(self, work: Work[T], *, synced: bool = True) -> T:
        """Run work in a transaction and return its result once that is committed.

        Args:
            work: Called in the database's thread; an exception undoes what it did.
            synced: Whether the commit must outlive a power loss. A process that is killed loses
                nothing either way.
        """

    async def read(self, work: Work[T]) -> T:
        """Run work that only reads."""


class _Job:
    def __init__(self, work: Work[Any], loop: asyncio.AbstractEventLoop, *, synced: bool) -> None:
        self.work = work
        self.synced = synced
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def resolve(self, result: Any, error: BaseException | None) -> None:
        self.loop.call_soon_threadsafe(self._set, result, error)

    def _set(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Database:
    """A database file and the thread that owns its connection."""

    def __init__(self, path: Path, schema: Schema) -> None:
        """Open the file, made and migrated first where needed.

        Raises:
            Failure: `failed_precondition` when a newer version wrote it.
        """
        self._connection = connect(path, schema)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"db.{path.name}", daemon=True)
        self._thread.start()
        self._closed = False

    async def write(self, work: Work[T], *, synced: bool = True) -> T:
        """Run work in a transaction and return its result once that is committed."""
        return await self._submit(work, synced=synced)

    async def read(self, work: Work[T]) -> T:
        """Run work that only reads."""
        return await self._submit(work, synced=False)

    async def close(self) -> None:
        """Finish what was asked for and close the file."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, 10.0)

    async def _submit(self, work: Work[T], *, synced: bool) -> T:
        if self._closed:
            raise errors.Failure("unavailable", "this process is going down")
        job = _Job(work, asyncio.get_running_loop(), synced=synced)
        self._jobs.put(job)
        result: T = await job.future
        return result

    def _serve(self) -> None:
        while True:
            batch = self._next_batch()
            jobs = [job for job in batch if job is not None]
            if jobs:
                _run_batch(self._connection, jobs)
            if len(jobs) < len(batch):
                self._connection.close()
                return

    def _next_batch(self) -> list[_Job | None]:
        batch = [self._jobs.get()]
        while batch[-1] is not None and len(batch) < _MAX_BATCH:
            try:
                batch.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        return batch


def connect(path: Path, schema: Schema) -> sqlite3.Connection:
    """Return a connection to the file, made and migrated first where needed.

    Raises:
        Failure: `failed_precondition` when a newer version wrote it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # It holds pull tokens: made private before SQLite first writes to it.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        return prepare(connection, schema, str(path))
    except BaseException:
        connection.close()
        raise


def prepare(
    connection: sqlite3.Connection, schema: Schema, name: str = "database"
) -> sqlite3.Connection:
    """Return the connection with its settings made and its tables migrated.

    Raises:
        Failure: `failed_precondition` when a newer version wrote it.
    """
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("PRAGMA foreign_keys = ON")
    for component, scripts in schema.items():
        _migrate(connection, component, scripts, name)
    return connection


def transact(connection: sqlite3.Connection, work: Work[T], *, synced: bool = True) -> T:
    """Run one piece of work in a transaction of its own, in the calling thread."""
    connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return result


def _migrate(
    connection: sqlite3.Connection, component: str, scripts: Sequence[str], name: str
) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL)"
    )
    row = connection.execute(
        "SELECT version FROM schema WHERE component = ?", (component,)
    ).fetchone()
    version = row["version"] if row else 0
    if version > len(scripts):
        raise errors.Failure(
            "failed_precondition",
            f"{name} was written by a newer Godwit ({component} {version}; this one reads up to"
            f" {len(scripts)})",
            hint="start the newer version again, or restore a copy from before the upgrade",
        )
    for number, script in enumerate(scripts[version:], start=version + 1):
        # Scripts and names are this program's own constants.
        mark = f"INSERT OR REPLACE INTO schema VALUES ('{component}', {number})"  # noqa: S608
        connection.executescript(f"BEGIN IMMEDIATE;\n{script};\n{mark};\nCOMMIT;")


def _run_batch(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
    """Run every job in a savepoint of one transaction; one that fails undoes only itself."""
    try:
        level = "FULL" if any(job.synced for job in jobs) else "NORMAL"
        connection.execute(f"PRAGMA synchronous = {level}")
        connection.execute("BEGIN IMMEDIATE")
        ended = [(job, *_run_job(connection, job)) for job in jobs]
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        for job in jobs:
            job.resolve(None, error)
        return
    for job, result, problem in ended:
        job.resolve(result, problem)


def _run_job(connection: sqlite3.Connection, job: _Job) -> tuple[Any, BaseException | None]:
    connection.execute("SAVEPOINT job")
    try:
        result = job.work(connection)
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
        else:
            # SQLite itself gave the transaction up (disk full): nothing of this batch holds.
            raise sqlite3.OperationalError(str(error)) from error
        return None, error
    connection.execute("RELEASE job")
    return result, None
