"""Clients that take their time: bodies that come by bytes, answers that nobody reads."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest

from tests.host import rust_components as parts
from tests.host.edge_lab import Lab, echo, make_lab  # noqa: F401
from tests.host.front_lab import NAME, OWN, SHARED, FrontLab, connected, make_front  # noqa: F401
from tests.host.http2_client import PREFACE, frame, get_block, speaking
from tests.host.rust_components import raw_app, read_request, web_app

pytestmark = pytest.mark.host

HTTP, RAW = 7070, 7072
GET = b"GET / HTTP/1.1\r\nHost: " + NAME.encode() + b"\r\n"
STREAMS = 20
WINDOW = 1024 * 1024
"""What a client lets one stream have on its way here."""
MOST_MB = 48
"""Of the edge's memory, for so many; what sockets hold is the kernel's."""


async def test_a_body_that_moves_may_take_longer_than_any_limit(lab: Lab) -> None:
    lab.limits = lab.limits.model_copy(update={"response_ms": 1_500, "header_ms": 1_000})
    fact = lab.machine("m1", service={"hard_limit": 2})
    async with web_app(fact.local_ipv4, lab.app_port, echo):
        await lab.start()
        async with connected("127.0.0.1", lab.port) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: " + NAME.encode())
            writer.write(b"\r\nContent-Length: 8\r\n\r\n")
            for byte in b"slow...!":
                writer.write(bytes([byte]))
                # Somebody else is served meanwhile; the pause is the client's, not the test's.
                assert (await lab.get()).status_code == 200
                await asyncio.sleep(0.5)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            assert json.loads(await reader.readuntil(b"}"))["bytes"] == 8


async def test_a_body_that_stops_is_given_up_and_its_place_is_free_again(lab: Lab) -> None:
    lab.limits = lab.limits.model_copy(update={"response_ms": 1_000})
    fact = lab.machine("m1", service={"hard_limit": 1})
    async with web_app(fact.local_ipv4, lab.app_port, echo):
        await lab.start()
        async with connected("127.0.0.1", lab.port) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: " + NAME.encode())
            writer.write(b"\r\nContent-Length: 8\r\n\r\nslow")
            said = await reader.read()
            assert said.startswith(b"HTTP/1.1 504"), said
            assert b"[PU02]" in said
        assert (await lab.get()).status_code == 200


class Endless:
    """An app whose answers have no end, but for who asks `/short`; it counts what it could write."""

    def __init__(self) -> None:
        self.written = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            if request.path == "/short":
                writer.write(parts.response(b"short"))
                continue
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await self.pour(reader, writer)

    async def pour(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        piece = b"z" * 65_536
        while True:
            writer.write(piece)
            await writer.drain()
            self.written += len(piece)

    async def stuck(self) -> None:
        """Return once it can write no more."""
        before, still = -1, 0
        async with asyncio.timeout(parts.PATIENCE_S):
            while still < 5:
                still = still + 1 if self.written == before else 0
                before = self.written
                await asyncio.sleep(0.1)
        assert self.written


@contextlib.asynccontextmanager
async def endless(front: FrontLab) -> AsyncIterator[Endless]:
    """Serve an app that says more than anybody reads: by HTTP, and at a port of raw TCP."""
    raw = front.service(RAW) | {"internal_port": front.app_port + 1}
    fact = front.machine("m1", services=[front.service(HTTP, "http"), raw])
    app = Endless()
    async with (
        raw_app(fact.local_ipv4, front.app_port, app.serve),
        raw_app(fact.local_ipv4, front.app_port + 1, app.pour),
    ):
        await front.start()
        await front.listens(SHARED, HTTP)
        await front.listens(OWN, RAW)
        yield app


async def still_serves(front: FrontLab) -> None:
    async with connected(SHARED, HTTP) as (reader, writer):
        writer.write(GET.replace(b" / ", b" /short ") + b"\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    for edge in front.edges:
        assert "panicked" not in edge.log.read_text()


def headers(path: str) -> list[tuple[str, str]]:
    return [(":method", "GET"), (":scheme", "http"), (":authority", NAME), (":path", path)]


async def test_a_stream_that_nobody_reads_holds_back_its_app_and_no_other_stream(
    front: FrontLab,
) -> None:
    async with endless(front) as app:
        edge = front.edges[0]
        await still_serves(front)
        before = edge.memory_mb()
        async with connected(SHARED, HTTP) as ends, speaking(*ends) as client:
            http = client.http
            http.increment_flow_control_window(STREAMS * WINDOW)
            # The client's library lets a stream have 64 KB, and nothing here lets it have more.
            for number in range(STREAMS):
                http.send_headers(1 + 2 * number, headers("/"), end_stream=True)
            ends[1].write(http.data_to_send())
            await app.stuck()
            last = 1 + 2 * STREAMS
            http.send_headers(last, headers("/short"), end_stream=True)
            ends[1].write(http.data_to_send())
            came = bytearray()
            while b"short" not in came:
                data = await ends[0].read(1 << 16)
                assert data
                for event in http.receive_data(data):
                    if getattr(event, "stream_id", 0) == last:
                        came += getattr(event, "data", b"") or b""
            assert edge.memory_mb() - before < MOST_MB
            await still_serves(front)
        await nothing_in_flight(front)


async def nothing_in_flight(front: FrontLab) -> None:
    async with asyncio.timeout(parts.PATIENCE_S):
        while await front.agent.count("m1") != (0, 0):
            await asyncio.sleep(0.02)


async def test_a_client_by_http_2_that_reads_nothing_at_all_costs_little(front: FrontLab) -> None:
    async with endless(front) as app:
        edge = front.edges[0]
        await still_serves(front)
        before = edge.memory_mb()
        with socket.create_connection((SHARED, HTTP), timeout=parts.PATIENCE_S) as client:
            client.sendall(greedy())
            await app.stuck()
            assert edge.memory_mb() - before < MOST_MB
            await still_serves(front)
        await nothing_in_flight(front)


def greedy() -> bytes:
    """Return what asks for many streams, each of which may send as much as there is."""
    most = (1 << 31) - 1
    said = bytearray(PREFACE)
    said += frame(4, 0, 0, b"\x00\x04" + most.to_bytes(4, "big"))
    said += frame(8, 0, 0, (most - 65_535).to_bytes(4, "big"))
    for number in range(STREAMS):
        said += frame(1, 5, 1 + 2 * number, get_block(NAME))
    return bytes(said)


async def test_a_client_by_raw_tcp_that_reads_nothing_costs_little(front: FrontLab) -> None:
    async with endless(front) as app:
        edge = front.edges[0]
        await still_serves(front)
        before = edge.memory_mb()
        with socket.create_connection((OWN, RAW), timeout=parts.PATIENCE_S):
            await app.stuck()
            assert edge.memory_mb() - before < MOST_MB
            await still_serves(front)
        await nothing_in_flight(front)
