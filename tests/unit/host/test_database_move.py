"""A running control is moved to PostgreSQL and back while it is written to: nothing is lost.

Real processes: the bus and control under their supervisor, and a PostgreSQL server.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from godwit.base import errors, settings
from godwit.base.tasks import Tasks
from godwit.control import residence
from godwit.control.records import Organization
from godwit.host import components, database_move, identity, layout, running
from godwit.host.supervisor import Supervisor
from godwit.store import database
from godwit.testing import databases, postgres
from godwit.testing.loopback import free_port

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(240)]
WITHIN_S = 60.0


@dataclass
class Up:
    """Control that runs, and who uses it."""

    settings: settings.Settings
    api: httpx.AsyncClient
    made: list[str]

    @property
    def files(self) -> residence.Files:
        return residence.Files(self.settings.paths.data / "control")

    @property
    def pid(self) -> int:
        found = running.read(self.settings.paths.run / "pids" / "control.json")
        return found.pid if found else 0

    async def move(self, to: str) -> database_move.Moved:
        return await asyncio.to_thread(
            database_move.move, self.settings, to, timeout_s=WITHIN_S, told=lambda _: None
        )

    async def answers(self, status: int = 200) -> httpx.Response:
        async with asyncio.timeout(WITHIN_S):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    answer = await self.api.get("/x/v1/health")
                    if answer.status_code == status:
                        return answer
                await asyncio.sleep(0.05)

    async def write_for_ever(self) -> None:
        """Make apps, and remember those that the API said were made."""
        number = 0
        while True:
            number += 1
            name = f"app-{number}"
            with contextlib.suppress(httpx.TransportError):
                given = {"name": name, "org_slug": "personal"}
                answer = await self.api.post("/v1/apps", json=given)
                if answer.is_success:
                    self.made.append(name)
            await asyncio.sleep(0.01)

    async def more_writes(self, count: int = 3) -> None:
        wanted = len(self.made) + count
        async with asyncio.timeout(WITHIN_S):
            while len(self.made) < wanted:
                await asyncio.sleep(0.05)


def free() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Up]:
    data, run = tmp_path / "data", tmp_path / "run"
    made = settings.load(
        None,
        {},
        {
            "paths.data": data,
            "paths.run": run,
            "listen.api": free(),
            "listen.bus": free(),
            "listen.registry": free(),
            "api.rate_limits": False,
        },
    )
    for folder in ("data/bus", "data/control", "data/log", "run/pids", "run/n"):
        (tmp_path / folder).mkdir(mode=0o700, parents=True)
    who, keys = identity.ensure(data, "lcl", "0000")
    layout.write_files(made, who, keys)
    running.write(run / "host.json", running.this())
    planned = [one for one in components.plan(made) if one.name in ("bus", "control")]
    parts = Supervisor(tuple(planned), run, data / "log", dict(os.environ))
    headers = {"Authorization": f"Bearer {keys.operator_token.read_text().strip()}"}
    base_url = f"http://{made.listen.api}"
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=30) as client:
        try:
            await parts.start()
            yield Up(made, client, [])
        finally:
            await parts.stop()


async def test_moves_there_and_back_and_loses_no_write(up: Up) -> None:
    server = postgres.shared()
    name = server.create()
    url = server.url(name).replace("//godwit@", "//godwit:geheim@")
    async with Tasks("test") as owned:
        owned.spawn(up.write_for_ever(), name="write")
        await up.more_writes()
        moved = await up.move(url)
        assert moved.place.startswith(f"PostgreSQL database {name} at ")
        assert moved.rows["apps"] >= 3
        await up.more_writes()
        await restarts_are_survived(up, server)
        await up.more_writes()
        first = up.pid
        moving = owned.spawn(up.move("sqlite"), name="move")
        await killed_in_the_middle(up, first)
        moved = await moving
        assert moved.place == "SQLite in the data directory"
        await up.more_writes()
        await owned.cancel()
    content = await databases.dump(f"sqlite+aiosqlite:///{up.files.database}")
    assert [one for one in up.made if f"'{one}'" not in content] == []
    await a_strangers_is_refused(up, server)
    logs = "".join(path.read_text() for path in (up.settings.paths.data / "log").iterdir())
    assert "geheim" not in logs
    assert "Traceback" not in logs, logs
    server.drop(name)


async def restarts_are_survived(up: Up, server: postgres.Server) -> None:
    """Take the server away under control: 503 in words, and all is well when it is back."""
    server.stop(signal.SIGQUIT)
    answer = await up.answers(503)
    assert "the control database does not answer" in answer.text
    assert "geheim" not in answer.text
    before = up.pid
    server.start()
    await up.answers()
    assert up.pid == before, "control did not have to be started again"


async def killed_in_the_middle(up: Up, before: int) -> None:
    """Kill the control that is to carry the rows; the one after it does."""
    async with asyncio.timeout(WITHIN_S):
        while up.pid in (0, before):
            await asyncio.sleep(0.01)
    os.kill(up.pid, signal.SIGKILL)


async def a_strangers_is_refused(up: Up, server: postgres.Server) -> None:
    name = server.create()
    store = await database.open_database(server.url(name))
    async with store.write() as rows:
        await rows.organizations.add(Organization("org_x", 1, "theirs", "theirs", 1))
    await store.close()
    with pytest.raises(errors.Failure, match="a platform is in there already"):
        await up.move(server.url(name))
    await up.answers()
    server.drop(name)


def test_where_nothing_runs_nothing_is_asked_for(tmp_path: Path) -> None:
    made = settings.load(None, {}, {"paths.data": tmp_path, "paths.run": tmp_path})
    with pytest.raises(errors.Failure, match="does not run here"):
        database_move.move(made, "sqlite", timeout_s=1, told=lambda _: None)
    assert list(tmp_path.iterdir()) == []
