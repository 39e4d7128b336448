"""A WebSocket client of a few lines: text both ways, pings answered, farewells told apart."""

import asyncio
import base64
import contextlib
import os
import struct
from typing import Self

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_TWO_BYTES = 126
ORDERLY = frozenset({1001, 1012})
"""Going away, and service restart: the app says goodbye."""


class Refused(Exception):
    """The connection was not opened."""


class Farewell(Exception):
    """The other side closed the connection with a close frame."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


async def closed(writer: asyncio.StreamWriter) -> None:
    """Return once a connection is closed; how it ended does not matter any more."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class WebSocket:
    """One open connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: tuple[str, int], host: str, path: str) -> Self:
        """Open a connection.

        Raises:
            Refused: The answer was not 101.
            OSError: There is nobody, or nobody any more.
        """
        reader, writer = await asyncio.open_connection(*address)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
            "".encode()
        )
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            await closed(writer)
            raise ConnectionResetError("no answer to the upgrade") from error
        status = head.decode("latin-1").split(" ", 2)[1]
        if status != "101":
            await closed(writer)
            raise Refused(f"HTTP {status}")
        return cls(reader, writer)

    def send(self, text: str) -> None:
        """Send a text of less than 126 bytes."""
        self._send(_TEXT, text.encode())

    async def receive(self) -> str:
        """Return the next text.

        Raises:
            Farewell: The other side says goodbye; it has been answered.
            ConnectionError: It went without a word.
        """
        while True:
            try:
                kind, payload = await self._frame()
            except asyncio.IncompleteReadError as error:
                await closed(self._writer)
                raise ConnectionResetError("ended without a close frame") from error
            if kind == _TEXT:
                return payload.decode()
            if kind == _PING:
                self._send(_PONG, payload)
            if kind == _CLOSE:
                self._send(_CLOSE, payload[:2])
                await closed(self._writer)
                code = struct.unpack(">H", payload[:2])[0] if len(payload) > 1 else 1005
                raise Farewell(code)

    async def close(self) -> None:
        """Say goodbye and drop the connection."""
        self._send(_CLOSE, struct.pack(">H", 1000))
        await closed(self._writer)

    def _send(self, kind: int, payload: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        self._writer.write(bytes([0x80 | kind, 0x80 | len(payload)]) + mask + masked)

    async def _frame(self) -> tuple[int, bytes]:
        first, second = await self._reader.readexactly(2)
        length = second & 0x7F
        if length == _TWO_BYTES:
            (length,) = struct.unpack(">H", await self._reader.readexactly(2))
        return first & 0x0F, await self._reader.readexactly(length)
