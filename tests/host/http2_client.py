"""A client by HTTP/2 that looks at one stream, the first of its connection, and frames by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

STREAM = 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass
class Http2:
    """A client's connection; what is known of its first stream."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: h2.connection.H2Connection
    settled: bool = False
    hints: list[dict[str, str]] = field(default_factory=list)
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    came: bytearray = field(default_factory=bytearray)
    ended: bool = False
    pong: bool = False

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Take in what comes until something is so."""
        self.writer.write(self.http.data_to_send())
        while not wanted():
            data = await self.reader.read(1 << 16)
            assert data, "the edge has closed the connection"
            for event in self.http.receive_data(data):
                self._take(event)
            self.writer.write(self.http.data_to_send())
            await self.writer.drain()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.settled = True
        elif isinstance(event, h2.events.InformationalResponseReceived):
            self.hints.append(_read(event.headers))
        elif isinstance(event, h2.events.ResponseReceived):
            self.headers = _read(event.headers)
            self.status = int(self.headers[":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.came += event.data
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.PingAckReceived):
            self.pong = True
        elif isinstance(event, h2.events.StreamEnded):
            self.ended = True

    async def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            room = min(
                self.http.local_flow_control_window(STREAM), self.http.max_outbound_frame_size
            )
            if not room:
                await self.until(lambda: self.http.local_flow_control_window(STREAM) > 0)
                continue
            self.http.send_data(STREAM, bytes(left[:room]))
            left = left[room:]
        self.writer.write(self.http.data_to_send())
        await self.writer.drain()

    async def repeated(self, data: bytes) -> bytes:
        await self.send(data)
        await self.until(lambda: len(self.came) >= len(data))
        got, self.came = bytes(self.came[: len(data)]), self.came[len(data) :]
        return got


def _read(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {bytes(name).decode(): bytes(value).decode() for name, value in headers}


@contextlib.asynccontextmanager
async def speaking(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> AsyncIterator[Http2]:
    """Speak HTTP/2 on a connection; the edge's settings are known."""
    http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    http.initiate_connection()
    client = Http2(reader, writer, http)
    try:
        await client.until(lambda: client.settled)
        yield client
    finally:
        writer.close()


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """Return a frame, whether a client may send it or not."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def get_block(authority: str) -> bytes:
    """Return the header block of `GET /` by HPACK's static table."""
    return b"\x82\x86\x84\x41" + bytes([len(authority)]) + authority.encode()
