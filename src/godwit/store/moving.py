"""Carries the platform from one database to another: `godwit control move-database`.

Control does it at its start, when it finds a request. At every moment exactly one of the two is
the platform's home; a process that is killed in the middle begins again where it was:

1. the new database is filled in one transaction and marked `arriving`: nobody opens it;
2. the old one is marked `moved` by the transaction that has kept all writers out of it since
   before the first row was read. Its commit is the moment of the move;
3. the new one is marked `home`, and `database.json` names it.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from godwit.base import errors
from godwit.control import residence
from godwit.control.residence import SQLITE, Files
from godwit.store import copying, engines, schema
from godwit.store.database import Database, demand_home, open_database, opened_plainly
from godwit.store.tables import HOSTS, META, METADATA, ORGANIZATIONS

logger = logging.getLogger(__name__)

_BUSY_MS = 10_000


def _nothing() -> None:
    return


def _nowhere(_point: str) -> None:
    return


@dataclass(frozen=True)
class Hooks:
    """Who is told on the way.

    Attributes:
        progress: Called while rows are carried, every few hundred of them.
        at: Called at each point where a crash would leave another state: for tests.
    """

    progress: Callable[[], None] = _nothing
    at: Callable[[str], None] = _nowhere


_NO_HOOKS = Hooks()


async def open_home(directory: Path, setting: str, hooks: Hooks = _NO_HOOKS) -> Database:
    """Carry out a move that is wanted, then open the platform's database.

    Args:
        directory: Where control keeps its files.
        setting: `control.database`; empty for none.
        hooks: Who is told on the way.

    Raises:
        Failure: The database does not open, is not the platform's any more, or the setting
            names another one than the platform lives in.
    """
    files = Files(directory)
    if (request := residence.read(files.request, residence.Request)) is not None:
        await _carry_out(files, setting, request, hooks)
    url = residence.choose(files, setting)
    if url != SQLITE and not files.residence.exists():
        await asyncio.to_thread(_demand_nobody_left_behind, files.database, url)
    return await open_database(_full(files, url))


async def _carry_out(files: Files, setting: str, request: residence.Request, hooks: Hooks) -> None:
    """Move, or find out why not; either way the request is answered and gone.

    Raises:
        Failure: How it stands cannot be told now; the request stays, to be taken up again.
    """
    answered = residence.read(files.outcome, residence.Outcome)
    if answered is None or answered.id != request.id:
        source = residence.choose(files, setting)
        try:
            outcome = await _Move(files, source, request, hooks).carry()
        except errors.Failure as failure:
            await _demand_undone(_full(files, source), request, failure)
            logger.error("the database was not moved: %s", failure.message)  # noqa: TRY400
            outcome = residence.Outcome(
                id=request.id, moved=False, sentence=failure.message, hint=failure.hint
            )
        residence.write(files.outcome, outcome)
        hooks.at("told")
    residence.remove(files.request)


class _Move:
    """One attempt at a move; the next one begins where it was cut off."""

    def __init__(
        self, files: Files, source: str, request: residence.Request, hooks: Hooks
    ) -> None:
        self._files = files
        self._request = request
        self._hooks = hooks
        # A database may be named in several ways: what the old one says of itself decides.
        self._here, self._there = residence.place(source), residence.place(request.to)
        self._source = engines.make(_full(files, source), _BUSY_MS)
        self._target = engines.make(_full(files, request.to), _BUSY_MS)

    async def carry(self) -> residence.Outcome:
        """Move.

        Raises:
            Failure: It did not work, or it is not known whether it did.
        """
        try:
            with opened_plainly():
                return await self._carry()
        finally:
            await self._source.dispose()
            await self._target.dispose()

    async def _carry(self) -> residence.Outcome:
        async with _long(self._source) as old:
            await old.run_sync(schema.migrate)
            state = await _state(old)
            await old.commit()
        if self._here == self._there and state.move != self._request.id:
            raise errors.Failure("failed_precondition", f"the platform lives there: {self._there}")
        if state.move != self._request.id:
            await self._fill(state.platform)
        return await self._finish()

    async def _fill(self, platform: str) -> None:
        async with _long(self._target) as new:
            await new.run_sync(schema.migrate)
            await self._demand_room(new, platform)
            await new.commit()
        self._hooks.at("target migrated")
        async with _long(self._source) as old, _long(self._target) as new:
            await demand_home(old)
            await self._demand_room(new, platform)
            await copying.copy_all(old, new, self._hooks.progress)
            await _mark(new, residence="arriving", move=self._request.id)
            self._hooks.at("copied")
            await new.commit()
            self._hooks.at("target committed")
            await _mark(old, residence="moved", move=self._request.id, moved_to=self._there)
            self._hooks.at("source marked")
            await old.commit()
        self._hooks.at("source committed")

    async def _finish(self) -> residence.Outcome:
        async with _long(self._target) as new:
            await _mark(new, residence="home", move=self._request.id)
            rows = {
                table.name: int(
                    (await new.execute(sa.select(sa.func.count()).select_from(table))).scalar_one()
                )
                for table in METADATA.sorted_tables
            }
            await new.commit()
        self._hooks.at("target home")
        if self._here != self._there:
            moved = residence.Residence(url=self._request.to, moved_from=self._here)
            residence.write(self._files.residence, moved)
        self._hooks.at("written")
        return residence.Outcome(id=self._request.id, moved=True, place=self._there, rows=rows)

    async def _demand_room(self, new: AsyncConnection, platform: str) -> None:
        """Return if nothing that anybody needs is in the new database."""
        state = await _state(new)
        left_over = state.platform == platform and state.residence in ("arriving", "moved")
        if state.populated and not left_over:
            raise errors.Failure(
                "failed_precondition",
                f"a platform is in there already: {self._there}",
                hint="name an empty database",
            )


@dataclass(frozen=True)
class _State:
    platform: str
    residence: str
    move: str
    populated: bool


async def _state(connection: AsyncConnection) -> _State:
    populated = False
    for table in (HOSTS, ORGANIZATIONS):
        found = await connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1))
        populated = populated or found.first() is not None
    query = sa.select(META.c.platform, META.c.residence, META.c.move)
    platform, where, move = (await connection.execute(query)).one()
    return _State(platform, where, move, populated)


async def _mark(connection: AsyncConnection, **values: str) -> None:
    await connection.execute(META.update().values(**{"moved_to": ""} | values))


@contextlib.asynccontextmanager
async def _long(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Give a connection in a writer's transaction, rolled back unless it was committed."""
    async with engine.execution_options(godwit_write="long").connect() as connection:
        await connection.begin()
        yield connection


async def _demand_undone(url: str, request: residence.Request, failure: errors.Failure) -> None:
    """Return if a failed move left the old database the platform's home.

    Raises:
        Failure: The move's own, when it took place all the same or nobody can tell.
    """
    engine = engines.make(url, _BUSY_MS)
    try:
        async with engine.connect() as connection:
            state = await _state(connection)
    except (sa.exc.SQLAlchemyError, OSError):
        raise failure from None
    finally:
        await engine.dispose()
    if state.move == request.id and state.residence != "arriving":
        raise failure


def _demand_nobody_left_behind(path: Path, url: str) -> None:
    """Return unless the file holds a platform that a setting alone would leave behind.

    Raises:
        Failure: It does.
    """
    if not path.exists():
        return
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        with contextlib.suppress(sqlite3.OperationalError):
            # No such column: an earlier release's, which could not be moved.
            if file.execute("SELECT residence FROM meta").fetchone() == ("moved",):
                return
        with contextlib.suppress(sqlite3.OperationalError):
            if file.execute("SELECT 1 FROM hosts").fetchone() is None:
                return
    raise errors.Failure(
        "failed_precondition",
        f"control.database names {residence.place(url)}, but the platform is in {path}",
        hint="take the setting back and move it with `godwit control move-database`",
    )


def _full(files: Files, url: str) -> str:
    return engines.sqlite_url(files.database) if url == SQLITE else url
