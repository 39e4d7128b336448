"""What is said before a response: `100 Continue` to the client, hints from the app."""

import asyncio

import pytest

from tests.host import rust_components as parts
from tests.host.edge_lab import HELLO, QUICK, Lab, curl, echo, make_lab  # noqa: F401
from tests.host.rust_components import raw_app, read_request, response, web_app

pytestmark = pytest.mark.host

WAITING = b"PUT / HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"


async def answers(lab: Lab, host: bytes, body: bytes | None) -> list[bytes]:
    """Return the heads that a client sees that says it waits; the body follows the first of 100."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
    writer.write(WAITING % host)
    heads: list[bytes] = []
    async with asyncio.timeout(2 * parts.PATIENCE_S):
        while not heads or heads[-1].startswith(b"HTTP/1.1 100"):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            if body is not None and len(heads) == 1:
                writer.write(body)
    writer.close()
    return [head.split(b"\r\n")[0] for head in heads]


async def test_a_client_is_told_to_continue_once_a_machine_takes_it(lab: Lab) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, echo) as app:
        await lab.start()
        told = await answers(lab, HELLO["Host"].encode(), b"body")
        assert told == [b"HTTP/1.1 100 Continue", b"HTTP/1.1 200 OK"]
        (request,) = app.requests
    assert request.body == b"body"
    assert request.header("expect") is None


async def test_who_is_refused_is_not_told_to_continue(lab: Lab) -> None:
    lab.limits = QUICK
    lab.machine("m1", state="stopped")
    await lab.start()
    assert await answers(lab, HELLO["Host"].encode(), None) == [
        b"HTTP/1.1 503 Service Unavailable"
    ]
    (unknown,) = await answers(lab, b"nobody.example", None)
    assert unknown.split()[1] == b"404"


@pytest.mark.parametrize("http", ["--http1.1", "--http2-prior-knowledge"])
async def test_a_body_that_waits_arrives_by_either_version(lab: Lab, http: str) -> None:
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, echo) as app:
        await lab.start()
        await curl(
            http, "-H", "Host: hello.godwit.localhost", "-H", "Expect: 100-continue",
            "-d", "x" * 5_000, lab.url,
        )  # fmt: skip
        (request,) = app.requests
    assert len(request.body) == 5_000


@pytest.mark.parametrize("http", ["--http1.1", "--http2-prior-knowledge"])
async def test_an_apps_hints_do_not_hide_its_response(lab: Lab, http: str) -> None:
    """They do not reach the client: docs/howto/http.md says so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader) is not None:
            hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
            writer.write(hint + hint + response(b"page", "200 OK", "Link: </a.css>; rel=preload"))
            await writer.drain()

    fact = lab.machine("m1")
    async with raw_app(fact.local_ipv4, lab.app_port, serve):
        await lab.start()
        for _ in range(2):
            printed = await curl(http, "-i", "-H", "Host: hello.godwit.localhost", lab.url)
            head, _, body = printed.partition(b"\r\n\r\n")
            assert head.split()[1] == b"200"
            assert (b"</a.css>" in head, body) == (True, b"page")
