"""What no honest client sends: each is refused before an app sees anything of it."""

import asyncio

import pytest

from tests.host import rust_components as parts
from tests.host.edge_lab import Lab, echo, make_lab  # noqa: F401
from tests.host.rust_components import Request, web_app

pytestmark = pytest.mark.host

HOST = b"Host: hello.godwit.localhost\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
GET = b"GET / HTTP/1.1\r\n"
INNER = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
HOSTILE = {
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + INNER,
    "a length that is a list": POST + b"Content-Length: 5, 6\r\n\r\nhello" + INNER,
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello" + INNER,
    "a coding nobody knows": POST
    + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"
    + INNER,
    "a coding in disguise": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + INNER,
    "two codings": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"
    + INNER,
    "chunks in chunks": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + INNER,
    "a coding before the chunks": POST
    + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + INNER,
    "a bare LF after a chunk's size": POST
    + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    "a folded header": GET + HOST + b"X-A: 1\r\n folded\r\n\r\n",
    "a space before the colon": GET + HOST + b"Transfer-Encoding : chunked\r\n\r\n",
    "a NUL": GET + HOST + b"X-A: a\x00b\r\n\r\n",
    "a bare CR": GET + HOST + b"X-A: a\rb\r\n\r\n",
    "two hosts": GET + HOST + b"Host: other.godwit.localhost\r\n\r\n",
    "no host": GET + b"\r\n",
    "an unknown version": b"GET / HTTP/3.7\r\n" + HOST + b"\r\n",
    "a header bomb": GET + HOST + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
    "too many headers": GET + HOST + b"X-A: 1\r\n" * 500 + b"\r\n",
    "a path bomb": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
}


async def said(lab: Lab, what: bytes) -> bytes:
    """Send it and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
    writer.write(what)
    async with asyncio.timeout(parts.PATIENCE_S):
        try:
            got = await reader.read()
        except ConnectionError:
            got = b""
    writer.close()
    return got


@pytest.mark.parametrize("name", HOSTILE)
async def test_it_is_refused_and_no_app_sees_it(lab: Lab, name: str) -> None:
    lab.limits = lab.limits.model_copy(update={"header_ms": 2_000})
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, echo) as app:
        await lab.start()
        got = await said(lab, HOSTILE[name])
        assert app.requests == []
        assert not got or got.split(b" ", 2)[1] in {b"400", b"404", b"414", b"431", b"505"}, got
        assert (await lab.get()).status_code == 200


async def test_a_bare_lf_is_a_lines_end_to_the_edge_and_none_that_the_app_sees(lab: Lab) -> None:
    """RFC 9112 §2.2 lets it be read as CRLF; what goes on is written anew."""
    fact = lab.machine("m1")
    asked = POST + b"X-A: 1\nContent-Length: 5\nConnection: close\n\nhello"

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        assert await reader.readexactly(5) == b"hello"
        writer.write(parts.response())
        writer.close()

    heads: list[bytes] = []
    async with parts.raw_app(fact.local_ipv4, lab.app_port, raw):
        await lab.start()
        for said_so in (asked, asked.replace(b"\r\n", b"\n")):
            assert (await said(lab, said_so)).startswith(b"HTTP/1.1 200")
    for head in heads:
        assert head.count(b"\n") == head.count(b"\r\n")
        assert b"\r\nx-a: 1\r\n" in head.lower()
        assert b"\r\ncontent-length: 5\r\n" in head.lower()


async def test_length_and_chunks_together_are_one_request_of_chunks(lab: Lab) -> None:
    """RFC 9112 §6.3: the chunks count, and the length does not reach the app."""
    fact = lab.machine("m1")
    both = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    async with web_app(fact.local_ipv4, lab.app_port, echo) as app:
        await lab.start()
        got = await said(lab, POST + both + b"5\r\nhello\r\n0\r\n\r\n" + INNER)
        assert len(app.requests) <= 1
        for request in app.requests:
            assert request.body == b"hello"
            assert request.header("content-length") is None
        assert got.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("asked", ["h2c", "H2C", "websocket, h2c"])
async def test_an_upgrade_to_http_2_is_ignored_whatever_the_app_would_say(
    lab: Lab, asked: str
) -> None:
    """Behind such a tunnel a client would talk to the app without the edge's looking at it."""
    fact = lab.machine("m1")

    async def willing(request: Request) -> bytes:
        if request.header("upgrade"):
            return (
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
            )
        return await echo(request)

    upgrade = (
        f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {asked}\r\n"
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    )
    close = b"GET /last HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    async with web_app(fact.local_ipv4, lab.app_port, willing) as app:
        await lab.start()
        got = await said(lab, GET + HOST + upgrade.encode() + close)
    # It is answered by HTTP/1.1, and the connection goes on with the next request.
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 2, got
    assert [request.path for request in app.requests] == ["/", "/last"]
    names = {name.lower() for request in app.requests for name, _ in request.headers}
    assert not names & {"upgrade", "http2-settings", "connection"}, names
