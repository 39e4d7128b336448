"""godwit-edge as a real process: clients that mean no good, and very many that mean nothing."""

import asyncio
import contextlib
import resource
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.host import rust_components as parts
from tests.host.edge_lab import echo
from tests.host.front_lab import NAME, SHARED, FrontLab, connected, make_front  # noqa: F401
from tests.host.http2_client import PREFACE, frame, get_block
from tests.host.rust_components import web_app

pytestmark = pytest.mark.host

HTTP, HTTPS = 7060, 7061
IDLE = 10_000
IDLE_KB = 20
SECURE = 1_000
SECURE_KB = 50
GOAWAY, ENHANCE_YOUR_CALM = 7, 11
END_STREAM, END_HEADERS = 1, 4
RESETS = 500
FLOOD = 200_000
"""More frames than sockets hold on their way."""


async def answers(front: FrontLab, *, tls: bool) -> bool:
    options = {"ssl": front.trusting, "server_hostname": NAME} if tls else {}
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        async with connected(SHARED, HTTPS if tls else HTTP, **options) as (reader, writer):
            writer.write(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            return True
    return False


async def served(front: FrontLab, **limits: int) -> contextlib.AsyncExitStack:
    """Start an edge that answers requests; returns what ends it."""
    front.limits = front.limits.model_copy(update=limits)
    services = [front.service(HTTP, "http"), front.service(HTTPS, "tls", "http")]
    fact = front.machine("m1", services=services)
    stack = contextlib.AsyncExitStack()
    await stack.enter_async_context(web_app(fact.local_ipv4, front.app_port, echo))
    await front.start()
    await front.listens(SHARED, HTTPS)
    return stack


async def still_answers(front: FrontLab) -> None:
    async with asyncio.timeout(parts.PATIENCE_S):
        for tls in (False, True):
            # An edge of little patience may cut off a client that the machine held up.
            while not await answers(front, tls=tls):
                await asyncio.sleep(0.02)
    for edge in front.edges:
        assert "panicked" not in edge.log.read_text()


@pytest.mark.parametrize(
    ("port", "said", "reason"),
    [
        (HTTP, b"", "silent"),
        (HTTPS, b"", "silent"),
        (HTTP, b"GET / HTTP/1.1\r\nHost: ", "http_head_timeout"),
        (HTTPS, b"\x16\x03\x01\x02\x00\x01", "handshake_timeout"),
        (HTTPS, b"\x00\x00\x00", "silent"),
        (HTTPS, b"\x16\x03\x01\x00\x05hello", "handshake"),
        (
            HTTP,
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\nBad Header: 1\r\n\r\n",
            "http_malformed",
        ),
        (HTTP, b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000, "http_too_large"),
    ],
)
async def test_who_says_nothing_useful_is_cut_off_and_counted(
    front: FrontLab, port: int, said: bytes, reason: str
) -> None:
    counted = f'godwit_edge_refused_connections_count{{reason="{reason}"}}'
    async with await served(front, header_ms=400, handshake_ms=500):
        async with asyncio.timeout(parts.PATIENCE_S):
            # A client that the machine holds up before it says a word is cut off as a silent one.
            while not (await front.metrics()).get(counted):
                with contextlib.suppress(ConnectionError):
                    async with connected(SHARED, port) as (reader, writer):
                        writer.write(said)
                        await reader.read()
        await still_answers(front)


async def test_one_source_cannot_have_every_handshake(front: FrontLab) -> None:
    async with await served(front, handshakes_of_source=5, handshakes=10, handshake_ms=60_000):
        half_open = [
            await asyncio.open_connection(SHARED, HTTPS, local_addr=("127.0.0.1", 0))
            for _ in range(8)
        ]
        for _, writer in half_open:
            writer.write(b"\x16\x03\x01\x02\x00\x01")
        await front.refused("too_many_of_source", 3)
        # From elsewhere it goes on.
        elsewhere = {"local_addr": ("127.0.1.1", 0), "ssl": front.trusting}
        async with connected(SHARED, HTTPS, **elsewhere, server_hostname=NAME):
            pass
        for _, writer in half_open:
            writer.close()
        await front.refused("handshake", 5)
        await still_answers(front)


async def goes_away(reader: asyncio.StreamReader) -> int:
    """Return the error of the GOAWAY that ends the connection."""
    error = -1
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readexactly(9)
            body = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == GOAWAY:
                error = int.from_bytes(body[4:8], "big")
    return error


async def test_streams_that_are_opened_to_be_reset_end_the_connection(front: FrontLab) -> None:
    async with await served(front):
        async with connected(SHARED, HTTP) as (reader, writer):
            writer.write(PREFACE + frame(4, 0, 0))
            flood = bytearray()
            for stream in range(1, 20_001, 2):
                flood += frame(1, END_STREAM | END_HEADERS, stream, get_block(NAME))
                flood += frame(3, 0, stream, struct.pack("!I", 8))
            writer.write(bytes(flood))
            assert await goes_away(reader) == ENHANCE_YOUR_CALM
        await front.refused("http2_protocol")
        await still_answers(front)


async def test_streams_that_are_reset_once_they_are_answered_give_their_places_back(
    front: FrontLab,
) -> None:
    """What was accepted is no flood by the protocol's library: each costs a request, no more."""
    front.limits = front.limits.model_copy(update={"queue_ms": 500})
    service = front.service(HTTP, "http", hard_limit=2)
    fact = front.machine("m1", services=[service])
    ended = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nbegun")
        await reader.read()
        ended += 1

    async with parts.raw_app(fact.local_ipv4, front.app_port, endless):
        await front.start()
        await front.listens(SHARED, HTTP)
        edge = front.edges[0]
        before = edge.memory_mb()
        async with connected(SHARED, HTTP) as (reader, writer):
            writer.write(PREFACE + frame(4, 0, 0))
            for stream in range(1, 2 * RESETS, 2):
                writer.write(frame(1, END_STREAM | END_HEADERS, stream, get_block(NAME)))
                assert await begins(reader, stream)
                writer.write(frame(3, 0, stream, struct.pack("!I", 8)))
            async with asyncio.timeout(parts.PATIENCE_S):
                while await front.agent.count("m1") != (0, 0):
                    await asyncio.sleep(0.02)
                while ended < RESETS:
                    await asyncio.sleep(0.02)
        assert edge.memory_mb() - before < 8
        assert "panicked" not in edge.log.read_text()


async def begins(reader: asyncio.StreamReader, stream: int) -> bool:
    """Return whether the stream is answered; the edge may end the connection instead."""
    while True:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == GOAWAY:
            return False
        # The body's first bytes: the head of the answer has come before.
        if head[3] == 0 and int.from_bytes(head[5:], "big") == stream:
            return True


async def test_headers_without_an_end_end_the_connection(front: FrontLab) -> None:
    async with await served(front):
        edge = front.edges[0]
        before = edge.memory_mb()
        async with connected(SHARED, HTTP) as (reader, writer):
            writer.write(PREFACE + frame(4, 0, 0) + frame(1, END_STREAM, 1, get_block(NAME)))
            sent = 0
            with contextlib.suppress(ConnectionError):
                for _ in range(FLOOD):
                    # A literal header each, never indexed.
                    writer.write(frame(9, 0, 1, b"\x10\x01a\x7f\x80\x01" + b"b" * 255))
                    await writer.drain()
                    sent += 1
            assert sent < FLOOD
            await goes_away(reader)
        assert edge.memory_mb() - before < 8
        await front.refused("http2_protocol")
        await still_answers(front)


async def endless(_: parts.Request) -> bytes:
    return parts.response(b"x" * (64 << 20))


@pytest.mark.parametrize("tls", [False, True])
async def test_a_client_that_takes_nothing_loses_its_response_and_its_place(
    front: FrontLab, tls: bool
) -> None:
    front.limits = front.limits.model_copy(update={"header_ms": 400, "send_ms": 400})
    service = front.service(HTTP, *(("tls",) if tls else ()), "http") | {"hard_limit": 1}
    fact = front.machine("m1", services=[service])
    options = {"ssl": front.trusting, "server_hostname": NAME} if tls else {}
    async with web_app(fact.local_ipv4, front.app_port, endless):
        await front.start()
        await front.listens(SHARED, HTTP)
        async with connected(SHARED, HTTP, **options) as (reader, writer):
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
            await front.refused("http_client_stalled")
            place = 'fly_app_concurrency{app="hello",org_id="org_1",region="lcl",'
            place += f'instance="m1",internal_port="{front.app_port}"}}'
            async with asyncio.timeout(parts.PATIENCE_S):
                while (await front.metrics()).get(place, 0):
                    await asyncio.sleep(0.02)


async def test_a_client_that_reads_slowly_gets_all_of_it(front: FrontLab) -> None:
    async with contextlib.AsyncExitStack() as stack:
        front.limits = front.limits.model_copy(update={"header_ms": 400, "send_ms": 400})
        fact = front.machine("m1", services=[front.service(HTTP, "http")])
        await stack.enter_async_context(web_app(fact.local_ipv4, front.app_port, endless))
        await front.start()
        await front.listens(SHARED, HTTP)
        reader, writer = await stack.enter_async_context(connected(SHARED, HTTP))
        writer.write(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        left = 64 << 20
        while left:
            # Eight seconds in all, many times what a client may take nothing for.
            left -= len(await reader.readexactly(min(left, 1 << 20)))
            await asyncio.sleep(0.125)


async def test_nobody_has_every_connection(front: FrontLab) -> None:
    async with await served(front, connections_of_source=4, header_ms=60_000):
        async with contextlib.AsyncExitStack() as held:
            for _ in range(4):
                await held.enter_async_context(connected(SHARED, HTTP))
            await front.counts("fly_edge_tcp_connects_count", 4)
            async with connected(SHARED, HTTP) as (reader, _):
                assert await reader.read() == b""
            await front.refused("too_many_connections_of_source")
            await front.counts("fly_edge_tcp_connections_drop_count", 1)
            await front.counts('fly_edge_tcp_rate_limited_count{type="connections"}', 1)
            async with connected(SHARED, HTTP, local_addr=("127.0.1.1", 0)) as (reader, writer):
                writer.write(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        await still_answers(front)


async def test_an_app_has_no_more_connections_than_its_part(front: FrontLab) -> None:
    async with await served(front, connections_of_app=2, header_ms=60_000):
        options = {"ssl": front.trusting, "server_hostname": NAME}
        async with contextlib.AsyncExitStack() as held:
            for _ in range(2):
                await held.enter_async_context(connected(SHARED, HTTPS, **options))
            async with connected(SHARED, HTTPS, **options) as (reader, _):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            await front.refused("too_many_connections_of_app")
        await still_answers(front)


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_idle(held: contextlib.ExitStack) -> None:
    """Open connections, half of which have asked something."""
    ask = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
    for number in range(IDLE):
        client = socket.create_connection((SHARED, HTTP), timeout=parts.PATIENCE_S)
        held.callback(client.close)
        if number % 2:
            client.sendall(ask)
            assert client.recv(4) == b"HTTP"


async def test_ten_thousand_idle_connections_cost_little_and_hinder_nobody(
    front: FrontLab,
) -> None:
    async with await served(front, idle_ms=600_000, header_ms=600_000):
        edge = front.edges[0]
        await still_answers(front)
        before = edge.memory_mb()
        with many_files(), contextlib.ExitStack() as held:
            await asyncio.to_thread(open_idle, held)
            await front.counts("fly_edge_tcp_connects_count", IDLE)
            await still_answers(front)
            each = (edge.memory_mb() - before) * 1024 / IDLE
        assert each < IDLE_KB, f"{each:.1f} KB for an idle connection"


async def test_idle_connections_with_tls_cost_little(front: FrontLab) -> None:
    async with await served(front, idle_ms=600_000, header_ms=600_000):
        edge = front.edges[0]
        await still_answers(front)
        context = front.trusting
        with many_files(), contextlib.ExitStack() as held:
            before = edge.memory_mb()
            for _ in range(SECURE):
                plain = socket.create_connection((SHARED, HTTPS), timeout=parts.PATIENCE_S)
                held.enter_context(
                    await asyncio.to_thread(context.wrap_socket, plain, server_hostname=NAME)
                )
            each = (edge.memory_mb() - before) * 1024 / SECURE
        assert each < SECURE_KB, f"{each:.1f} KB for an idle connection with TLS"
