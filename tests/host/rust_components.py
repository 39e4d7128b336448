"""The Rust components as real processes, with a fake agent and small apps around them."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from godwit.wire import facts
from godwit.wire.record import Record

ROOT = Path(__file__).resolve().parents[2]
HOST = "aaaaaaaa"
OTHER_HOST = "bbbbbbbb"
PATIENCE_S = 60.0
"""How long something that must happen may take: it happens, or the test fails."""


def spawn(coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Run something beside the test; the test awaits it."""
    return asyncio.get_running_loop().create_task(coroutine)


def program(name: str) -> Path:
    """Return a built Rust program; `make programs` builds them."""
    folder = os.environ.get("GODWIT_PATHS_PROGRAMS")
    path = (Path(folder) if folder else ROOT / "build" / "programs") / name
    assert path.exists(), f"{path} is missing: make programs"
    return path


@dataclass
class Running:
    """A started component."""

    process: asyncio.subprocess.Process
    log: Path

    async def kill(self) -> None:
        """End it at once."""
        if self.process.returncode is None:
            self.process.kill()
        async with asyncio.timeout(PATIENCE_S):
            await self.process.wait()

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, deadline_s: float = PATIENCE_S) -> int:
        """Return its exit code."""
        async with asyncio.timeout(deadline_s):
            return await self.process.wait()

    def memory_mb(self) -> float:
        """Return its resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024


async def start(
    name: str, config: Record, folder: Path, *, ready_s: float = PATIENCE_S
) -> Running:
    """Start a component and wait until it says that it is ready."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a test's own folder
    config_file, log = folder / f"{name}.json", folder / f"{name}.log"
    config_file.write_text(config.model_dump_json())
    address = f"{folder}/notify.{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, log.open("ab") as out:
        told.bind(address)
        told.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            str(program(name)),
            "--config",
            str(config_file),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=os.environ | {"NOTIFY_SOCKET": address},
        )
        running = Running(process, log)
        try:
            async with asyncio.timeout(ready_s):
                said = await asyncio.get_running_loop().sock_recv(told, 100)
        except TimeoutError:
            await running.kill()
            raise AssertionError(f"{name} is not ready:\n{log.read_text()}") from None
        assert said == b"READY=1"
    Path(address).unlink()  # noqa: ASYNC240 - a test's own folder
    return running


def machine(machine_id: str, address: str, port: int, **changes: Any) -> facts.MachineFact:
    """Return a started machine of the app `hello`; services take `soft`, `hard` and more."""
    service = {
        "internal_port": port,
        "ports": [{"start_port": 80, "end_port": 80, "handlers": ["http"]}],
        "concurrency": "requests",
    } | changes.pop("service", {})
    defaults: dict[str, Any] = {
        "owner": changes.get("host_id", HOST),
        "epoch": 1,
        "revision": 1,
        "org_id": "org_1",
        "network_id": "net_1",
        "network_number": 1,
        "app_id": f"app_{changes.get('app', 'hello')}",
        "app": "hello",
        "machine_id": machine_id,
        "instance_id": "01K8RS0000000000000000000A",
        "name": "n",
        "host_id": HOST,
        "region": "lcl",
        "state": "started",
        "private_ip": "fdaa:0:1:a7b:1:0:5:2",
        "local_ipv4": address,
        "services": [service],
    }
    return facts.MachineFact.model_validate(defaults | changes)


def app(name: str, network: int = 1, **changes: Any) -> facts.AppFact:
    """Return an app's fact."""
    defaults: dict[str, Any] = {
        "epoch": 1,
        "revision": 1,
        "org_id": f"org_{network}",
        "network_id": f"net_{network}",
        "network_number": network,
        "app_id": f"app_{name}",
        "app": name,
        "hostnames": (f"{name}.godwit.localhost",),
    }
    return facts.AppFact.model_validate(defaults | changes)


def keep_view(
    path: Path, *held: facts.AppFact | facts.MachineFact | facts.HostFact, host_id: str = HOST
) -> None:
    """Write a view as an earlier run would have left it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(fact.model_dump_json() for fact in held)
    path.write_text(f'{{"v":1,"host_id":"{host_id}","facts":[\n{lines}\n]}}\n')


async def _stay_stopped(_: str) -> str | None:
    return "no room"


@dataclass
class FakeAgent:
    """The agent's side of the local catalog socket."""

    path: Path
    machines: dict[str, facts.MachineFact] = field(default_factory=dict)
    on_wake: Callable[[str], Awaitable[str | None]] = _stay_stopped
    wakes: list[str] = field(default_factory=list)
    stops: list[facts.Stop] = field(default_factory=list)
    on_stop: Callable[[str], None] = lambda _: None
    hellos: list[facts.Hello] = field(default_factory=list)
    _counts: "asyncio.Queue[facts.Counted]" = field(default_factory=asyncio.Queue)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def start(self) -> None:
        """Listen, as an agent that comes (back) up does."""
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        """Go away, connections included."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.close()
            async with asyncio.timeout(PATIENCE_S):
                await self._server.wait_closed()
        self.path.unlink(missing_ok=True)
        for task in list(self._tasks):
            task.cancel()

    def say(self, *machines: facts.MachineFact) -> None:
        """Hold these facts and tell whoever listens."""
        for fact in machines:
            held = self.machines.get(fact.machine_id)
            if held is not None and fact.revision <= held.revision:
                fact = fact.model_copy(update={"revision": held.revision + 1})  # noqa: PLW2901
            self.machines[fact.machine_id] = fact
            for writer in self._writers:
                self._send(writer, type="fact", fact=fact)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            for fact in self.machines.values():
                self._send(writer, type="fact", fact=fact)
            self._send(writer, type="synced")
            while line := await reader.readline():
                self._take(json.loads(line), writer)
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def count(self, machine_id: str) -> tuple[int, int]:
        """Return what the one edge says of a machine: requests and tunnels."""
        (writer,) = self._writers
        self._send(writer, type="count", id=1, machine_id=machine_id)
        async with asyncio.timeout(PATIENCE_S):
            told = await self._counts.get()
        return told.requests, told.tunnels

    def _take(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if request["type"] == "hello":
            self.hellos.append(facts.Hello.model_validate(request))
        elif request["type"] == "counted":
            self._counts.put_nowait(facts.Counted.model_validate(request))
        elif request["type"] == "stop":
            stop = facts.Stop.model_validate(request)
            self.stops.append(stop)
            self.on_stop(stop.machine_id)
        else:
            task = spawn(self._wake(request, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _wake(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.wakes.append(request["machine_id"])
        problem = await self.on_wake(request["machine_id"])
        if problem is None:
            self._send(writer, type="woken", id=request["id"])
        else:
            self._send(writer, type="error", id=request["id"], message=problem)

    @staticmethod
    def _send(writer: asyncio.StreamWriter, **frame: Any) -> None:
        writer.write(facts.LocalFrame(**frame).model_dump_json().encode() + b"\n")


@dataclass
class Request:
    """What an app is asked."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def header(self, name: str) -> str | None:
        """Return a header that occurs once, or nothing."""
        values = [value for key, value in self.headers if key.lower() == name]
        assert len(values) <= 1, values
        return values[0] if values else None


Handler = Callable[[Request], Awaitable[bytes]]


def response(body: bytes = b"ok", status: str = "200 OK", *headers: str) -> bytes:
    """Return the bytes of a response with a length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _ok(_: Request) -> bytes:
    return response()


@dataclass
class WebApp:
    """An app in a machine: HTTP/1.1 with keep-alive, each request to one handler."""

    address: str
    port: int
    handler: Handler = _ok
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    active: int = 0
    most_active: int = 0
    close_silently: bool = False
    """Close each connection after a response without having said so."""
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, self.address, self.port)

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            async with asyncio.timeout(PATIENCE_S):
                await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._writers.add(writer)
        try:
            while (request := await read_request(reader, number)) is not None:
                self.requests.append(request)
                self.active += 1
                self.most_active = max(self.most_active, self.active)
                try:
                    writer.write(await self.handler(request))
                finally:
                    self.active -= 1
                await writer.drain()
                if self.close_silently or request.header("connection") == "close":
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


async def read_request(reader: asyncio.StreamReader, number: int = 0) -> Request | None:
    """Read one request, or nothing when the peer has closed."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    line, *lines = head.strip().split("\r\n")
    method, path, _ = line.split(" ")
    headers = [(key, value.strip()) for key, _, value in (text.partition(":") for text in lines)]
    request = Request(method, path, headers, b"", number)
    if length := request.header("content-length"):
        request.body = await reader.readexactly(int(length))
    elif request.header("transfer-encoding") == "chunked":
        request.body = await _read_chunks(reader)
    return request


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    while (await reader.readline()).strip():
        pass
    return bytes(body)


@contextlib.asynccontextmanager
async def web_app(address: str, port: int, handler: Handler = _ok) -> AsyncIterator[WebApp]:
    """Run an app."""
    served = WebApp(address, port, handler)
    await served.start()
    try:
        yield served
    finally:
        await served.stop()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_app(address: str, port: int, serve: Serve) -> AsyncIterator[None]:
    """Run an app that says what it likes on each connection."""
    writers: set[asyncio.StreamWriter] = set()
    serving: set[asyncio.Task[None] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await serve(reader, writer)

    server = await asyncio.start_server(connected, address, port)
    try:
        yield
    finally:
        server.close()
        for task in serving:
            if task is not None:
                task.cancel()
        for writer in writers:
            writer.transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            await server.wait_closed()
