"""Benchmark: reads of the API with 10,000 machines in the database, on SQLite and PostgreSQL.

The API and control run in a process of their own on one core; the database's server and the client
have the others. Half of the reads are of an app (`GET /v1/apps/{app}`), half of an app's four
machines (`GET /v1/apps/{app}/machines`), of 2,500 apps in turn, over 16 connections that each ask
again at once. What a read costs is what that process had of its core for it. The host that a list
of machines asks is simulated within the process: the bus is not in the figures. Nothing is cached:
every read authenticates its token and reads its rows in the database.

Run alone: `python -m tools.bench_api [--kind sqlite|postgres] [--seconds N]`.
"""

import argparse
import asyncio
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn

from godwit.api import app as api
from godwit.base import ids, principal
from godwit.control import machines
from godwit.store import engines
from godwit.store.tables import APPS, PLACEMENTS
from godwit.testing import databases
from godwit.testing.control import World, world
from godwit.wire.record import Record
from tools import bench as bench_

APPS_COUNT, MACHINES_EACH = 2_500, 4
_AT_ONCE = 16
_ROUNDS = 3
_SECONDS = 6.0
_AIM_MS, _AIM_P99_MS = 2.0, 50.0
_READY_S = 60.0


def rows(kinds: tuple[str, ...] = databases.KINDS, seconds: float = _SECONDS) -> list[bench_.Row]:
    """Return two rows per database: a core's time for a read, and the slowest hundredth."""
    found: list[bench_.Row] = []
    for kind in kinds:
        took, slowest = asyncio.run(_measure(kind, seconds))
        found += [
            bench_.row(f"api.read_{kind}", "core time (2 ms: 500/s)", "ms", took, aim=_AIM_MS),
            bench_.row(f"api.read_{kind}", "p99 of 16 at once", "ms", slowest, aim=_AIM_P99_MS),
        ]
    return found


async def _measure(kind: str, seconds: float) -> tuple[list[float], list[float]]:
    with tempfile.TemporaryDirectory() as directory:
        async with databases.migrated(kind, Path(directory)) as url:
            token = await _fill(Path(directory), url)
            cores = sorted(os.sched_getaffinity(0))
            port = _free_port()
            argv = [sys.executable, "-m", "tools.bench_api", "--serve", url, str(port), directory]
            serving = await asyncio.create_subprocess_exec(
                "taskset", "--cpu-list", str(cores[0]), *argv
            )
            try:
                await _ready(port)
                pid = serving.pid
                await _round(port, token, seconds / 3, pid)
                rounds = [await _round(port, token, seconds, pid) for _ in range(_ROUNDS)]
            finally:
                serving.send_signal(signal.SIGTERM)
                async with asyncio.timeout(30):
                    await serving.wait()
    return [one.per_read_ms for one in rounds], [one.p99_ms for one in rounds]


@dataclass(frozen=True)
class _Round:
    per_read_ms: float
    p99_ms: float


async def _fill(directory: Path, url: str) -> str:
    """Make the apps and machines, all like one that was made as users do; return a token."""
    async with world(directory, url) as around:
        org = await around.organization("acme")
        await around.app("app-0", "acme")
        wanted = machines.NewMachine({"image": "nginx:1", "metadata": {"color": "blue"}})
        for _ in range(MACHINES_EACH):
            made = await machines.create(around.ctx, around.of(org), "app-0", wanted)
            # Had from its host once, so that its view is in the row.
            await machines.get(around.ctx, around.of(org), "app-0", made.view.machine_id)
        token = await around.token("acme")
    engine = engines.make(url, 5_000).execution_options(godwit_write=True)
    async with engine.begin() as connection:
        app = dict((await connection.execute(APPS.select())).mappings().one())
        placed = [dict(r) for r in (await connection.execute(PLACEMENTS.select())).mappings()]
        copies = [
            app | {"id": f"app_{n}", "number": app["number"] + n, "name": f"app-{n}"}
            for n in range(1, APPS_COUNT)
        ]
        await connection.execute(APPS.insert(), copies)
        for number in range(1, APPS_COUNT):
            for one in placed:
                machine_id = ids.machine_id()
                view = one["view"] and one["view"] | {"machine_id": machine_id}
                values = {"machine_id": machine_id, "app_id": f"app_{number}", "view": view}
                await connection.execute(PLACEMENTS.insert().values(**(one | values)))
    await engine.dispose()
    return token


class _Hosts:
    """A host that knows every machine: it answers a list with what it last told."""

    def __init__(self, views: dict[str, dict[str, Any]]) -> None:
        self._views = views

    async def call(
        self,
        host_id: str,  # noqa: ARG002 - there is one
        verb: str,
        body: Record | dict[str, Any],
        who: principal.Principal,  # noqa: ARG002
        timeout_s: float = 10.0,  # noqa: ARG002
    ) -> dict[str, Any]:
        assert verb == "machine.list"
        assert isinstance(body, dict)
        await asyncio.sleep(0)
        return {"machines": [self._views[one] for one in body["machine_ids"]]}


@asynccontextmanager
async def _control(directory: Path, url: str) -> AsyncIterator[World]:
    engine = engines.make(url, 5_000)
    async with engine.connect() as connection:
        found = await connection.execute(PLACEMENTS.select())
        views = {row.machine_id: row.view for row in found}
    await engine.dispose()
    (directory / "serving").mkdir()
    async with world(directory / "serving", url) as around:
        yield replace(around, ctx=replace(around.ctx, hosts=_Hosts(views)))  # type: ignore[arg-type]


async def _serve(url: str, port: int, directory: Path) -> None:
    async with _control(directory, url) as around:
        config = uvicorn.Config(
            api.create(around.ctx),
            port=port,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
        )
        await uvicorn.Server(config).serve()


async def _round(port: int, token: str, seconds: float, pid: int) -> _Round:
    took: list[float] = []
    spent = _cpu_s(pid)
    began = time.perf_counter()
    await asyncio.gather(
        *(_ask_for(port, token, which, began + seconds, took) for which in range(_AT_ONCE))
    )
    spent = _cpu_s(pid) - spent
    return _Round(spent / len(took) * 1000, statistics.quantiles(took, n=100)[98] * 1000)


async def _ask_for(port: int, token: str, which: int, until: float, took: list[float]) -> None:
    """Ask over one connection, again and again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = which
    while time.perf_counter() < until:
        path = f"/v1/apps/app-{number * 7 % APPS_COUNT}"
        path += "/machines" if number % 2 else ""
        number += _AT_ONCE + 1
        began = time.perf_counter()
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        took.append(time.perf_counter() - began)
    writer.close()
    await writer.wait_closed()


def _cpu_s(pid: int) -> float:
    """Return what a process has had of a core: on a busy machine elapsed time says little."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _ready(port: int) -> None:
    async with asyncio.timeout(_READY_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    """Measure, or serve for the measuring process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=databases.KINDS)
    parser.add_argument("--seconds", type=float, default=_SECONDS)
    parser.add_argument("--serve", nargs=3, metavar=("URL", "PORT", "DIRECTORY"))
    given = parser.parse_args()
    if given.serve:
        url, port, directory = given.serve
        asyncio.run(_serve(url, int(port), Path(directory)))
        return
    kinds = (given.kind,) if given.kind else databases.KINDS
    print(bench_.table(rows(kinds, given.seconds)))


if __name__ == "__main__":
    main()
