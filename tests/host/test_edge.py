"""godwit-edge as a real process: what HTTP asks of it."""

import asyncio
import base64
import hashlib
import json

import httpx
import pytest

from tests.host import rust_components as parts
from tests.host.conftest import until
from tests.host.edge_lab import HELLO, QUICK, Lab, curl, echo, make_lab  # noqa: F401
from tests.host.http2_client import STREAM, speaking
from tests.host.rust_components import Request, response, web_app

pytestmark = pytest.mark.host


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
            http, "--limit-rate", "100M", "-T", str(upload), "-o", str(upload.with_suffix(".out")), "-D", "-",
            "-H", "Expect: 100-continue", "-H", "Host: hello.godwit.localhost", f"{lab.url}/big",
        )  # fmt: skip
        grown = edge.memory_mb() - before
    sent = hashlib.sha256(upload.read_bytes()).hexdigest()
    assert f"x-digest: {sent}" in printed.decode().lower()
    assert upload.with_suffix(".out").read_bytes() == b"\x5a" * size
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
        async with asyncio.timeout(parts.PATIENCE_S):
            while settled != written:
                settled = written
                await asyncio.sleep(0.3)
        assert written < 64 << 20
        assert edge.memory_mb() < 64
        writer.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT"])
async def test_a_body_of_no_known_length_arrives_whatever_the_method(
    lab: Lab, method: str
) -> None:
    fact = lab.machine("m1")
    asked = {":method": method, ":scheme": "http", ":path": "/", ":authority": HELLO["Host"]}
    async with web_app(fact.local_ipv4, lab.app_port, echo) as app:
        await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        head = (
            f"{method} / HTTP/1.1\r\nHost: {HELLO['Host']}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        writer.write(head.encode() + b"4\r\nbody\r\n0\r\n\r\n")
        async with asyncio.timeout(parts.PATIENCE_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        streams = await asyncio.open_connection("127.0.0.1", lab.port)
        async with speaking(*streams) as client, asyncio.timeout(parts.PATIENCE_S):
            client.http.send_headers(STREAM, list(asked.items()))
            client.http.send_data(STREAM, b"body", end_stream=True)
            await client.until(lambda: client.ended)
            assert client.status == 200
        assert [request.body for request in app.requests] == [b"body"] * 2


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
        async with asyncio.timeout(parts.PATIENCE_S):
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
        async with asyncio.timeout(parts.PATIENCE_S):
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
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
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

    lab.limits = QUICK
    fact = lab.machine("m1", service={"hard_limit": 1})
    async with parts.raw_app(fact.local_ipv4, lab.app_port, upgrade):
        await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: hello.godwit.localhost\r\nUpgrade: websocket\r\n"
            b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            + f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        async with asyncio.timeout(parts.PATIENCE_S):
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
    lab.limits = QUICK
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
        async with asyncio.timeout(parts.PATIENCE_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()


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
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
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
        async with asyncio.timeout(parts.PATIENCE_S):
            await reader.read()
        writer.close()


async def test_a_head_without_end_is_refused(lab: Lab) -> None:
    edge = await lab.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: hello.godwit.localhost\r\nX: " + b"a" * 200_000)
    async with asyncio.timeout(parts.PATIENCE_S):
        assert b" 431 " in await reader.readline()
    writer.close()
    assert edge.process.returncode is None


async def test_the_status_page_tells_how_it_goes(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        await lab.get()
        metrics = await lab.metrics()
        async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
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
