"""A shim and a guest in one: speaks `wire.channel` on a Unix socket, does what tests tell it."""

import asyncio
import contextlib
import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from godwit.wire import channel, shim

CREDIT = struct.Struct(">I")
Behaviour = Callable[["Connection", dict[str, Any]], Awaitable[None]]


def status(phase: str = "running", **more: Any) -> shim.Status:
    fields = {
        "machine_id": "148ed193b95948",
        "instance_id": "01K8",
        "shim_version": "0.1.0",
        "shim_pid": 1,
        "vmm_pid": 2,
        "phase": phase,
    }
    return shim.Status.model_validate(fields | more)


class Connection:
    """One agent's connection, from the shim's side."""

    def __init__(
        self, fake: "FakeShim", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.fake = fake
        self.reader = reader
        self.writer = writer
        self.subscribed = False
        self.heard: list[channel.Frame] = []
        self.news = asyncio.Event()

    def tell(self, body: dict[str, Any]) -> None:
        self.writer.write(channel.message(body))

    def frame(self, kind: channel.Kind, stream: int, payload: bytes) -> None:
        self.writer.write(channel.encode(channel.Frame(kind, stream, payload)))

    def tell_status(self) -> None:
        self.tell({"type": "status", **self.fake.status.model_dump()})

    async def until(self, wanted: Callable[[list[channel.Frame]], bool]) -> None:
        async with asyncio.timeout(60):
            while not wanted(self.heard):
                self.news.clear()
                await self.news.wait()

    def sent(self, kind: channel.Kind) -> bytes:
        return b"".join(f.payload for f in self.heard if f.kind == kind)

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(f.payload) for f in self.heard if f.kind == channel.Kind.MESSAGE]

    async def run(self) -> None:
        decoder = channel.Decoder()
        while data := await self.reader.read(65_536):
            for frame in decoder.feed(data):
                self.heard.append(frame)
                self.news.set()
                if frame.kind == channel.Kind.MESSAGE:
                    await self.handle(json.loads(frame.payload))

    async def handle(self, body: dict[str, Any]) -> None:
        if body["type"] == "status":
            self.tell_status()
        elif body["type"] == "subscribe":
            self.subscribed = True
            self.tell_status()
        elif body["type"] in self.fake.on:
            await self.fake.on[body["type"]](self, body)


class FakeShim:
    """A shim whose answers tests write: `on["exec"]` and the like."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = status()
        self.on: dict[str, Behaviour] = {}
        self.connections: list[Connection] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def die(self) -> None:
        if self._server is not None:
            self._server.close()
            for connection in self.connections:
                connection.writer.close()
            self.path.unlink(missing_ok=True)
            self._server = None

    def change(self, new: shim.Status) -> None:
        self.status = new
        for connection in self.connections:
            if connection.subscribed:
                connection.tell_status()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        self.connections.append(connection)
        with contextlib.suppress(ConnectionError):
            await connection.run()
        writer.close()
