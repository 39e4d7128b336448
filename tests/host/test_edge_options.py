"""What a port's HTTP options do: HTTP/2 to the app, headers of responses, an end to silence."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.host import rust_components as parts
from tests.host.backhaul_lab import Servers, make_servers  # noqa: F401
from tests.host.edge_lab import Lab, echo, make_lab  # noqa: F401
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
