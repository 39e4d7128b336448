"""What a port's HTTP options do: HTTP/2 to the app, headers of responses, an end to silence."""

import asyncio
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import httpx
import pytest

from tests.host import rust_components as parts
from tests.host.backhaul_lab import Servers, make_servers  # noqa: F401
from tests.host.edge_lab import HELLO, Lab, echo, make_lab  # noqa: F401
from tests.host.rust_components import Request, raw_app, read_request, response, web_app

pytestmark = pytest.mark.host


def ports(**options: Any) -> dict[str, Any]:
    port = {"start_port": 80, "end_port": 80, "handlers": ["http"], "http_options": options}
    return {"ports": [port]}


async def test_an_app_may_speak_http_2(servers: Servers) -> None:
    """The app is another edge: it tells what came to it in `Via`."""
    first, app = await servers.add(), await servers.add()
    fact = app.machine("m1")
    hop = ports(h2_backend=True) | {"internal_port": app.lab.port}
    first.machine("m0", local_ipv4="127.0.0.1", service=hop)
    async with web_app(fact.local_ipv4, app.lab.app_port, echo):
        for server in (first, app):
            await server.lab.start(known=1)
        for path in ("/a?b", "/c"):
            got = await first.get(path)
            assert got.status_code == 200, got.text
            headers = dict(got.json()["headers"])
            assert headers["via"] == "1.1 godwit, 2 godwit"
            assert headers["host"] == "hello.godwit.localhost"
            assert got.json()["path"] == path


async def test_an_app_that_takes_one_stream_at_a_time_gets_more_connections(lab: Lab) -> None:
    together = 3
    heard, connections = 0, 0
    all_heard = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http.initiate_connection()
        http.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        writer.write(http.data_to_send())

        async def respond(stream: int, path: bytes) -> None:
            nonlocal heard
            heard += path == b"/held"
            if heard == together:
                all_heard.set()
            if path == b"/held":
                await all_heard.wait()
            http.send_headers(stream, [(":status", "204")], end_stream=True)
            writer.write(http.data_to_send())

        async with asyncio.TaskGroup() as responding:
            # Pings are answered meanwhile.
            while data := await reader.read(1 << 16):
                for event in http.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        path = dict(event.headers)[b":path"]
                        responding.create_task(respond(event.stream_id, path))
                writer.write(http.data_to_send())
                await writer.drain()

    lab.changes["workers"] = 1
    fact = lab.machine("m1", service=ports(h2_backend=True))
    async with raw_app(fact.local_ipv4, lab.app_port, answer):
        await lab.start()
        assert (await lab.get("/")).status_code == 204
        async with asyncio.timeout(parts.PATIENCE_S):
            got = await asyncio.gather(*(lab.get("/held") for _ in range(together)))
        assert [one.status_code for one in got] == [204] * together
        # What a new connection takes is known a moment after it is made.
        assert 2 <= connections <= together
        made = connections
        assert (await lab.get("/")).status_code == 204
        assert connections == made


@pytest.mark.parametrize(
    ("code", "asked", "status"),
    [
        (h2.errors.ErrorCodes.REFUSED_STREAM, 2, 200),
        (h2.errors.ErrorCodes.INTERNAL_ERROR, 1, 502),
    ],
)
async def test_what_an_app_by_http_2_says_it_has_not_seen_is_sent_again(
    lab: Lab, code: h2.errors.ErrorCodes, asked: int, status: int
) -> None:
    """Whatever its method (RFC 9113 §8.7)."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http.initiate_connection()
        while data := await reader.read(1 << 16):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.DataReceived) and event.data:
                    heard.append(event.data)
                    if len(heard) == 1:
                        http.reset_stream(event.stream_id, code)
                    else:
                        http.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
            writer.write(http.data_to_send())
            await writer.drain()
        writer.close()

    fact = lab.machine("m1", service=ports(h2_backend=True))
    async with raw_app(fact.local_ipv4, lab.app_port, answer):
        await lab.start()
        async with httpx.AsyncClient(timeout=2 * parts.PATIENCE_S) as client:
            got = await client.post(lab.url, headers=HELLO, content=b"once")
    assert (got.status_code, heard) == (status, [b"once"] * asked)


async def test_responses_have_the_headers_that_the_port_wants(lab: Lab) -> None:
    options = {"pristine": True, "remove": ["X-Secret"], "add": [["x-added", "1"]]}
    fact = lab.machine("m1", service=ports(**options))

    async def answer(_: Request) -> bytes:
        return response(b"ok", "200 OK", "X-Secret: s", "Server: mine")

    async with web_app(fact.local_ipv4, lab.app_port, answer):
        await lab.start()
        got = await lab.get()
    assert got.headers["server"] == "mine"
    assert got.headers["x-added"] == "1"
    assert not {"x-secret", "via", "fly-request-id"} & set(got.headers)


async def _one_word(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say a word and nothing more; say nothing at all at `/silent`."""
    request = await read_request(reader)
    if request is not None and request.path != "/silent":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nword")
        await writer.drain()
    await reader.read()


async def test_an_app_that_says_nothing_any_more_is_given_up(lab: Lab) -> None:
    fact = lab.machine("m1", service=ports(idle_timeout=1))
    async with raw_app(fact.local_ipv4, lab.app_port, _one_word):
        await lab.start()
        got = await lab.get("/silent")
        assert (got.status_code, "[PU02]" in got.text) == (504, True)
        with pytest.raises(httpx.RemoteProtocolError):
            await lab.get()


async def test_a_tunnel_that_nobody_uses_is_closed(lab: Lab) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
        )
        writer.write(await reader.readexactly(3))
        await reader.read()
        ended.set()

    ended = asyncio.Event()
    fact = lab.machine("m1", service=ports(idle_timeout=1))
    async with raw_app(fact.local_ipv4, lab.app_port, serve):
        await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: hello.godwit.localhost\r\n"
            b"Connection: Upgrade\r\nUpgrade: x\r\n\r\n"
        )
        async with asyncio.timeout(parts.PATIENCE_S):
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(b"abc")
            assert await reader.readexactly(3) == b"abc"
            assert await reader.read() == b""
            await ended.wait()
        writer.close()
