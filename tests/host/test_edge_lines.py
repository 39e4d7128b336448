"""Where an app's response to a request without a body ends, and what comes of it when it does not."""

import asyncio

import httpx
import pytest

from tests.host import rust_components as parts
from tests.host.edge_lab import HELLO, Lab, make_lab  # noqa: F401
from tests.host.packets import arrived, taken_in
from tests.host.rust_components import raw_app, read_request, response

pytestmark = pytest.mark.host

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO_WORLD = {
    "until it closes": [b"HTTP/1.0 200 OK\r\n\r\nhello", b" world"],
    "in chunks": [CHUNKED + b"5;a=b\r\nhel", b"lo\r\n6\r\n world\r", b"\n0\r\n\r\n"],
    "with a length": [OK[:9], OK[9:] + b"Content-Length: 11\r\n\r\nhello", b" world"],
    "with a length twice": [OK + b"Content-Length: 11\r\n" * 2 + b"\r\nhello world"],
    "a length beside chunks": [
        OK
        + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n"
    ],
    "after hints": [
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        OK + b"Content-Length: 11\r\n\r\nhello world",
    ],
}
NO_RESPONSE = {
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "a signed length": OK + b"Content-Length: +2\r\n\r\nab",
    "a switch nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "another protocol": b"220 mail.example ESMTP\r\n",
    "a folded header": OK + b"X-A: 1\r\n folded\r\nContent-Length: 2\r\n\r\nab",
    "chunks before HTTP/1.1": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "half a head": OK + b"Content-Le",
    "nothing": b"",
}
BROKEN_OFF = {
    "a length": OK + b"Content-Length: 12\r\n\r\nhello",
    "a chunk": CHUNKED + b"5\r\nhel",
    "a chunk without a size": CHUNKED + b"5\r\nhello\r\nx\r\n",
    "a chunk that is too long": CHUNKED + b"5\r\nhello world\r\n0\r\n\r\n",
}


def app(lab: Lab, *pieces: bytes) -> tuple[list[str], parts.Serve]:
    """Return an app that says these pieces one by one and closes, and the paths it was asked for."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        assert request is not None
        asked.append(request.path)
        for piece in pieces:
            writer.write(piece)
            # The next one is read by itself.
            await taken_in(writer)
        writer.close()

    return asked, serve


@pytest.mark.parametrize("name", HELLO_WORLD)
async def test_a_response_is_whole_however_it_is_said(lab: Lab, name: str) -> None:
    fact = lab.machine("m1")
    _, serve = app(lab, *HELLO_WORLD[name])
    async with raw_app(fact.local_ipv4, lab.app_port, serve):
        await lab.start()
        got = await lab.get()
        assert (got.status_code, got.text) == (200, "hello world")


@pytest.mark.parametrize("name", NO_RESPONSE)
async def test_what_is_no_response_is_a_502(lab: Lab, name: str) -> None:
    fact = lab.machine("m1")
    asked, serve = app(lab, NO_RESPONSE[name])
    async with raw_app(fact.local_ipv4, lab.app_port, serve):
        await lab.start()
        got = await lab.get("/a?b=c")
        assert got.status_code == 502
        assert "[PU02]" in got.text
        # What may be repeated is, a bounded number of times.
        assert asked == ["/a?b=c"] * 3


@pytest.mark.parametrize(
    ("method", "sends"),
    # What must not be sent twice is not.
    [("POST", 1), ("PUT", 3)],
)
async def test_a_switch_that_a_request_with_a_body_did_not_ask_for_is_a_502(
    lab: Lab, method: str, sends: int
) -> None:
    fact = lab.machine("m1")
    switch = NO_RESPONSE["a switch nobody asked for"].replace(
        b"\r\n", b"\r\nConnection: Upgrade\r\n", 1
    )
    asked, serve = app(lab, switch, b"what follows")
    async with (
        raw_app(fact.local_ipv4, lab.app_port, serve),
        httpx.AsyncClient(timeout=parts.PATIENCE_S) as client,
    ):
        await lab.start()
        got = await client.request(method, lab.url, headers=HELLO, content=b"hello")
    assert (got.status_code, "[PU02]" in got.text) == (502, True)
    assert asked == ["/"] * sends
    assert await lab.agent.count("m1") == (0, 0)


@pytest.mark.parametrize("name", BROKEN_OFF)
async def test_a_body_that_breaks_off_is_no_whole_one(lab: Lab, name: str) -> None:
    fact = lab.machine("m1")
    _, serve = app(lab, BROKEN_OFF[name])
    async with raw_app(fact.local_ipv4, lab.app_port, serve):
        await lab.start()
        with pytest.raises(httpx.RemoteProtocolError):
            await lab.get()


async def test_what_an_app_says_unasked_is_nobodys_response(lab: Lab) -> None:
    """Bytes after a response's end, in its packet or later: the connection is not used again."""
    connections = 0
    heard, said = asyncio.Event(), asyncio.Event()

    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while request := await read_request(reader):
            more = response(b"poison")
            writer.write(response(request.path.encode()) + (more if request.path == "/a" else b""))
            if request.path == "/b":
                # Its response is there, and the connection kept for the next request.
                await heard.wait()
                writer.write(more)
                await arrived(writer)
                said.set()

    fact = lab.machine("m1")
    async with (
        raw_app(fact.local_ipv4, lab.app_port, talkative),
        httpx.AsyncClient(timeout=parts.PATIENCE_S) as client,
    ):
        await lab.start()
        for path in ("/a", "/b", "/c", "/d"):
            got = await client.get(lab.url + path, headers=HELLO)
            assert got.text == path
            if path == "/b":
                heard.set()
                async with asyncio.timeout(parts.PATIENCE_S):
                    await said.wait()
        assert connections == 3


async def test_a_line_carries_what_follows_and_hyper_what_has_a_body(lab: Lab) -> None:
    """One connection for all of it, whoever drives it."""
    seen: list[tuple[int, str, bytes]] = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        number = connections
        while request := await read_request(reader):
            seen.append((number, request.method, request.body))
            body = b"" if request.method == "HEAD" else b"ok"
            head = response(b"ok").removesuffix(b"ok")
            writer.write(head + body)

    fact = lab.machine("m1")
    async with (
        raw_app(fact.local_ipv4, lab.app_port, serve),
        httpx.AsyncClient(timeout=parts.PATIENCE_S) as client,
    ):
        await lab.start()
        for method, body in (("GET", b""), ("HEAD", b""), ("PUT", b"x"), ("GET", b"")):
            got = await client.request(method, lab.url, headers=HELLO, content=body)
            assert got.status_code == 200
    assert seen == [(1, "GET", b""), (1, "HEAD", b""), (1, "PUT", b"x"), (1, "GET", b"")]
