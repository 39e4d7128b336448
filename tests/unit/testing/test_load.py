"""The load that tests and benches put on an app sees what a client would call a failure."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from godwit.base import tasks
from godwit.testing.load import Load, Shape, Tally
from godwit.testing.serving import serving

QUICK = Shape(clients=1, pause_s=0.01, slow=1, slow_s=0.05, echo_every_s=0.01)
OPEN = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"

Serve = Callable[["Asked"], Awaitable[None]]


class Asked:
    """One request, and its connection."""

    def __init__(self, line: str, body: bytes, server: "Server", writer: object) -> None:
        self.path = line.split(" ")[1]
        self.body = body
        self.server = server
        self.writer: asyncio.StreamWriter = writer  # type: ignore[assignment]

    def answer(self, body: bytes = b"m1 1\n", status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)


class Server:
    """An app that does what a test wants with one kind of request, and is good with others."""

    def __init__(self) -> None:
        self.port = 0
        self.bad: dict[str, Serve] = {}
        self.sockets = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = head.partition("Content-Length: ")[2].partition("\r\n")[0] or "0"
                asked = Asked(head, await reader.readexactly(int(length)), self, writer)
                if asked.path == "/ws":
                    self.sockets += 1
                bad = self.bad.get(asked.path)
                if bad is not None:
                    await bad(asked)
                if writer.is_closing():
                    return
                if bad is None and asked.path == "/ws":
                    writer.write(OPEN)
                    await echo(reader, writer)
                    return
                if bad is None:
                    asked.answer(asked.body if asked.path == "/echo" else b"m1 1\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        first, second = await reader.readexactly(2)
        mask = await reader.readexactly(4)
        data = await reader.readexactly(second & 0x7F)
        if first & 0x0F == 8:
            return
        text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        writer.write(bytes([first, len(text)]) + text)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with serving(made.serve) as made.port:
        yield made


async def load(server: Server, until: Callable[[Tally], bool]) -> Tally:
    made = Load(("127.0.0.1", server.port), "hello", QUICK)
    async with tasks.Tasks("test") as owned, asyncio.timeout(60):
        running = owned.spawn(made.run(), name="load")
        while not until(made.tally):
            await asyncio.sleep(0.01)
        made.stop()
        await running
    return made.tally


async def test_what_is_answered_is_counted_by_its_kind(server: Server) -> None:
    tally = await load(server, lambda tally: len(tally.good) == 5)
    assert tally.failed == 0
    assert tally.requests == tally.good.total()
    assert set(tally.seen) == {"m1 1"}
    assert tally.rate > 0
    assert " 0 failed" in tally.sentence()


async def unavailable(asked: Asked) -> None:
    asked.answer(b"503 Service Unavailable\n\n[PR04] no machine\n", "503 Service Unavailable")


async def breaks_off(asked: Asked) -> None:
    asked.writer.close()


async def another(asked: Asked) -> None:
    asked.answer(b"another")


async def vanishes(asked: Asked) -> None:
    asked.writer.write(OPEN)
    await asyncio.sleep(0.02)
    asked.writer.close()


async def goes_wrong(asked: Asked) -> None:
    asked.writer.write(OPEN + bytes([0x88, 2]) + struct.pack(">H", 1011))
    asked.writer.close()


@pytest.mark.parametrize(
    ("path", "fault", "kind", "why"),
    [
        ("/", unavailable, "kept", "[PR04] no machine"),
        ("/", unavailable, "fresh", "503"),
        ("/", breaks_off, "kept", "0 bytes read"),
        ("/echo", another, "posts", "another body came back"),
        ("/slow/0.05", breaks_off, "slow", "0 bytes read"),
        ("/ws", unavailable, "echoes", "HTTP 503"),
        ("/ws", vanishes, "echoes", "ended without a close frame"),
        ("/ws", goes_wrong, "echoes", "closed with 1011"),
    ],
)
async def test_every_failure_is_counted_with_its_reason(
    server: Server, path: str, fault: Serve, kind: str, why: str
) -> None:
    server.bad[path] = fault
    tally = await load(server, lambda tally: any(failed == kind for failed, _ in tally.bad))
    assert any(failed == kind and why in said for failed, said in tally.bad), tally.bad
    assert f"{kind}: " in tally.sentence()


async def test_a_websocket_that_is_closed_in_order_is_opened_again(server: Server) -> None:
    async def bids_farewell_once(asked: Asked) -> None:
        if asked.server.sockets == 1:
            asked.writer.write(OPEN + bytes([0x88, 2]) + struct.pack(">H", 1012))
            asked.writer.close()
        else:
            del asked.server.bad["/ws"]
            asked.writer.close()

    server.bad["/ws"] = bids_farewell_once
    tally = await load(server, lambda tally: tally.good["echoes"] > 2)
    assert tally.reopened == 1
    assert tally.failed == 1  # The second opening, which was refused without a word.
