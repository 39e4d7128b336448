"""A steady load on an app through the edge, which counts every request that fails.

Clients of five kinds keep asking at a pace of their own, so that a slow answer slows nobody
else: `kept` (GETs on a connection that stays), `fresh` (a connection each), `posts` (a body that
has to come back), `slow` (requests of many seconds), `echoes` (messages on WebSockets). Nothing is
tried again: what a client would see as an error is one. Only a WebSocket that its app closes in
order (1001, 1012) is opened anew, and what was not echoed before is sent again there.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from godwit.base import tasks
from godwit.testing.websocket import ORDERLY, Farewell, Refused, WebSocket, closed

_ANSWER_S = 30.0
_LAST_S = 60.0
_BODY = b"steady " * 2_048
_BEGUN, _BEGUN_S = 20, 60.0

Start = Callable[[Callable[[], Coroutine[Any, Any, None]]], Future[None]]
"""Runs a coroutine in a thread of its own."""


@dataclass(frozen=True)
class Shape:
    """How much is asked.

    Attributes:
        clients: Of each of the short kinds (`kept`, `fresh`, `posts`), and WebSockets.
        pause_s: Between two requests of one client.
        slow: Requests that are open at any time.
        slow_s: How long each takes.
        echo_every_s: Between two messages of one WebSocket.
    """

    clients: int = 2
    pause_s: float = 0.2
    slow: int = 2
    slow_s: float = 2.0
    echo_every_s: float = 0.2


@dataclass
class Tally:
    """What was asked and what came of it.

    Attributes:
        good: Requests and messages that were answered rightly, by kind.
        bad: The others, by kind and reason.
        reopened: WebSockets that an app closed in order and that were opened again.
        seen: Which machine, and which version in it, gave so many answers.
        seconds: From the first request to the last answer.
    """

    good: Counter[str] = field(default_factory=Counter)
    bad: Counter[tuple[str, str]] = field(default_factory=Counter)
    reopened: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        """Return how many there were, failed ones included."""
        return self.good.total() + self.failed

    @property
    def failed(self) -> int:
        """Return how many failed."""
        return self.bad.total()

    @property
    def rate(self) -> float:
        """Return requests per second."""
        return self.requests / self.seconds if self.seconds else 0.0

    def sentence(self) -> str:
        """Return all of it for people."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.good.items()))
        failed = "; ".join(f"{n} {kind}: {why}" for (kind, why), n in self.bad.most_common())
        return (
            f"{self.requests} requests in {self.seconds:.1f} s ({self.rate:.1f}/s), "
            f"{self.failed} failed{f' ({failed})' if failed else ''}; {kinds}; "
            f"{self.reopened} WebSockets reopened; slowest short answer {self.slowest_s:.2f} s"
        )


class Load:
    """Clients that ask until they are told to stop.

    Args:
        address: The edge's.
        host: The app's name there.
    """

    def __init__(self, address: tuple[str, int], host: str, shape: Shape) -> None:
        self.tally = Tally()
        self._address = address
        self._host = host
        self._shape = shape
        self._stop = asyncio.Event()
        self._idle: set[Connection] = set()

    async def run(self) -> None:
        """Ask until `stop`, then see what was begun to its end."""
        shape, began = self._shape, time.monotonic()
        clients = [
            *((self._each("kept", self._kept())) for _ in range(shape.clients)),
            *((self._each("fresh", self._fresh)) for _ in range(shape.clients)),
            *((self._each("posts", self._post)) for _ in range(shape.clients)),
            *((self._each("slow", self._slow)) for _ in range(shape.slow)),
            *((self._echoes()) for _ in range(shape.clients)),
        ]
        async with tasks.Tasks("load") as owned:
            running = [owned.spawn(one, name=f"client.{at}") for at, one in enumerate(clients)]
            await self._stop.wait()
            _, late = await asyncio.wait(running, timeout=_LAST_S + shape.slow_s)
            if late:
                self.tally.bad[("load", "a client did not come to its end")] += len(late)
            for connection in self._idle:
                await connection.close()
            for task in running:
                if task not in late and task.exception() is not None:
                    self.tally.bad[("load", repr(task.exception()))] += 1
        self.tally.seconds = time.monotonic() - began

    def stop(self) -> None:
        """Let no more be asked."""
        self._stop.set()

    async def more(self, requests: int, within_s: float = 60.0) -> None:
        """Return once so many more were answered."""
        wanted = self.tally.requests + requests
        async with asyncio.timeout(within_s):
            while self.tally.requests < wanted:
                await asyncio.sleep(0.05)

    async def _each(self, kind: str, ask: Callable[[], Awaitable[None]]) -> None:
        """Ask again and again, and count."""
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                async with asyncio.timeout(_ANSWER_S + self._shape.slow_s):
                    await ask()
            except TimeoutError:
                self.tally.bad[(kind, "no answer in time")] += 1
            except (OSError, asyncio.IncompleteReadError, Wrong) as error:
                self.tally.bad[(kind, str(error) or type(error).__name__)] += 1
            else:
                self.tally.good[kind] += 1
                if kind != "slow":
                    took = time.monotonic() - began
                    self.tally.slowest_s = max(self.tally.slowest_s, took)
            if kind != "slow":
                await self._pause(self._shape.pause_s)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def _kept(self) -> Callable[[], Awaitable[None]]:
        kept: list[Connection] = []

        async def ask() -> None:
            connection = kept.pop() if kept else await self._connect()
            self._idle.discard(connection)
            try:
                self._saw(await connection.ask("GET", "/", self._host))
            finally:
                if connection.stays:
                    kept.append(connection)
                    self._idle.add(connection)
                else:
                    await connection.close()

        return ask

    async def _fresh(self) -> None:
        async with self._connection() as connection:
            self._saw(await connection.ask("GET", "/", self._host))

    async def _post(self) -> None:
        async with self._connection() as connection:
            if await connection.ask("POST", "/echo", self._host, _BODY) != _BODY:
                raise Wrong("another body came back")

    async def _slow(self) -> None:
        async with self._connection() as connection:
            self._saw(await connection.ask("GET", f"/slow/{self._shape.slow_s}", self._host))

    def _saw(self, answer: bytes) -> None:
        self.tally.seen[answer.decode().strip()] += 1

    async def _connect(self) -> "Connection":
        return Connection(*await asyncio.open_connection(*self._address))

    @contextlib.asynccontextmanager
    async def _connection(self) -> "AsyncIterator[Connection]":
        connection = await self._connect()
        try:
            yield connection
        finally:
            await connection.close()

    async def _echoes(self) -> None:
        """Keep a WebSocket open; each message has to come back."""
        number, socket = 0, None
        while not self._stop.is_set():
            try:
                async with asyncio.timeout(_ANSWER_S):
                    socket = socket or await WebSocket.open(self._address, self._host, "/ws")
                    await _echo(socket, f"message {number}")
            except Farewell as farewell:
                socket = None
                if farewell.code in ORDERLY:
                    self.tally.reopened += 1
                    continue
                self.tally.bad[("echoes", str(farewell))] += 1
            except (OSError, Refused, Wrong) as error:
                socket = None
                self.tally.bad[("echoes", str(error) or type(error).__name__)] += 1
            else:
                self.tally.good["echoes"] += 1
            number += 1
            await self._pause(self._shape.echo_every_s)
        if socket is not None:
            await socket.close()


@contextlib.contextmanager
def running(load: Load, start: Start) -> Iterator[Tally]:
    """Ask steadily meanwhile, begun when the first are answered; the tally is whole at the end."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await load.run()

    ended = start(main)
    try:
        ends = time.monotonic() + _BEGUN_S
        while load.tally.good.total() < _BEGUN and time.monotonic() < ends:
            time.sleep(0.1)
        yield load.tally
    finally:
        loops[0].call_soon_threadsafe(load.stop)
        ended.result()


async def _echo(socket: WebSocket, message: str) -> None:
    socket.send(message)
    if await socket.receive() != message:
        raise Wrong("another message came back")


class Wrong(Exception):
    """An answer that is not the one that was asked for."""


class Connection:
    """One HTTP/1.1 connection of a client.

    Attributes:
        stays: Whether it takes another request.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.stays = True
        self._reader = reader
        self._writer = writer

    async def ask(self, method: str, path: str, host: str, body: bytes = b"") -> bytes:
        """Return the body of a 200.

        Raises:
            Wrong: Another status, with what was said.
            OSError: The connection broke.
        """
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n"
        stayed, self.stays = self.stays, False
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status, *lines = answer.strip().split("\r\n")
        headers = {name: value.strip() for name, _, value in (x.partition(":") for x in lines)}
        said = await self._reader.readexactly(int(headers.get("content-length", "0")))
        self.stays = stayed and headers.get("connection") != "close"
        if status.split(" ")[1] != "200":
            raise Wrong(f"{status} {said.decode(errors='replace').split(chr(10), 3)[2:3]}")
        return said

    async def close(self) -> None:
        """Drop it."""
        await closed(self._writer)
