"""A database of an earlier release is brought to this one's tables with everything in it."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from godwit.store import database, engines

MIGRATIONS = Path(database.__file__).parent / "migrations"
ROWS = (
    "INSERT INTO organizations (id, number, slug, name, created_at_ms) VALUES ('org_1', 1, 'acme', 'acme', 1)",
    "INSERT INTO networks (id, number, org_id, name, created_at_ms) VALUES ('net_1', 1, 'org_1', 'default', 1)",
    (
        "INSERT INTO apps (id, number, org_id, network_id, name, status, role, revision,"
        " created_at_ms) VALUES ('app_1', 1, 'org_1', 'net_1', 'shop', 'deployed', '', 1, 1)"
    ),
    (
        "INSERT INTO placements (machine_id, org_id, network_id, app_id, name, region,"
        " host_id, status, instance_id, state, epoch, revision, view_epoch, view_revision,"
        " destroy_wanted, created_at_ms, updated_at_ms) VALUES ('0123456789abcd', 'org_1',"
        " 'net_1', 'app_1', 'web', 'lcl', 'a1b2c3d4', 'accepted', '01X', 'started', 1, 1, 0,"
        " 0, false, 1000, 2000)"
    ),
)
"""What every release had tables for, in the words of the first."""


def script() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def steps() -> list[str]:
    return [one.revision for one in ScriptDirectory.from_config(script()).walk_revisions()][::-1]


async def make_earlier(url: str, step: str, *more: str) -> None:
    """Make a database as it was after a step, with one machine in it, and do more with it."""

    def upgrade(connection: sa.Connection) -> None:
        config = script()
        config.attributes["connection"] = connection
        command.upgrade(config, step)
        for statement in (*ROWS, *more):
            connection.exec_driver_sql(statement)

    engine = engines.make(url, busy_ms=100)
    async with engine.execution_options(godwit_write=True).begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()


@pytest.mark.parametrize("step", steps())
async def test_machines_of_earlier_releases_are_there_and_in_order(
    empty_url: str, step: str
) -> None:
    await make_earlier(empty_url, step)
    changed_at_ms = 2000 if step == "0001" else 0
    store = await database.open_database(empty_url)
    try:
        async with store.write() as rows:
            ((row, app),) = await rows.placements.of_org(
                "org_1", destroyed=False, after=(-1, ""), limit=10
            )
            assert (row.machine_id, app) == ("0123456789abcd", "shop")
            assert row.changed_at_ms == changed_at_ms
            await rows.standbys.put(row, ["ffffffffffffff"])
            assert await rows.standbys.due("a1b2c3d4", (), 10) == []
    finally:
        await store.close()


async def test_facts_of_apps_are_newer_than_those_without_a_slug(empty_url: str) -> None:
    await make_earlier(empty_url, "0017", "UPDATE meta SET revision = 1")
    store = await database.open_database(empty_url)
    try:
        async with store.read() as rows:
            ((app,), newest) = await rows.apps.newest_facts("", 10), await rows.meta.get()
    finally:
        await store.close()
    assert (app.name, app.org_slug) == ("shop", "acme")
    assert app.revision == newest.revision > 1
