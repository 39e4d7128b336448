"""The platform's database is moved: all of it or nothing, and one home at every moment."""

import asyncio
import contextlib
import json
import logging
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from godwit.base import errors, ids
from godwit.control import residence
from godwit.control.records import Organization
from godwit.control.residence import SQLITE, Files
from godwit.store import database, engines, moving
from godwit.store.tables import META, METADATA, ORGANIZATIONS, OUTBOX
from godwit.testing import databases, postgres

pytestmark = pytest.mark.postgres

POINTS = (
    "target migrated",
    "copied",
    "target committed",
    "source marked",
    "source committed",
    "target home",
    "written",
    "told",
)
AFTER_THE_MOVE = POINTS[POINTS.index("source committed") :]
BYTES = bytes(range(256))
JSON: tuple[Any, ...] = (
    {"b": 1, "a": [1.0, 1e300, -0.0, 2**60, None, True], "z": "ä\U0001f600\ud800\0'\"\\"},
    [],
    "text",
    None,
)


class Killed(BaseException):
    """The process is no more."""


@dataclass
class Home:
    """A data directory, the database its platform starts in, and one to go to."""

    files: Files
    setting: str
    to: str

    @property
    def directory(self) -> Path:
        return self.files.database.parent

    def url(self, name: str) -> str:
        return database.sqlite_url(self.files.database) if name == SQLITE else name

    def ask(self, to: str | None = None) -> residence.Request:
        request = residence.Request(id=ids.ulid(), to=to or self.to)
        residence.write(self.files.request, request)
        return request

    async def open(self, die_at: str | None = None) -> database.Database:
        def at(point: str) -> None:
            if point == die_at:
                raise Killed(point)

        return await moving.open_home(self.directory, self.setting, moving.Hooks(at=at))

    async def start(self, die_at: str | None = None) -> None:
        await (await self.open(die_at)).close()

    @property
    def outcome(self) -> residence.Outcome:
        found = residence.read(self.files.outcome, residence.Outcome)
        assert found is not None
        return found

    async def homes(self) -> list[str]:
        """Return those of the two that would serve."""
        found = []
        for name in (self.setting or SQLITE, self.to):
            engine = engines.make(self.url(name), 1_000)
            async with engine.connect() as connection:
                # Refused, or without tables.
                with contextlib.suppress(errors.Failure, sa.exc.DBAPIError):
                    await database.demand_home(connection)
                    if (await connection.execute(ORGANIZATIONS.select())).first():
                        found.append(name)
            await engine.dispose()
        return found


@pytest.fixture
def make_database() -> Iterator[Any]:
    server, made = postgres.shared(), []

    def make() -> str:
        made.append(server.create())
        return server.url(made[-1])

    yield make
    for name in made:
        server.drop(name)


@pytest.fixture(params=["sqlite to postgres", "postgres to sqlite", "postgres to postgres"])
async def home(request: pytest.FixtureRequest, tmp_path: Path, make_database: Any) -> Home:
    kinds = str(request.param).split(" to ")
    first, second = ("" if kind == SQLITE else make_database() for kind in kinds)
    made = Home(Files(tmp_path), first, second or SQLITE)
    await made.start()
    await fill(made.url(made.setting or SQLITE))
    return made


@pytest.fixture
async def local(tmp_path: Path, make_database: Any) -> Home:
    made = Home(Files(tmp_path), "", make_database())
    await made.start()
    await fill(made.url(SQLITE))
    return made


async def fill(url: str) -> None:
    """Put rows with every kind of value into every table there is."""
    engine = engines.make(url, 1_000).execution_options(godwit_write=True)
    async with engine.begin() as connection:
        for table in METADATA.sorted_tables:
            if table is META:
                await connection.execute(table.update().values(epoch=7, revision=2**40))
                continue
            for number in range(1, 4):
                values = {
                    column.name: await value(connection, column, number)
                    for column in table.columns
                }
                await connection.execute(table.insert().values(**values))
    await engine.dispose()


async def value(connection: Any, column: sa.Column[Any], number: int) -> Any:
    if column.foreign_keys:
        (key,) = column.foreign_keys
        return list((await connection.execute(sa.select(key.column))).scalars())[number - 1]
    if isinstance(column.type, sa.JSON):
        return JSON[number if column.nullable else number % 3]
    if column.nullable and number == 3:
        return None
    by_type = {
        sa.LargeBinary: BYTES * number,
        sa.Boolean: number == 2,
        sa.String: f"é{number}{column.name}'"[: getattr(column.type, "length", None) or 100],
        sa.Integer: number if column.primary_key else number * 7,
    }
    return next(found for kind, found in by_type.items() if isinstance(column.type, kind))


async def everything(home: Home, name: str) -> str:
    """Return all that is in a database but where it says it is at home."""
    text = await databases.dump(home.url(name))
    return re.sub(r"'[0-9a-f]{32}', '\w+', '\w*', '[^']*'", "PLATFORM", text)


async def test_everything_arrives_as_it_was_and_goes_on(home: Home) -> None:
    before = await everything(home, home.setting or SQLITE)
    home.ask()
    store = await home.open()
    assert home.outcome.moved, home.outcome.sentence
    assert home.outcome.place == residence.place(home.to)
    assert home.outcome.rows == {
        table.name: 1 if table is META else len(ROWS.get(table.name, range(3)))
        for table in METADATA.sorted_tables
    }
    assert await everything(home, home.to) == before
    async with store.write() as rows:
        assert (await rows.meta.get()).epoch == 7
        assert await rows.meta.next_revision() == 2**40 + 1
        await rows.outbox.add({"later": True})
        newest = (await rows.outbox.after(0, 10))[-1]
        assert (newest.id, newest.fact) == (4, {"later": True})
    await store.close()
    assert not home.files.request.exists()
    # The next start finds it there, told by nothing but the file.
    store = await home.open()
    async with store.read() as rows:
        assert (await rows.meta.get()).revision == 2**40 + 1
    await store.close()


ROWS: dict[str, list[int]] = {"counters": [0] * 7}
"""Tables that are not empty when they are new."""


async def test_the_old_one_says_where_the_platform_went(home: Home) -> None:
    old = await home.open()
    home.ask()
    await home.start()

    async def write() -> None:
        async with old.write():
            pytest.fail("two homes")

    async def read() -> None:
        async with old.read():
            pytest.fail("out of date")

    for use in (write, read):
        with pytest.raises(errors.Failure, match="was moved from this database to") as caught:
            await use()
        assert residence.place(home.to) in caught.value.message
    await old.close()
    with pytest.raises(errors.Failure, match="was moved from this database to"):
        await database.open_database(home.url(home.setting or SQLITE))


@pytest.mark.parametrize("point", POINTS)
async def test_killed_anywhere_there_is_one_home_and_the_next_start_ends_the_move(
    home: Home, point: str
) -> None:
    before = await everything(home, home.setting or SQLITE)
    home.ask()
    with pytest.raises(Killed):
        await home.start(die_at=point)
    here, there = home.setting or SQLITE, home.to
    # In between nobody serves; which of them will is decided.
    between = {"source committed": []}
    expected = [there] if point in AFTER_THE_MOVE else [here]
    assert await home.homes() == between.get(point, expected)
    await home.start()
    assert home.outcome.moved, home.outcome.sentence
    assert await everything(home, home.to) == before
    assert await home.homes() == [home.to]


async def test_back_and_forth_and_back(local: Home) -> None:
    before = await everything(local, SQLITE)
    for to in (local.to, SQLITE, local.to, SQLITE):
        local.ask(to)
        await local.start()
        assert local.outcome.moved, local.outcome.sentence
        assert await everything(local, to) == before
    store = await local.open()
    async with store.write() as rows:
        await rows.meta.next_revision()
    await store.close()


async def test_another_platforms_database_is_refused_and_the_old_one_goes_on(
    home: Home, tmp_path: Path
) -> None:
    if home.to == SQLITE:
        pytest.skip("the file in the data directory is nobody else's")
    await (await database.open_database(home.to)).close()
    await fill(home.to)
    theirs = await databases.dump(home.to)
    home.ask()
    await home.start()
    assert not home.outcome.moved
    assert "a platform is in there already" in home.outcome.sentence
    assert await databases.dump(home.to) == theirs
    assert not home.files.request.exists()
    store = await home.open()
    async with store.write() as rows:
        await rows.meta.next_revision()
    await store.close()


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("postgresql://godwit:geheim@127.0.0.1:1/godwit", "does not answer"),
        ("postgresql://godwit:geheim@host:port:geheim/x", "malformed"),
        ("mysql://godwit:geheim@127.0.0.1/x", "neither"),
        (SQLITE, "lives there"),
    ],
)
async def test_what_cannot_be_reached_changes_nothing(
    local: Home, to: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    before = await everything(local, SQLITE)
    local.ask(to)
    await local.start()
    assert not local.outcome.moved
    assert reason in local.outcome.sentence
    assert await everything(local, SQLITE) == before
    assert await local.homes() == [SQLITE]
    assert "geheim" not in local.files.outcome.read_text() + caplog.text


async def test_a_user_without_rights_is_told_what_is_missing(local: Home) -> None:
    server = postgres.shared()
    role = f"poor_{secrets.token_hex(4)}"
    server.execute(f"CREATE ROLE {role} LOGIN")
    local.ask(local.to.replace("//godwit@", f"//{role}@"))
    await local.start()
    assert "permission denied" in local.outcome.sentence
    assert "right to make tables" in local.outcome.hint
    assert await local.homes() == [SQLITE]


async def test_a_value_that_postgresql_cannot_keep_is_named(local: Home) -> None:
    store = await local.open()
    async with store.write() as rows:
        await rows.organizations.add(Organization("org_x", 99, "x" * 64, "x", 1))
    await store.close()
    local.ask()
    await local.start()
    assert "a value in organizations cannot be kept there" in local.outcome.sentence
    assert await local.homes() == [SQLITE]


async def test_a_row_that_does_not_arrive_is_noticed(local: Home, make_database: Any) -> None:
    await (await database.open_database(local.to)).close()
    name = local.to.partition("@/")[2].partition("?")[0]
    postgres.shared().execute(
        "CREATE FUNCTION worse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN NEW.name := 'worse'; RETURN NEW; END$$",
        name,
    )
    postgres.shared().execute(
        "CREATE TRIGGER worse BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION worse()", name
    )
    local.ask()
    await local.start()
    assert "users did not arrive as it was" in local.outcome.sentence
    assert await local.homes() == [SQLITE]


async def test_writes_that_wait_for_the_move_are_refused_not_lost(local: Home) -> None:
    """A control of before, still alive: its write either is carried along or is told no."""
    old = await local.open()
    local.ask()
    written = []

    async def write(number: int) -> None:
        with contextlib.suppress(errors.Failure):
            async with old.write() as rows:
                await rows.outbox.add({"write": number})
            written.append(number)

    async def keep_writing() -> None:
        for number in range(10_000):
            await write(number)
            await asyncio.sleep(0)

    writing = asyncio.get_running_loop().create_task(keep_writing())
    while len(written) < 3:
        await asyncio.sleep(0.01)
    await local.start()
    await write(10_001)
    writing.cancel()
    await old.close()
    assert local.outcome.moved, local.outcome.sentence
    assert 10_001 not in written
    engine = engines.make(local.to, 1_000)
    async with engine.connect() as connection:
        facts = [row.fact for row in await connection.execute(OUTBOX.select())]
    await engine.dispose()
    assert [one["write"] for one in facts if isinstance(one, dict) and "write" in one] == written


async def test_a_setting_that_names_another_database_is_told(
    local: Home, make_database: Any
) -> None:
    local.ask()
    await local.start()
    third = make_database()
    local.setting = third
    with pytest.raises(errors.Failure, match="was moved to") as caught:
        await local.start()
    assert residence.place(local.to) in caught.value.message
    for same in (local.to, SQLITE, ""):
        local.setting = same
        await local.start()


async def test_a_setting_alone_leaves_no_platform_behind(local: Home) -> None:
    local.setting = local.to
    with pytest.raises(errors.Failure, match="but the platform is in") as caught:
        await local.start()
    assert "move-database" in caught.value.hint


async def test_what_holds_the_password_is_for_its_owner_alone(local: Home) -> None:
    local.ask()
    for path in (local.files.request,):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await local.start()
    assert stat.S_IMODE(local.files.residence.stat().st_mode) == 0o600
    assert json.loads(local.files.residence.read_text())["url"] == local.to
