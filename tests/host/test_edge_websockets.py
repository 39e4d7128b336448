"""WebSockets of every shape through the edge, opened by HTTP/1.1 and by HTTP/2 (RFC 8441).

The frames are those that the Autobahn suite tries a WebSocket's end with, which does not install
any more: sizes around every boundary of the framing, fragments, control frames between them,
reserved bits and codes, bad UTF-8. An edge is no end: whatever it is, it has to arrive as it is.
"""

import asyncio
import base64
import contextlib
import hashlib
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from tests.host import rust_components as parts
from tests.host.backhaul_lab import Servers, make_servers  # noqa: F401
from tests.host.front_lab import NAME, OWN, FrontLab, make_front  # noqa: F401
from tests.host.http2_client import Http2, speaking

pytestmark = pytest.mark.host

_PORT, _PLAIN_PORT = 7488, 7489
_KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
_MASK = bytes.fromhex("37fa213d")
_SIZES = (0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20)
_BAD_UTF8 = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"


def _frame(code: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    """Return a client's frame (RFC 6455 §5.2)."""
    first = fin << 7 | reserved << 4 | code
    if len(payload) < 126:
        head = bytes([first, 0x80 | len(payload)])
    elif len(payload) < 1 << 16:
        head = bytes([first, 0x80 | 126]) + struct.pack(">H", len(payload))
    else:
        head = bytes([first, 0x80 | 127]) + struct.pack(">Q", len(payload))
    mask = _MASK * (len(payload) // 4 + 1)
    masked = int.from_bytes(payload) ^ int.from_bytes(mask[: len(payload)])
    return head + _MASK + masked.to_bytes(len(payload))


FRAMES: dict[str, bytes] = {
    **{f"text-{size}": _frame(1, b"*" * size) for size in _SIZES},
    **{f"binary-{size}": _frame(2, b"\xfe" * size) for size in _SIZES},
    "ping": _frame(9, b"\0\xff\xfe" * 20),
    "ping-too-long": _frame(9, b"\xfe" * 126),
    "pong-unasked": _frame(10, b"hello"),
    "fragments": _frame(1, b"frag", fin=False) + _frame(9, b"in") + _frame(0, b"ment"),
    "continuation-of-nothing": _frame(0, b"lost", fin=False),
    **{f"reserved-bits-{bits}": _frame(1, b"bits", reserved=bits) for bits in range(1, 8)},
    **{f"reserved-code-{code}": _frame(code, b"code") for code in (*range(3, 8), *range(11, 16))},
    "bad-utf8": _frame(1, _BAD_UTF8),
    "close-without-code": _frame(8),
    "close": _frame(8, struct.pack(">H", 1000) + b"bye"),
    "close-bad-code": _frame(8, struct.pack(">H", 999)),
    "no-frame-at-all": bytes(range(256)),
}


@dataclass
class _Tunnel:
    """A client's open WebSocket, of which `repeated` says something and returns the answer."""

    repeated: Callable[[bytes], Awaitable[bytes]]
    headers: dict[str, str]


@contextlib.asynccontextmanager
async def _by_http_1(front: FrontLab, path: str) -> AsyncIterator[_Tunnel]:
    reader, writer = await asyncio.open_connection(
        OWN, _PORT, ssl=front.trusting, server_hostname=NAME
    )
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n\r\n".encode()
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    assert head[0] == "HTTP/1.1 101 Switching Protocols"
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-1])}

    async def repeated(data: bytes) -> bytes:
        writer.write(data)
        _, got = await asyncio.gather(writer.drain(), reader.readexactly(len(data)))
        return got

    try:
        yield _Tunnel(repeated, headers)
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def _http_2(front: FrontLab, port: int = _PORT) -> AsyncIterator[Http2]:
    tls = {}
    if port == _PORT:
        context = front.trusting
        context.set_alpn_protocols(["h2"])
        tls = {"ssl": context, "server_hostname": NAME}
    reader, writer = await asyncio.open_connection(OWN, port, **tls)
    async with speaking(reader, writer) as client:
        yield client


def _open(client: Http2, path: str, protocol: str | None = "websocket") -> None:
    """Ask for a WebSocket, or for a tunnel of another kind."""
    asked = [(":method", "CONNECT"), (":authority", NAME)]
    if protocol is not None:
        asked += [(":protocol", protocol), (":scheme", "https"), (":path", path)]
    client.http.send_headers(1, [*asked, ("sec-websocket-version", "13"), ("origin", "x")])


@contextlib.asynccontextmanager
async def _by_http_2(front: FrontLab, path: str, port: int = _PORT) -> AsyncIterator[_Tunnel]:
    async with _http_2(front, port) as client:
        code = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
        assert client.http.remote_settings.get(code) == 1
        _open(client, path)
        await client.until(lambda: client.status is not None)
        assert client.status == 200
        yield _Tunnel(client.repeated, client.headers)


async def _repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be an app that opens a WebSocket, if the path is right, and says back what it gets."""
    request = await parts.read_request(reader)
    assert request is not None
    await _answer(request, reader, writer)


async def _answer(
    request: parts.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    assert (request.method, request.header("upgrade")) == ("GET", "websocket")
    assert request.header("host") == NAME
    assert len(request.header("sec-websocket-key") or "") == 24
    if request.path != "/chat?a=b":
        writer.write(parts.response(b"no", request.path.strip("/").replace("_", " ")))
        return
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def _served(
    front: FrontLab, serve: Serve = _repeat, *, h2_backend: bool = False
) -> AsyncIterator[None]:
    options = {"http_options": {"h2_backend": h2_backend}}
    services = [
        front.service(_PORT, "tls", "http", **options),
        front.service(_PLAIN_PORT, "http", **options),
    ]
    fact = front.machine("m1", services=services)
    async with parts.raw_app(fact.local_ipv4, front.app_port, serve):
        await front.start()
        await front.listens(OWN, _PORT)
        await front.listens(OWN, _PLAIN_PORT)
        async with asyncio.timeout(2 * parts.PATIENCE_S):
            yield


@pytest.mark.parametrize("opened", [_by_http_1, _by_http_2], ids=["http1", "http2"])
async def test_frames_of_every_shape_arrive_as_they_are(
    front: FrontLab, opened: Callable[..., contextlib.AbstractAsyncContextManager[_Tunnel]]
) -> None:
    async with _served(front), opened(front, "/chat?a=b") as tunnel:
        assert tunnel.headers["sec-websocket-protocol"] == "chat"
        for name, frame in FRAMES.items():
            assert await tunnel.repeated(frame) == frame, name
        # In pieces that end within heads of frames, too.
        several = b"".join(FRAMES.values())[:4000]
        for start in range(0, len(several), 7):
            piece = several[start : start + 7]
            assert await tunnel.repeated(piece) == piece


async def test_http_2_without_tls_opens_websockets_too(front: FrontLab) -> None:
    async with _served(front), _by_http_2(front, "/chat?a=b", _PLAIN_PORT) as tunnel:
        # What belongs to HTTP/1.1's handshake is not for this client.
        assert not {"upgrade", "connection", "sec-websocket-accept"} & set(tunnel.headers)
        sent = os.urandom(300_000)
        assert await tunnel.repeated(sent) == sent


@pytest.mark.parametrize(
    ("path", "protocol", "status", "words"),
    [
        ("/403_Forbidden", "websocket", 403, b"no"),
        # A success would say that it is open.
        ("/200_OK", "websocket", 502, b"[PU02] hello did not open the WebSocket"),
        ("/chat", "connect-udp", 501, b"CONNECT for connect-udp is not served here"),
        ("", None, 405, b"CONNECT is not served here"),
    ],
)
async def test_what_is_not_opened_by_http_2_is_refused_with_the_reason(
    front: FrontLab, path: str, protocol: str | None, status: int, words: bytes
) -> None:
    async with _served(front), _http_2(front) as client:
        _open(client, path, protocol)
        await client.until(lambda: client.ended)
        assert client.status == status
        assert words in client.came


async def test_either_side_may_close_a_websocket_of_http_2(front: FrontLab) -> None:
    async with _served(front), _http_2(front) as client:
        _open(client, "/chat?a=b")
        await client.until(lambda: client.status is not None)
        await client.send(b"last")
        client.http.end_stream(1)
        # The app hears the end, and its own comes back.
        await client.until(lambda: client.ended)
        assert client.came == b"last"
        # The connection is as good as before.
        client.http.ping(b"12345678")
        await client.until(lambda: client.pong)


@dataclass
class _Http2App:
    """An app that speaks HTTP/2 and says back what it gets on a stream that is a WebSocket.

    Attributes:
        announces: Whether it says that it takes WebSockets so.
        falls_back: Whether it takes them by HTTP/1.1 at the same port.
    """

    announces: bool = True
    falls_back: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readuntil(b"\r\n\r\n")
        if first.startswith(b"PRI "):
            await self._speak(first, reader, writer)
        elif self.falls_back:
            head = asyncio.StreamReader()
            head.feed_data(first)
            request = await parts.read_request(head)
            assert request is not None
            await _answer(request, reader, writer)
        writer.close()

    async def _speak(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        http = h2.connection.H2Connection(config)
        http.local_settings = h2.settings.Settings(
            client=False,
            initial_values={h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: self.announces},
        )
        http.initiate_connection()
        back: dict[int, bytearray] = {}
        ended: set[int] = set()
        data = first
        while data:
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self._open(http, event, back)
                elif isinstance(event, h2.events.DataReceived):
                    back[event.stream_id] += event.data
                    length = event.flow_controlled_length
                    http.acknowledge_received_data(length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded) and event.stream_id in back:
                    ended.add(event.stream_id)
            for stream, left in back.items():
                while left:
                    room = http.local_flow_control_window(stream)
                    piece = left[: min(room, http.max_outbound_frame_size)]
                    if not piece:
                        break
                    http.send_data(stream, bytes(piece))
                    del left[: len(piece)]
                if stream in ended and not left:
                    ended.remove(stream)
                    http.end_stream(stream)
            writer.write(http.data_to_send())
            await writer.drain()
            data = await reader.read(1 << 16)

    def _open(
        self,
        http: h2.connection.H2Connection,
        event: h2.events.RequestReceived,
        back: dict[int, bytearray],
    ) -> None:
        asked = {str(name): str(value) for name, value in event.headers}
        self.asked.append(asked)
        if asked[":path"] == "/chat?a=b" and asked.get(":protocol") == "websocket":
            back[event.stream_id] = bytearray()
            http.send_headers(
                event.stream_id, [(":status", "200"), ("sec-websocket-protocol", "chat")]
            )
        else:
            http.send_headers(event.stream_id, [(":status", "403")], end_stream=True)


@pytest.mark.parametrize("opened", [_by_http_1, _by_http_2], ids=["http1", "http2"])
async def test_an_app_by_http_2_that_says_so_is_asked_by_http_2(
    front: FrontLab, opened: Callable[..., contextlib.AbstractAsyncContextManager[_Tunnel]]
) -> None:
    app = _Http2App()
    async with _served(front, app.serve, h2_backend=True):
        async with opened(front, "/chat?a=b") as tunnel:
            assert tunnel.headers["sec-websocket-protocol"] == "chat"
            if opened is _by_http_1:
                digest = hashlib.sha1(f"{_KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode())
                accept = base64.b64encode(digest.digest()).decode()
                assert tunnel.headers["sec-websocket-accept"] == accept
            for name, frame in FRAMES.items():
                assert await tunnel.repeated(frame) == frame, name
        (asked,) = app.asked
        assert (asked[":method"], asked[":protocol"]) == ("CONNECT", "websocket")
        assert (asked[":authority"], asked["sec-websocket-version"]) == (NAME, "13")
        assert not {"sec-websocket-key", "connection", "upgrade"} & set(asked)


@pytest.mark.parametrize("opened", [_by_http_1, _by_http_2], ids=["http1", "http2"])
async def test_an_app_by_http_2_that_does_not_is_asked_by_http_1(
    front: FrontLab, opened: Callable[..., contextlib.AbstractAsyncContextManager[_Tunnel]]
) -> None:
    app = _Http2App(announces=False, falls_back=True)
    async with _served(front, app.serve, h2_backend=True), opened(front, "/chat?a=b") as tunnel:
        for size in (1, 70_000):
            sent = os.urandom(size)
            assert await tunnel.repeated(sent) == sent
    assert app.asked == []


@pytest.mark.parametrize(
    ("app", "path", "status"),
    [(_Http2App(announces=False), "/chat?a=b", 502), (_Http2App(), "/elsewhere", 403)],
    ids=["takes-none", "refuses"],
)
async def test_an_app_by_http_2_that_opens_none_is_no_tunnel(
    front: FrontLab, app: _Http2App, path: str, status: int
) -> None:
    async with _served(front, app.serve, h2_backend=True), _http_2(front) as client:
        _open(client, path)
        await client.until(lambda: client.ended)
        assert client.status == status
        if status == 502:
            assert b"[PU0" in client.came


async def test_an_app_by_http_2_of_another_host_opens_websockets(servers: Servers) -> None:
    near, far = await servers.add(), await servers.add()
    port = {"start_port": 80, "end_port": 80, "handlers": ["http"]}
    fact = far.machine("m1", service={"ports": [port | {"http_options": {"h2_backend": True}}]})
    app = _Http2App()
    async with parts.raw_app(fact.local_ipv4, far.lab.app_port, app.serve):
        await servers.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", near.lab.port)
        writer.write(
            f"GET /chat?a=b HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n\r\n".encode()
        )
        async with asyncio.timeout(parts.PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            writer.write(FRAMES["text-125"])
            assert await reader.readexactly(len(FRAMES["text-125"])) == FRAMES["text-125"]
        writer.close()
    assert app.asked[0][":protocol"] == "websocket"
