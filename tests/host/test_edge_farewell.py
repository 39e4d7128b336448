"""WebSockets at the end of a drain, and of a machine: both sides are told, between messages."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from tests.host import rust_components as parts
from tests.host.backhaul_lab import Servers, make_servers  # noqa: F401
from tests.host.edge_lab import Lab, make_lab  # noqa: F401
from tests.host.front_lab import NAME
from tests.host.http2_client import STREAM, speaking

pytestmark = pytest.mark.host

_DRAIN_MS, _CLOSE_MS = 5_000, 2_500
_GOING_AWAY = b"\x88\x02\x03\xe9"
_HTTP2_GOAWAY = 7
_MASK = b"\x01\x02\x03\x04"


def _masked(first: int, payload: bytes) -> bytes:
    """Return a client's short frame (RFC 6455 §5.2)."""
    carried = bytes(byte ^ _MASK[place % 4] for place, byte in enumerate(payload))
    return bytes([first, 0x80 | len(payload)]) + _MASK + carried


_HELLO = _masked(0x81, b"hello")
_ANSWER = b"\x81\x05HELLO"
_CLIENTS_CLOSE = _masked(0x88, b"\x03\xe9")


def _close_code(frame: bytes) -> int:
    """Return the code of a client's Close."""
    assert (frame[:2], len(frame)) == (b"\x88\x82", 8), frame
    code = bytes(byte ^ frame[2 + place] for place, byte in enumerate(frame[6:]))
    return int(struct.unpack(">H", code)[0])


@dataclass
class _App:
    """An app that opens one WebSocket, or another tunnel; the test speaks for it."""

    protocol: str = "websocket"
    opened: "asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await parts.read_request(reader) is not None
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
            + f"Upgrade: {self.protocol}\r\n\r\n".encode()
        )
        self.opened.set_result((reader, writer))


@dataclass
class _Ends:
    """Both ends of a tunnel."""

    client: asyncio.StreamReader
    to_client: asyncio.StreamWriter
    app: asyncio.StreamReader
    to_app: asyncio.StreamWriter

    async def talk(self) -> None:
        """Say something each way."""
        self.to_client.write(_HELLO)
        assert await self.app.readexactly(len(_HELLO)) == _HELLO
        self.to_app.write(_ANSWER)
        assert await self.client.readexactly(len(_ANSWER)) == _ANSWER


@contextlib.asynccontextmanager
async def _open(port: int, app: _App) -> AsyncIterator[_Ends]:
    """Give both ends of a tunnel by HTTP/1.1 that is open and works."""
    client, to_client = await asyncio.open_connection("127.0.0.1", port)
    to_client.write(
        f"GET /chat HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\n"
        f"Upgrade: {app.protocol}\r\n\r\n".encode()
    )
    async with asyncio.timeout(parts.PATIENCE_S):
        assert (await client.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        ends = _Ends(client, to_client, *await app.opened)
        await ends.talk()
        try:
            yield ends
        finally:
            to_client.close()


async def _without_goaway(source: asyncio.StreamReader, into: asyncio.StreamReader) -> int:
    """Pass HTTP/2 on but for GOAWAY, after which the client's library takes nothing; count them."""
    count = 0
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await source.readexactly(9)
            frame = head + await source.readexactly(int.from_bytes(head[:3]))
            if head[3] == _HTTP2_GOAWAY:
                count += 1
            else:
                into.feed_data(frame)
    into.feed_eof()
    return count


def _prepare(lab: Lab) -> None:
    lab.limits = lab.limits.model_copy(update={"websocket_close_ms": _CLOSE_MS})
    lab.changes["drain_ms"] = _DRAIN_MS


@contextlib.asynccontextmanager
async def _websocket(lab: Lab, protocol: str = "websocket") -> AsyncIterator[_Ends]:
    """Give both ends of a tunnel through an edge that has a short drain."""
    _prepare(lab)
    fact, app = lab.machine("m1"), _App(protocol)
    async with parts.raw_app(fact.local_ipv4, lab.app_port, app.serve):
        await lab.start()
        async with _open(lab.port, app) as ends:
            yield ends


def _forced(lab: Lab) -> bool:
    """Return whether the edge ended with something open."""
    return "connections were still open" in lab.edges[-1].log.read_text()


async def test_a_drain_ends_with_a_close_to_both_sides(lab: Lab) -> None:
    async with _websocket(lab) as ends:
        lab.edges[-1].terminate()
        # As long as there is time nothing is said.
        await ends.talk()
        assert await ends.client.readexactly(4) == _GOING_AWAY
        assert _close_code(await ends.app.readexactly(8)) == 1001
        # What is said behind a Close is nobody's; each side's own Close is its end.
        ends.to_app.write(_ANSWER)
        ends.to_client.write(_HELLO + _CLIENTS_CLOSE)
        assert await ends.app.read() == b""
        ends.to_app.write(_GOING_AWAY)
        assert await ends.client.read() == b""
        assert await lab.edges[-1].ended() == 0
        assert not _forced(lab)


async def test_by_http_2_it_is_the_same(lab: Lab) -> None:
    _prepare(lab)
    fact, app = lab.machine("m1"), _App()
    async with parts.raw_app(fact.local_ipv4, lab.app_port, app.serve):
        await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        heard = asyncio.StreamReader()
        passing = parts.spawn(_without_goaway(reader, heard))
        async with asyncio.timeout(parts.PATIENCE_S), speaking(heard, writer) as client:
            asked = [
                (":method", "CONNECT"), (":authority", NAME), (":protocol", "websocket"),
                (":scheme", "http"), (":path", "/chat"),
            ]  # fmt: skip
            client.http.send_headers(STREAM, asked)
            await client.until(lambda: client.status == 200)
            from_client, to_app = await app.opened
            lab.edges[-1].terminate()
            await client.until(lambda: len(client.came) >= 4)
            assert bytes(client.came) == _GOING_AWAY
            assert _close_code(await from_client.readexactly(8)) == 1001
            await client.send(_CLIENTS_CLOSE)
            to_app.write(_GOING_AWAY)
            await client.until(lambda: client.ended)
            assert bytes(client.came) == _GOING_AWAY
            assert await from_client.read() == b""
        # By HTTP/2 the connection itself had been told long before.
        assert await passing >= 1
        assert await lab.edges[-1].ended() == 0
        assert not _forced(lab)


@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        (b"\x81", b"\x05HELLO"),
        (b"\x82\x7e\x01", b"\x00" + b"x" * 256),
        (b"\x82\x7f" + (70_000).to_bytes(8) + b"x" * 30_000, b"x" * 40_000),
        # Fragments, and a ping between them.
        (b"\x01\x01a\x89\x00", b"\x80\x01b"),
    ],
)
async def test_a_message_in_flight_arrives_whole(lab: Lab, begun: bytes, rest: bytes) -> None:
    async with _websocket(lab) as ends:
        ends.to_app.write(begun)
        assert await ends.client.readexactly(len(begun)) == begun
        lab.edges[-1].terminate()
        # The app is told at once, the client when it has the message.
        assert _close_code(await ends.app.readexactly(8)) == 1001
        ends.to_app.write(rest + _ANSWER)
        assert await ends.client.readexactly(len(rest) + 4) == rest + _GOING_AWAY
        ends.to_client.write(_CLIENTS_CLOSE)
        ends.to_app.write(_GOING_AWAY)
        assert await ends.client.read() == b""
        assert not _forced(lab)


async def test_a_side_that_is_amid_a_message_at_the_end_has_no_close_put_into_it(
    lab: Lab,
) -> None:
    async with _websocket(lab) as ends:
        ends.to_client.write(_HELLO[:-2])
        assert await ends.app.readexactly(len(_HELLO) - 2) == _HELLO[:-2]
        lab.edges[-1].terminate()
        assert await ends.client.readexactly(4) == _GOING_AWAY
        with contextlib.suppress(ConnectionError):
            assert await ends.app.read() == b""
        with contextlib.suppress(ConnectionError):
            assert await ends.client.read() == b""
        assert await lab.edges[-1].ended() == 0


async def test_a_side_that_has_closed_by_itself_is_not_spoken_for(lab: Lab) -> None:
    async with _websocket(lab) as ends:
        ends.to_client.write(_masked(0x88, b"\x03\xe8"))
        assert _close_code(await ends.app.readexactly(8)) == 1000
        lab.edges[-1].terminate()
        # To the client the app is spoken for: it did not answer.
        assert await ends.client.readexactly(4) == _GOING_AWAY
        assert await ends.app.read() == b""
        ends.to_app.write(b"\x88\x02\x03\xe8")
        assert await ends.client.read() == b""
        assert not _forced(lab)


async def test_in_another_tunnel_nothing_is_said(lab: Lab) -> None:
    async with _websocket(lab, "other") as ends:
        lab.edges[-1].terminate()
        with contextlib.suppress(ConnectionError):
            assert await ends.client.read() == b""
        with contextlib.suppress(ConnectionError):
            assert await ends.app.read() == b""
        assert await lab.edges[-1].ended() == 0
        assert _forced(lab)


async def test_the_client_of_a_machine_that_is_suspended_is_told(lab: Lab) -> None:
    async with _websocket(lab) as ends:
        lab.agent.say(lab.agent.machines["m1"].model_copy(update={"state": "suspended"}))
        assert await ends.client.readexactly(4) == _GOING_AWAY
        ends.to_client.write(_CLIENTS_CLOSE)
        # The app says nothing any more, and is waited for so long.
        assert await ends.client.read() == b""
        await lab.counts("fly_edge_tcp_disconnects_count", 1)


async def test_of_two_edges_only_the_clients_own_speaks(servers: Servers) -> None:
    near, far = await servers.add(), await servers.add()
    for server in (near, far):
        _prepare(server.lab)
    for leaves in (near, far):
        fact, app = far.machine("m1"), _App()
        async with parts.raw_app(fact.local_ipv4, near.lab.app_port, app.serve):
            if leaves is near:
                await servers.start()
            else:
                await servers.start_one(near)
            async with _open(near.lab.port, app) as ends:
                leaves.lab.edges[-1].terminate()
                if leaves is near:
                    assert await ends.client.readexactly(4) == _GOING_AWAY
                    assert _close_code(await ends.app.readexactly(8)) == 1001
                    ends.to_client.write(_CLIENTS_CLOSE)
                    ends.to_app.write(_GOING_AWAY)
                with contextlib.suppress(ConnectionError):
                    assert await ends.app.read() == b""
                with contextlib.suppress(ConnectionError):
                    assert await ends.client.read() == b""
                assert await leaves.lab.edges[-1].ended() == 0
