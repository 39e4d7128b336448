"""Lanes: threads on which transactions work, so that the event loop waits for no disk or server.

Called by `store.database`. A transaction has one lane for its time: a thread and a connection.
Each statement is one hop to it; BEGIN goes with the first one, and nobody waits for the end of
what only read. The drivers' own asyncio costs several times as much (docs/decisions/0024).
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa

from godwit.store import engines

MOST = 16
_WAIT_S = 10.0
_GRACE_S = 2.0

T = TypeVar("T")
Found: TypeAlias = sa.Result[*tuple[Any, ...]]


class Connection:
    """What a transaction works on: begun by its first statement, on its lane."""

    def __init__(self, engine: sa.Engine, thread: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._thread = thread
        self._guard = threading.Lock()
        self._begun: sa.Connection | None = None
        self._driver: Any = None
        self._severed = False

    async def execute(self, statement: sa.Executable, parameters: Any = None) -> Found:
        """Execute a statement; its rows are all there."""
        return await self._do(partial(self._execute, statement, parameters))

    async def change(self, statement: sa.UpdateBase) -> int:
        """Execute a statement that changes rows; return how many it did."""
        return await self._do(partial(self._change, statement))

    async def commit(self) -> None:
        """Commit."""
        await self._do(self._commit)

    def end(self) -> "asyncio.Future[None]":
        """Begin to roll back what was not committed and to give the connection back."""
        return asyncio.get_running_loop().run_in_executor(self._thread, self._end)

    def sever(self) -> None:
        """Have whoever waits for the database learn at once that it keeps silent."""
        with self._guard:
            self._severed = True
            if self._driver is not None:
                engines.sever(self._driver)

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _connection(self) -> sa.Connection:
        if self._begun is None:
            connection = _begin(self._engine)
            self._begun = connection
            with self._guard:
                # Asked of the pool later, it could be another one.
                self._driver = connection.connection.driver_connection
                if self._severed:
                    engines.sever(self._driver)
        return self._begun

    def _execute(self, statement: sa.Executable, parameters: Any) -> Found:
        found = self._connection().execute(statement, parameters)
        # SQLite's rows are read from the disk as they are fetched: here, not on the loop.
        return found.freeze()() if found.returns_rows else found

    def _change(self, statement: sa.UpdateBase) -> int:
        return self._connection().execute(statement).rowcount

    def _commit(self) -> None:
        self._connection().commit()

    def _end(self) -> None:
        if self._begun is None:
            return
        with self._guard:
            self._driver = None
        try:
            self._begun.close()
        except sa.exc.SQLAlchemyError:
            # Its server is gone, or the connection was severed; closed it may be all the same.
            if not self._begun.closed:
                self._begun.invalidate()
                self._begun.close()


class Lanes:
    """The lanes of one database, as many as there are transactions at once.

    Args:
        engine: Connects; its transactions read unless its options say `godwit_write`.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._readers = engine
        self._writers = engine.execution_options(godwit_write=True)
        self._room = asyncio.Semaphore(MOST)
        self._idle: list[ThreadPoolExecutor] = []
        self._closed = False
        self._busy: set[Connection] = set()
        self._quiet = asyncio.Event()

    @contextlib.asynccontextmanager
    async def transaction(self, *, write: bool, sever_s: float) -> AsyncIterator[Connection]:
        """Give a connection for a transaction, which is rolled back unless it was committed.

        Args:
            write: Whether it is the one writer's.
            sever_s: When the connection is cut, if the database keeps silent.

        Raises:
            TimeoutError: There was no lane for ten seconds.
        """
        if self._room.locked():
            async with asyncio.timeout(_WAIT_S):
                await self._room.acquire()
        else:
            # There is room, so this does not wait.
            await self._room.acquire()
        thread = self._thread()
        connection = Connection(self._writers if write else self._readers, thread)
        self._busy.add(connection)
        silence = asyncio.get_running_loop().call_later(sever_s, connection.sever)
        try:
            yield connection
        finally:
            ended = connection.end()
            ended.add_done_callback(partial(self._free, connection, thread, silence))
            if write:
                # The next writer's turn comes when the database is let go of.
                await asyncio.shield(ended)

    async def close(self) -> None:
        """Close every connection; what is under way gets two seconds."""
        await self._settle()
        for connection in self._busy:
            connection.sever()
        await self._settle()
        await asyncio.to_thread(self._readers.dispose)
        # A thread on which something still is ends after it: what it begins yet must find it.
        self._closed = True
        while self._idle:
            self._idle.pop().shutdown(wait=False)

    async def _settle(self) -> None:
        """Return when nothing is under way, or in two seconds."""
        self._quiet.clear()
        if self._busy:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_S):
                    await self._quiet.wait()

    def _thread(self) -> ThreadPoolExecutor:
        if self._idle:
            return self._idle.pop()
        return ThreadPoolExecutor(1, thread_name_prefix="database")

    def _free(
        self,
        connection: Connection,
        thread: ThreadPoolExecutor,
        silence: asyncio.TimerHandle,
        _ended: "asyncio.Future[None]",
    ) -> None:
        silence.cancel()
        self._busy.discard(connection)
        if not self._busy:
            self._quiet.set()
        if self._closed:
            thread.shutdown(wait=False)
        else:
            self._idle.append(thread)
        self._room.release()


def _begin(engine: sa.Engine) -> sa.Connection:
    """Begin a transaction; connections of before the server's last restart are replaced."""
    try:
        return _begin_once(engine)
    except sa.exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return _begin_once(engine)


def _begin_once(engine: sa.Engine) -> sa.Connection:
    connection = engine.connect()
    try:
        connection.begin()
    except BaseException:
        connection.close()
        raise
    return connection
