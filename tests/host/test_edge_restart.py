"""godwit-edge as a real process: a successor takes over, and no client is refused."""

import asyncio
import itertools
import ssl
from typing import Self

import pytest

from tests.host import rust_components as parts
from tests.host.conftest import until
from tests.host.edge_lab import echo
from tests.host.front_lab import NAME, OWN, SHARED, FrontLab, connected, echo_lines, make_front  # noqa: F401
from tests.host.rust_components import web_app

pytestmark = pytest.mark.host

RESTARTS = 5


class Clients:
    """Clients that connect anew for every request, and note everything that goes wrong."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.good = 0
        self.bad: list[str] = []
        self._port, self._tls = port, tls
        self._stopped = False

    async def __aenter__(self) -> Self:
        self._running = [parts.spawn(self._run()) for _ in range(8)]
        await self.more(50)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._running)

    async def more(self, requests: int) -> None:
        wanted = self.good + requests
        await until(lambda: self.good >= wanted or self.bad)

    async def _run(self) -> None:
        while not self._stopped:
            try:
                await self._ask()
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.bad.append(repr(error))
            else:
                self.good += 1

    async def _ask(self) -> None:
        tls = {"ssl": self._tls, "server_hostname": NAME} if self._tls else {}
        async with connected(SHARED, self._port, **tls) as (reader, writer):
            writer.write(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")


async def test_restarts_under_load_refuse_no_connection(front: FrontLab) -> None:
    services = [front.service(7050, "http"), front.service(7051, "tls", "http")]
    fact = front.machine("m1", services=services)
    async with web_app(fact.local_ipv4, front.app_port, echo):
        edge = await front.start()
        await front.listens(SHARED, 7051)
        async with Clients(7050) as plain, Clients(7051, front.trusting) as secure:
            for _ in range(RESTARTS):
                edge, old = await front.start(), edge
                assert await old.ended() == 0
                await plain.more(30)
                await secure.more(10)
        assert (plain.bad, secure.bad) == ([], [])
        assert plain.good >= 50 + RESTARTS * 30
        assert secure.good >= 50 + RESTARTS * 10


async def test_streams_stay_where_they_are_until_the_predecessor_gives_up(
    front: FrontLab,
) -> None:
    front.changes["drain_ms"] = 5_000
    fact = front.machine("m1", services=[front.service(7052)])
    async with parts.raw_app(fact.local_ipv4, front.app_port, echo_lines):
        old = await front.start()
        await front.listens(OWN, 7052)
        async with connected(OWN, 7052) as (reader, writer):
            await front.start()
            writer.write(b"with the old one\n")
            assert await reader.readline() == b"> with the old one\n"
            async with connected(OWN, 7052) as (other, second):
                second.write(b"with the new one\n")
                assert await other.readline() == b"> with the new one\n"
                assert await old.ended() == 0
                second.write(b"still there\n")
                assert await other.readline() == b"> still there\n"


async def test_a_successor_that_dies_half_way_changes_nothing(front: FrontLab) -> None:
    fact = front.machine("m1", services=[front.service(7053, "http")])
    async with web_app(fact.local_ipv4, front.app_port, echo):
        await front.start()
        await front.listens(SHARED, 7053)
        path = str(front.changes["handover_socket"])
        for _ in range(3):
            reader, writer = await asyncio.open_unix_connection(path)
            await reader.read(10)
            writer.close()
        async with Clients(7053) as clients:
            await clients.more(50)
        assert clients.bad == []


async def test_a_successor_with_more_workers_listens_with_all_of_them(front: FrontLab) -> None:
    fact = front.machine("m1", services=[front.service(7054, "http")])
    async with web_app(fact.local_ipv4, front.app_port, echo):
        await front.start()
        await front.listens(SHARED, 7054)
        for workers in itertools.islice(itertools.cycle((4, 1)), 3):
            front.changes["workers"] = workers
            old = front.edges[-1]
            async with Clients(7054) as clients:
                await front.start()
                assert await old.ended() == 0
                await clients.more(100)
            assert clients.bad == []
