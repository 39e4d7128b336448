"""godwit-edge as a real process: routing, bodies, limits, wake, drain, and everybody else gone."""

import asyncio
import base64
import hashlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from godwit.bus import connection as bus_connection
from godwit.bus.facts import FactStream
from godwit.wire import components, facts
from tests.host import rust_components as parts
from tests.host.conftest import Bus, free_port, until
from tests.host.rust_components import FakeAgent, Request, Running, WebApp, response, web_app

pytestmark = pytest.mark.host

HELLO = {"Host": "hello.godwit.localhost"}
QUICK = components.EdgeLimits(reach_ms=1_000, queue_ms=1_000, wake_ms=3_000, connect_ms=500)
_addresses = itertools.count(2)


def next_address() -> str:
    """Return an address of loopback that no other machine of this run has."""
    number = next(_addresses)
    return f"127.18.{number // 250}.{number % 250 + 1}"


@dataclass
class Lab:
    """An edge, a fake agent and the ports between them."""

    folder: Path
    agent: FakeAgent
    port: int
    status_port: int
    app_port: int
    bus: components.BusClient
    limits: components.EdgeLimits = QUICK
    changes: dict[str, Any] = field(default_factory=dict)
    edges: list[Running] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def config(self) -> components.EdgeConfig:
        return components.EdgeConfig.model_validate(
            {
                "host_id": parts.HOST,
                "region": "lcl",
                "apps_domain": "godwit.localhost",
                "listeners": [{"address": f"127.0.0.1:{self.port}", "port": 80}],
                "status_address": f"127.0.0.1:{self.status_port}",
                "agent_socket": str(self.agent.path),
                "bus": self.bus,
                "view_file": str(self.folder / "view.json"),
                "drain_ms": 5_000,
                "workers": 2,
                "limits": self.limits,
            }
            | self.changes
        )

    async def start(self, *, known: int | None = None) -> Running:
        """Start an edge; wait until it knows that many machines, or all of the agent's."""
        edge = await parts.start("godwit-edge", self.config(), self.folder)
        self.edges.append(edge)
        await self.knows(len(self.agent.machines) if known is None else known)
        return edge

    async def knows(self, machines: int) -> None:
        async with asyncio.timeout(10):
            while (await self.view())["machines"] != machines:
                await asyncio.sleep(0.02)

    async def view(self) -> dict[str, Any]:
        async with httpx.AsyncClient() as client:
            got = await client.get(f"http://127.0.0.1:{self.status_port}/view")
        return dict(got.json())

    async def metrics(self) -> dict[str, float]:
        async with httpx.AsyncClient() as client:
            got = await client.get(f"http://127.0.0.1:{self.status_port}/metrics")
        lines = [line for line in got.text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines)}

    async def get(self, path: str = "/", **arguments: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=20) as client:
            headers = HELLO | arguments.pop("headers", {})
            return await client.get(self.url + path, headers=headers, **arguments)

    def machine(self, machine_id: str, **changes: Any) -> facts.MachineFact:
        """Return a fact of a machine at an address of its own; the agent tells of it."""
        fact = parts.machine(machine_id, next_address(), self.app_port, **changes)
        self.agent.say(fact)
        return self.agent.machines[machine_id]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    agent = FakeAgent(tmp_path / "a.sock")
    await agent.start()
    nobody = components.BusClient(
        servers=(f"nats://127.0.0.1:{free_port()}",), seed_file=str(tmp_path / "no.seed")
    )
    made = Lab(tmp_path / "edge", agent, free_port(), free_port(), free_port(), nobody)
    yield made
    for edge in made.edges:
        await edge.kill()
    await agent.stop()


async def curl(*arguments: str) -> bytes:
    """Return what curl prints."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "15", *arguments, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        printed, _ = await process.communicate()
    return printed


async def echo(request: Request) -> bytes:
    """Answer with what was asked."""
    told = {
        "method": request.method,
        "path": request.path,
        "headers": request.headers,
        "bytes": len(request.body),
        "digest": hashlib.sha256(request.body).hexdigest(),
        "connection": request.connection,
    }
    return response(json.dumps(told).encode())


async def test_http_1_reaches_the_app_with_the_platforms_headers(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, echo):
        await lab.start()
        got = await lab.get("/a?b=c", headers={"X-Forwarded-For": "192.0.2.1", "Fly-Src": "x"})
    told = got.json()
    headers = {name.lower(): value for name, value in told["headers"]}
    assert (told["method"], told["path"]) == ("GET", "/a?b=c")
    assert headers["host"] == "hello.godwit.localhost"
    assert headers["fly-client-ip"] == "127.0.0.1"
    assert headers["x-forwarded-for"] == "192.0.2.1, 127.0.0.1, 127.0.0.1"
    assert headers["fly-forwarded-port"] == headers["x-forwarded-port"] == "80"
    assert (headers["fly-region"], headers["x-forwarded-proto"]) == ("lcl", "http")
    assert headers["via"] == "1.1 godwit"
    assert "fly-src" not in headers
    assert headers["fly-request-id"] == got.headers["fly-request-id"]
    assert got.headers["fly-request-id"].endswith("-lcl")
    assert len(got.headers["fly-request-id"]) == 30
    assert got.headers["server"].startswith("Godwit/")


async def test_http_2_without_tls_reaches_the_app(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, echo):
        await lab.start()
        printed = await curl(
            "--http2-prior-knowledge",
            "--connect-to", f"hello.godwit.localhost:80:127.0.0.1:{lab.port}",
            "-H", "Cookie: a=1", "-d", "x" * 100_000, "-w", "\n%{http_version} %{http_code}",
            "http://Hello.Godwit.Localhost:80/h2",
        )  # fmt: skip
    body, _, written = printed.decode().rpartition("\n")
    told = json.loads(body)
    headers = {name.lower(): value for name, value in told["headers"]}
    assert written == "2 200"
    assert (told["path"], told["bytes"]) == ("/h2", 100_000)
    assert headers["host"].lower() == "hello.godwit.localhost"
    assert headers["via"] == "2 godwit"


@pytest.mark.parametrize("http", ["--http1.1", "--http2-prior-knowledge"])
async def test_large_bodies_go_both_ways_without_being_held(lab: Lab, http: str) -> None:
    size = 64 << 20
    upload = lab.folder.parent / "upload"
    upload.write_bytes(b"\xa5" * size)

    async def big(request: Request) -> bytes:
        digest = hashlib.sha256(request.body).hexdigest()
        return response(b"\x5a" * size, "200 OK", f"X-Digest: {digest}")

    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, big):
        edge = await lab.start()
        before = edge.memory_mb()
        printed = await curl(
            http, "--limit-rate", "100M", "-T", str(upload), "-o", f"{upload}.out", "-D", "-",
            "-H", "Expect: 100-continue", "-H", "Host: hello.godwit.localhost", f"{lab.url}/big",
        )  # fmt: skip
        grown = edge.memory_mb() - before
    sent = hashlib.sha256(upload.read_bytes()).hexdigest()
    assert f"x-digest: {sent}" in printed.decode().lower()
    assert Path(f"{upload}.out").read_bytes() == b"\x5a" * size
    assert grown < 16, f"{grown} MB more"


async def test_a_slow_reader_slows_the_app(lab: Lab) -> None:
    written = 0

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await parts.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while written < 256 << 20:
            writer.write(b"x" * 65_536)
            await writer.drain()
            written += 65_536

    fact = lab.machine("m1")
    async with parts.raw_app(fact.local_ipv4, lab.app_port, stream):
        edge = await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: hello.godwit.localhost\r\n\r\n")
        await reader.readexactly(20)
        settled = -1
        async with asyncio.timeout(10):
            while settled != written:
                settled = written
                await asyncio.sleep(0.3)
        assert written < 64 << 20
        assert edge.memory_mb() < 64
        writer.close()


async def test_trailers_go_both_ways(lab: Lab) -> None:
    asked = bytearray()

    async def trailing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.extend(await reader.readuntil(b"x-sent: 1\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n"
            b"2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n"
        )

    fact = lab.machine("m1")
    async with parts.raw_app(fact.local_ipv4, lab.app_port, trailing):
        await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: hello.godwit.localhost\r\nTE: trailers\r\n"
            b"Connection: TE\r\nTransfer-Encoding: chunked\r\nTrailer: x-sent\r\n\r\n"
            b"1\r\na\r\n0\r\nx-sent: 1\r\n\r\n"
        )
        async with asyncio.timeout(5):
            got = await reader.readuntil(b"x-sum: 42\r\n\r\n")
        assert b"2\r\nok\r\n" in got
        assert b"te: trailers" in bytes(asked).lower()
        writer.close()


async def test_a_client_is_told_to_continue_once_a_machine_takes_the_request(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, echo):
        await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: hello.godwit.localhost\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        async with asyncio.timeout(5):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"ok")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_head_keeps_the_length_and_sends_no_body(lab: Lab) -> None:
    async def head(_: Request) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"

    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, head):
        await lab.start()
        async with httpx.AsyncClient() as client:
            got = await client.head(lab.url, headers=HELLO)
    assert got.headers["content-length"] == "1234"
    assert got.content == b""


async def test_a_websocket_passes(lab: Lab) -> None:
    key = base64.b64encode(b"0123456789abcdef").decode()

    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await parts.read_request(reader)
        assert request is not None
        assert request.header("upgrade") == "websocket"
        assert request.header("sec-websocket-key") == key
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nfirst"
        )
        while data := await reader.read(1000):
            writer.write(data.upper())
        writer.close()

    fact = lab.machine("m1", service={"hard_limit": 1})
    async with parts.raw_app(fact.local_ipv4, lab.app_port, upgrade):
        await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: hello.godwit.localhost\r\nUpgrade: websocket\r\n"
            b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            + f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        async with asyncio.timeout(5):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 101")
            assert b"upgrade: websocket" in head
            assert b"sec-websocket-accept: x" in head
            assert await reader.readexactly(5) == b"first"
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"HELLO"
            assert (await lab.get("/while-it-is-open")).status_code == 503
            writer.close()


@pytest.mark.parametrize(
    ("host", "status", "words"),
    [
        ("other.example", 404, "no app answers for other.example"),
        ("away.godwit.localhost", 503, "[PR04] the machines of away are on other hosts"),
        ("ill.godwit.localhost", 503, "[PR01] no machine of ill passes its checks"),
        ("off.godwit.localhost", 503, "[PR04] the machines of off are stopped"),
        ("quiet.godwit.localhost", 503, "[PR04] quiet has no machine that takes HTTP on port 80"),
        ("calm.godwit.localhost", 503, "[PR04] calm has no machine that takes HTTP on port 80"),
    ],
)
async def test_a_client_is_told_why_nobody_answers(
    lab: Lab, host: str, status: int, words: str
) -> None:
    raw = {"ports": [{"start_port": 80, "end_port": 80, "handlers": []}]}
    parts.keep_view(
        lab.folder / "view.json",
        parts.machine("m2", "127.0.0.1", 1, app="away", host_id=parts.OTHER_HOST),
        parts.machine("m3", "127.0.0.1", 1, app="ill", service={"passing": False}),
        parts.machine(
            "m4", "127.0.0.1", 1, app="off", state="stopped", service={"autostart": False}
        ),
        parts.machine("m5", "127.0.0.1", 1, app="quiet", service=raw),
        parts.app("calm"),
    )
    await lab.agent.stop()
    await lab.start(known=4)
    got = await lab.get(headers={"Host": host})
    assert got.status_code == status
    assert words in got.text
    assert got.headers["fly-request-id"] in got.text


async def test_requests_that_name_no_host_are_refused(lab: Lab) -> None:
    await lab.start()
    for lines in [b"", b"Host: a\r\nHost: b\r\n"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(b"GET / HTTP/1.1\r\n" + lines + b"\r\n")
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()


async def test_a_refused_connection_is_a_502_after_the_time_to_reach_it(lab: Lab) -> None:
    lab.machine("m1")
    await lab.start()
    begun = time.monotonic()
    got = await lab.get()
    assert got.status_code == 502
    assert f"[PC01] the app refused the connection on port {lab.app_port}" in got.text
    assert 0.9 < time.monotonic() - begun < 3


async def test_a_machine_that_listens_late_is_waited_for(lab: Lab) -> None:
    fact = lab.machine("m1")
    await lab.start()
    waiting = asyncio.ensure_future(lab.get())
    await asyncio.sleep(0.3)
    async with web_app(fact.local_ipv4, lab.app_port):
        assert (await waiting).status_code == 200


async def test_another_machine_takes_what_one_refuses(lab: Lab) -> None:
    lab.machine("m1")
    good = lab.machine("m2")
    async with web_app(good.local_ipv4, lab.app_port) as app:
        await lab.start()
        async with httpx.AsyncClient() as client:
            for _ in range(30):
                assert (await client.get(lab.url, headers=HELLO)).status_code == 200
    assert len(app.requests) == 30


async def test_a_cordoned_or_unhealthy_machine_gets_nothing(lab: Lab) -> None:
    apps = []
    for machine_id, changes in {
        "m1": {},
        "m2": {"cordoned": True},
        "m3": {"service": {"passing": False}},
    }.items():
        fact = lab.machine(machine_id, **changes)
        apps.append(WebApp(fact.local_ipv4, lab.app_port))
        await apps[-1].start()
    await lab.start()
    for _ in range(20):
        assert (await lab.get()).status_code == 200
    assert [len(app.requests) for app in apps] == [20, 0, 0]
    for app in apps:
        await app.stop()


async def test_a_stopped_machine_is_started_for_a_request(lab: Lab) -> None:
    fact = lab.machine("m1", state="stopped")
    app = WebApp(fact.local_ipv4, lab.app_port)

    async def wake(machine_id: str) -> None:
        await asyncio.sleep(0.2)
        lab.agent.say(fact.model_copy(update={"state": "started"}))
        # The process takes a moment from its start to its first accept.
        asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(app.start()))

    lab.agent.on_wake = wake
    await lab.start()
    got = await asyncio.gather(*(lab.get() for _ in range(20)))
    assert {answer.status_code for answer in got} == {200}
    assert lab.agent.wakes == ["m1"]
    await app.stop()


async def test_a_machine_that_cannot_start_is_a_503(lab: Lab) -> None:
    lab.machine("m1", state="stopped")
    await lab.start()
    got = await lab.get()
    assert got.status_code == 503
    assert "[PM02] a machine of hello could not be started: no room" in got.text


async def test_a_wake_without_an_answer_ends_with_its_deadline(lab: Lab) -> None:
    async def never(_: str) -> None:
        await asyncio.sleep(60)

    lab.agent.on_wake = never
    lab.limits = QUICK.model_copy(update={"wake_ms": 500})
    lab.machine("m1", state="suspended")
    await lab.start()
    got = await lab.get()
    assert got.status_code == 503
    assert "[PM03]" in got.text


async def test_the_next_sleeper_is_asked_when_one_cannot_start(lab: Lab) -> None:
    lab.machine("m1", state="stopped")
    second = lab.machine("m2", state="stopped")

    async def wake(machine_id: str) -> str | None:
        if machine_id == "m1":
            return "no room"
        lab.agent.say(second.model_copy(update={"state": "started"}))
        return None

    lab.agent.on_wake = wake
    async with web_app(second.local_ipv4, lab.app_port):
        await lab.start()
        assert (await lab.get()).status_code == 200


async def test_a_machine_that_stopped_a_moment_ago_is_started_again(lab: Lab) -> None:
    """The edge still believes that it runs: no 502, but patience until the fact comes."""
    fact = lab.machine("m1")
    app = WebApp(fact.local_ipv4, lab.app_port)

    async def wake(_: str) -> None:
        await app.start()
        lab.agent.say(fact.model_copy(update={"state": "started"}))

    lab.agent.on_wake = wake
    await lab.start()
    waiting = asyncio.ensure_future(lab.get())
    await asyncio.sleep(0.2)
    lab.agent.say(fact.model_copy(update={"state": "stopped"}))
    assert (await waiting).status_code == 200
    assert lab.agent.wakes == ["m1"]
    await app.stop()


async def slow(_: Request) -> bytes:
    await asyncio.sleep(0.05)
    return response()


async def test_the_hard_limit_is_exact_and_the_rest_waits(lab: Lab) -> None:
    limits = {"soft_limit": 2, "hard_limit": 3}
    lab.limits = QUICK.model_copy(update={"queue_ms": 10_000})
    made = [lab.machine(f"m{n}", service=limits) for n in range(2)]
    apps = [WebApp(fact.local_ipv4, lab.app_port, slow) for fact in made]
    for app in apps:
        await app.start()
    await lab.start()
    pool = httpx.Limits(max_connections=60)
    async with httpx.AsyncClient(timeout=20, limits=pool) as client:
        got = await asyncio.gather(*(client.get(lab.url, headers=HELLO) for _ in range(120)))
    assert {answer.status_code for answer in got} == {200}
    assert [app.most_active for app in apps] == [3, 3]
    metrics = await lab.metrics()
    assert metrics["godwit_edge_waiting"] == 0
    assert all(v == 0 for k, v in metrics.items() if k.startswith("fly_app_concurrency"))
    for app in apps:
        await app.stop()


async def test_sustained_overload_is_a_503(lab: Lab) -> None:
    async def stuck(_: Request) -> bytes:
        await asyncio.sleep(3)
        return response()

    lab.limits = QUICK.model_copy(update={"queue_ms": 300, "queue_length": 5})
    fact = lab.machine("m1", service={"soft_limit": 1, "hard_limit": 1})
    async with web_app(fact.local_ipv4, lab.app_port, stuck):
        await lab.start()
        got = await asyncio.gather(*(lab.get() for _ in range(10)))
    statuses = sorted(answer.status_code for answer in got)
    assert statuses == [200] + [503] * 9
    assert all(
        "[PR04] every machine of hello is at its hard limit" in x.text for x in got if x.is_error
    )


async def test_machines_below_their_soft_limit_go_first(lab: Lab) -> None:
    gate = asyncio.Event()

    async def held(_: Request) -> bytes:
        await gate.wait()
        return response()

    made = [lab.machine(f"m{n}", service={"soft_limit": 4, "hard_limit": 20}) for n in range(3)]
    apps = [WebApp(fact.local_ipv4, lab.app_port, held) for fact in made]
    for app in apps:
        await app.start()
    await lab.start()
    async with httpx.AsyncClient(timeout=20) as client:
        waiting = []
        for number in range(1, 13):
            waiting.append(asyncio.ensure_future(client.get(lab.url, headers=HELLO)))
            await until(lambda number=number: sum(app.active for app in apps) == number)
        assert [app.active for app in apps] == [4, 4, 4]
        gate.set()
        await asyncio.gather(*waiting)
    for app in apps:
        await app.stop()


@pytest.mark.parametrize(("concurrency", "connections"), [("requests", 1), ("connections", 10)])
async def test_only_requests_concurrency_keeps_connections(
    lab: Lab, concurrency: str, connections: int
) -> None:
    fact = lab.machine("m1", service={"concurrency": concurrency})
    lab.changes["workers"] = 1
    async with web_app(fact.local_ipv4, lab.app_port) as app:
        await lab.start()
        async with httpx.AsyncClient() as client:
            for _ in range(10):
                assert (await client.get(lab.url, headers=HELLO)).status_code == 200
    assert app.connections == connections


async def test_a_connection_that_the_app_closed_fails_no_request(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, echo) as app:
        app.close_silently = True
        await lab.start()
        async with httpx.AsyncClient() as client:
            for _ in range(200):
                assert (await client.get(lab.url, headers=HELLO)).status_code == 200


async def test_an_app_that_breaks_off_is_a_502_and_is_not_asked_twice(lab: Lab) -> None:
    asked = 0

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await parts.read_request(reader)
        asked += 1
        writer.close()

    fact = lab.machine("m1")
    async with parts.raw_app(fact.local_ipv4, lab.app_port, break_off):
        await lab.start()
        async with httpx.AsyncClient() as client:
            got = await client.post(lab.url, headers=HELLO, content=b"pay")
        assert got.status_code == 502
        assert "[PU02]" in got.text
        assert asked == 1


async def test_an_app_that_says_nothing_is_a_504(lab: Lab) -> None:
    async def silent(_: Request) -> bytes:
        await asyncio.sleep(30)
        return b""

    lab.limits = QUICK.model_copy(update={"response_ms": 300})
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, silent):
        await lab.start()
        got = await lab.get()
    assert got.status_code == 504
    assert "did not respond in time" in got.text


async def test_clients_that_send_no_head_are_dropped(lab: Lab) -> None:
    lab.limits = QUICK.model_copy(update={"header_ms": 500})
    await lab.start()
    for first in [b"", b"GET / HT", b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(first)
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()


async def test_a_head_without_end_is_refused(lab: Lab) -> None:
    edge = await lab.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: hello.godwit.localhost\r\nX: " + b"a" * 200_000)
    async with asyncio.timeout(5):
        assert b" 431 " in await reader.readline()
    writer.close()
    assert edge.process.returncode is None


async def test_an_edge_starts_from_its_last_view_alone(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        edge = await lab.start()
        edge.terminate()
        assert await edge.ended() == 0
        await lab.agent.stop()
        await lab.start(known=1)
        assert (await lab.get()).status_code == 200
        view = await lab.view()
    assert (view["agent_connected"], view["bus_connected"]) == (False, False)


async def test_a_killed_edge_has_kept_its_view(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        edge = await lab.start()
        async with asyncio.timeout(10):
            while (await lab.view())["saves"] == 0:
                await asyncio.sleep(0.05)
        await edge.kill()
        await lab.agent.stop()
        await lab.start(known=1)
        assert (await lab.get()).status_code == 200


async def test_a_damaged_view_keeps_no_edge_down(lab: Lab) -> None:
    fact = lab.machine("m1")
    lab.folder.mkdir()
    (lab.folder / "view.json").write_bytes(b"\x00garbage")
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        assert (await lab.get()).status_code == 200


class Load:
    """A client that keeps asking and counts what goes wrong."""

    def __init__(self, lab: Lab) -> None:
        self.good = 0
        self.bad: list[str] = []
        self._lab = lab
        self._stopped = False

    async def __aenter__(self) -> "Load":
        self._running = [asyncio.ensure_future(self._run()) for _ in range(4)]
        await self.more(20)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.more(50)
        self._stopped = True
        await asyncio.gather(*self._running)
        assert self.bad == []

    async def more(self, requests: int) -> None:
        """Wait for that many more requests."""
        wanted = self.good + requests
        await until(lambda: self.good >= wanted or self.bad, 20)

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=10) as client:
            while not self._stopped:
                try:
                    got = await client.get(self._lab.url, headers=HELLO)
                except httpx.HTTPError as error:
                    self.bad.append(repr(error))
                else:
                    if got.status_code == 200:
                        self.good += 1
                    else:
                        self.bad.append(got.text)


async def on_bus(lab: Lab, bus: Bus) -> FactStream:
    """Have the edge follow a real bus; returns control's side of it."""
    lab.bus = components.BusClient(servers=(bus.url,), seed_file=str(bus.keys.seed("edge")))
    control = await bus_connection.connect([bus.url], bus.keys.seed("control"), "control")
    assert await control.wait_up(10)
    stream = FactStream(control, "lcl")
    await stream.ensure()
    lab.changes["host_id"] = bus.identity.host_id
    return stream


async def test_neither_bus_nor_agent_is_needed_for_requests(lab: Lab, bus: Bus) -> None:
    stream = await on_bus(lab, bus)
    lab.changes = {}
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        async with asyncio.timeout(10):
            while not (await lab.view())["bus_synced"]:
                await asyncio.sleep(0.05)
        async with Load(lab) as load:
            await bus.kill()
            await load.more(50)
            await lab.agent.stop()
            await load.more(50)
            await bus.start()
            await lab.agent.start()
            await load.more(50)
            async with asyncio.timeout(15):
                while not (view := await lab.view())["bus_synced"] or not view["agent_synced"]:
                    await asyncio.sleep(0.05)
    await stream._connection.close()


async def test_facts_of_the_bus_are_followed_over_its_restart(lab: Lab, bus: Bus) -> None:
    stream = await on_bus(lab, bus)
    fact = lab.machine("m1", host_id=bus.identity.host_id)
    record = parts.app("hello", hostnames=("www.example.com",))
    await stream.publish(record)
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        www = {"Host": "WWW.example.com"}
        async with asyncio.timeout(10):
            while (await lab.get(headers=www)).status_code != 200:
                await asyncio.sleep(0.05)
        # Its record names one host name only, which the default name is not.
        assert (await lab.get()).status_code == 404
        for number in range(3):
            await bus.kill()
            assert (await lab.get(headers=www)).status_code == 200
            await bus.start()
            assert await stream._connection.wait_up(20)
            name = f"n{number}.example.com"
            record = record.model_copy(
                update={"revision": record.revision + 1, "hostnames": ("www.example.com", name)}
            )
            await stream.publish(record)
            async with asyncio.timeout(15):
                while (await lab.get(headers={"Host": name})).status_code != 200:
                    await asyncio.sleep(0.05)
        gone = record.model_copy(update={"revision": record.revision + 1, "deleted": True})
        await stream.publish(gone)
        async with asyncio.timeout(10):
            while (await lab.get(headers=www)).status_code != 404:
                await asyncio.sleep(0.05)
    await stream._connection.close()


async def test_what_cannot_be_believed_is_skipped_and_counted(lab: Lab, bus: Bus) -> None:
    stream = await on_bus(lab, bus)
    jetstream = stream._connection.jetstream
    other = parts.app("other").model_dump_json().encode()
    await jetstream.publish("facts.lcl.app.control.hello", other, stream=stream.name)
    await jetstream.publish("facts.lcl.app.control.broken", b"{not json", stream=stream.name)
    await jetstream.publish("facts.lcl.app.control.none", b"", stream=stream.name)
    await stream.publish(parts.app("good"))
    await lab.start(known=0)
    async with asyncio.timeout(10):
        while not (view := await lab.view())["bus_synced"] or view["apps"] != 1:
            await asyncio.sleep(0.05)
    assert (view["skipped_owner"], view["skipped_unreadable"]) == (1, 2)
    await stream._connection.close()


async def test_a_machine_the_agent_forgot_is_forgotten(lab: Lab) -> None:
    lab.machine("m1")
    lab.machine("m2")
    await lab.start()
    await lab.agent.stop()
    del lab.agent.machines["m1"]
    await lab.agent.start()
    await lab.knows(1)


async def test_garbage_from_the_agent_is_counted(lab: Lab) -> None:
    lab.machine("m1")
    await lab.start()
    for writer in lab.agent._writers:
        writer.write(b'not json\n{"type":"fact","fact":{"kind":"later"}}\n')
    lab.machine("m2")
    await lab.knows(2)
    view = await lab.view()
    assert view["skipped_unreadable"] == 2
    assert view["agent_connected"]


async def test_a_drain_finishes_what_is_in_flight(lab: Lab) -> None:
    gate = asyncio.Event()

    async def held(_: Request) -> bytes:
        await gate.wait()
        return response(b"done")

    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, held) as app:
        edge = await lab.start()
        http1 = asyncio.ensure_future(lab.get())
        http2 = asyncio.ensure_future(
            curl(
                "--http2-prior-knowledge", "-H", "Host: hello.godwit.localhost",
                "--connect-to", f"hello.godwit.localhost:80:127.0.0.1:{lab.port}",
                "http://hello.godwit.localhost:80/",
            )
        )  # fmt: skip
        await until(lambda: app.active == 2)
        edge.terminate()
        await asyncio.sleep(0.3)
        with pytest.raises(OSError, match="refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", lab.port)
        async with httpx.AsyncClient() as client:
            ready = await client.get(f"http://127.0.0.1:{lab.status_port}/ready")
        assert ready.status_code == 503
        gate.set()
        answer = await http1
        assert (answer.content, answer.headers["connection"]) == (b"done", "close")
        assert await http2 == b"done"
        assert await edge.ended() == 0


async def test_a_drain_ends_with_its_time(lab: Lab) -> None:
    async def never(_: Request) -> bytes:
        await asyncio.sleep(60)
        return b""

    lab.changes["drain_ms"] = 500
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, never) as app:
        edge = await lab.start()
        waiting = asyncio.ensure_future(lab.get())
        await until(lambda: app.active == 1)
        begun = time.monotonic()
        edge.terminate()
        assert await edge.ended() == 0
        assert time.monotonic() - begun < 3
        with pytest.raises(httpx.HTTPError):
            await waiting


async def test_edges_take_turns_without_a_failed_request(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        edge = await lab.start()
        async with Load(lab) as load:
            for _ in range(2):
                await load.more(50)
                lab.status_port = free_port()
                younger = await lab.start()
                edge.terminate()
                assert await edge.ended() == 0
                edge = younger


async def test_the_status_page_tells_how_it_goes(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        await lab.get()
        metrics = await lab.metrics()
        async with httpx.AsyncClient() as client:
            base = f"http://127.0.0.1:{lab.status_port}"
            assert (await client.get(f"{base}/ready")).text == "ready\n"
            assert (await client.get(f"{base}/other")).status_code == 404
    labels = '{app="hello",org_id="org_1",status="200"}'
    assert metrics[f"fly_edge_http_responses_count{labels}"] == 1
    assert metrics['fly_edge_data_out{app="hello",org_id="org_1"}'] == 2
    assert metrics["godwit_catalog_agent_synced"] == 1


async def test_the_access_log_is_off_unless_asked_for(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        edge = await lab.start()
        await lab.get("/quiet")
        await edge.kill()
        lab.changes["access_log"] = True
        edge = await lab.start()
        await lab.get("/told?secret=1")
        await until(lambda: "/told" in edge.log.read_text())
    text = edge.log.read_text()
    assert "GET hello.godwit.localhost/told 200 2 bytes" in text
    assert "/quiet" not in text
    assert "secret" not in text


async def test_two_organizations_are_kept_apart_by_host_name(lab: Lab) -> None:
    one = lab.machine("m1")
    other = lab.machine("m2", app="theirs", org_id="org_2", network_number=2)

    async def theirs(_: Request) -> bytes:
        return response(b"theirs")

    async with (
        web_app(one.local_ipv4, lab.app_port),
        web_app(other.local_ipv4, lab.app_port, theirs),
    ):
        await lab.start()
        assert (await lab.get()).content == b"ok"
        got = await lab.get(headers={"Host": "theirs.godwit.localhost"})
        assert got.content == b"theirs"
    metrics = await lab.metrics()
    labels = '{app="theirs",org_id="org_2",status="200"}'
    assert metrics[f"fly_edge_http_responses_count{labels}"] == 1
