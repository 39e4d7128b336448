"""Requests' bodies that the edge keeps until they are answered: how much of them, and until when."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.host import rust_components as parts
from tests.host.conftest import until
from tests.host.edge_lab import HELLO, Lab, echo, make_lab  # noqa: F401
from tests.host.rust_components import Request, WebApp, response, web_app

pytestmark = pytest.mark.host

KEPT, UNKEPT = "godwit_edge_kept_body_bytes", "godwit_edge_unkept_bodies_count"
BODY = b"x" * 250_000


class Sends:
    """An app that sends each request to another, those for `/held` once they are let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def __call__(self, request: Request) -> bytes:
        if request.path == "/held":
            await self.let_go.wait()
        return response(b"", "200 OK", "fly-replay: app=other")


@contextlib.asynccontextmanager
async def sending(lab: Lab) -> AsyncIterator[tuple[Sends, WebApp]]:
    """Yield an app that replays, and how; the edge has room for one of two bodies."""
    lab.limits = lab.limits.model_copy(update={"kept_body_bytes": 400_000})
    first, other = lab.machine("m1"), lab.machine("m2", app="other")
    sends = Sends()
    async with (
        web_app(first.local_ipv4, lab.app_port, sends) as app,
        web_app(other.local_ipv4, lab.app_port, echo),
    ):
        await lab.start()
        yield sends, app


async def post(lab: Lab, path: str = "/") -> httpx.Response:
    async with httpx.AsyncClient(timeout=2 * parts.PATIENCE_S) as client:
        return await client.post(lab.url + path, headers=HELLO, content=BODY)


async def holds(lab: Lab, least: int, most: int) -> None:
    """Return once the edge keeps that many bytes."""
    async with asyncio.timeout(parts.PATIENCE_S):
        while not least <= (await lab.metrics())[KEPT] <= most:
            await asyncio.sleep(0.02)


async def test_beyond_its_budget_the_edge_keeps_no_bodies(lab: Lab) -> None:
    async with sending(lab) as (sends, app):
        held = parts.spawn(post(lab, "/held"))
        await holds(lab, len(BODY), 400_000)
        await until(lambda: app.active == 1)
        got = await post(lab)
        # It was passed on whole; only to send it again is beyond what the edge can.
        assert [len(request.body) for request in app.requests] == [len(BODY)] * 2
        assert got.status_code == 503
        assert "[PA01] the request cannot be replayed: the edge keeps as much" in got.text
        metrics = await lab.metrics()
        assert (metrics[UNKEPT], metrics[KEPT] >= len(BODY)) == (1, True)
        sends.let_go.set()
        answered = await held
        assert answered.json()["digest"] == hashlib.sha256(BODY).hexdigest()
        await holds(lab, 0, 0)
        assert (await post(lab)).json()["bytes"] == len(BODY)
        await holds(lab, 0, 0)


async def test_a_body_is_let_go_with_its_client(lab: Lab) -> None:
    async with sending(lab) as (_, app):
        held = parts.spawn(post(lab, "/held"))
        await holds(lab, len(BODY), 400_000)
        held.cancel()
        await holds(lab, 0, 0)
        assert (await post(lab)).status_code == 200
        assert len(app.requests) == 2


async def test_a_body_is_let_go_once_the_response_begins(lab: Lab) -> None:
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await parts.read_request(reader)
        assert request is not None
        assert len(request.body) == len(BODY)
        await holds(lab, len(BODY), 2 * len(BODY))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        await over.wait()
        writer.write(b"done")
        await writer.drain()
        writer.close()

    fact = lab.machine("m1")
    async with (
        parts.raw_app(fact.local_ipv4, lab.app_port, serve),
        httpx.AsyncClient(timeout=2 * parts.PATIENCE_S) as client,
    ):
        await lab.start()
        asked = client.stream("POST", lab.url, headers=HELLO, content=BODY)
        async with asked as got:
            assert got.status_code == 200
            await holds(lab, 0, 0)
            over.set()
            assert await got.aread() == b"done"


async def test_a_body_in_many_small_pieces_is_kept_for_little_more_than_its_bytes(
    lab: Lab,
) -> None:
    async with sending(lab) as (sends, app):
        size = 100_000
        head = "POST /held HTTP/1.1\r\nHost: hello.godwit.localhost\r\nTransfer-Encoding: chunked"
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(head.encode() + b"\r\n\r\n" + b"1\r\nx\r\n" * size + b"0\r\n\r\n")
        await until(lambda: app.active == 1)
        await holds(lab, size, size + size // 4)
        sends.let_go.set()
        async with asyncio.timeout(parts.PATIENCE_S):
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            digest = hashlib.sha256(b"x" * size).hexdigest()
            assert digest.encode() in await reader.readuntil(b"connection")
        writer.close()
        await holds(lab, 0, 0)
