"""Responses are compressed for clients that take them so, and streams stay streams."""

import asyncio
import gzip
import hashlib
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import zstandard

from tests.host import rust_components as parts
from tests.host.backhaul_lab import HELLO, Servers, make_servers  # noqa: F401
from tests.host.edge_lab import Lab, curl, make_lab  # noqa: F401
from tests.host.rust_components import Request, raw_app, response, web_app

pytestmark = pytest.mark.host

HTML = "Content-Type: text/html; charset=utf-8"
PAGE = b"".join(
    f"<li>{hashlib.sha256(bytes([n])).hexdigest()}</li>\n".encode() for n in range(250)
)
ASKED = {"Accept-Encoding": "gzip"}


async def page(_: Request) -> bytes:
    return response(PAGE, "200 OK", HTML, 'ETag: "v1"', "Accept-Ranges: bytes")


async def raw(lab: Lab, path: str = "/", method: str = "GET", **headers: str) -> httpx.Response:
    """Return a response whose body is as it was sent, in `extensions`."""
    asked = HELLO | {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        httpx.AsyncClient(timeout=parts.PATIENCE_S) as client,
        client.stream(method, lab.url + path, headers=asked) as got,
    ):
        got.extensions["raw"] = b"".join([piece async for piece in got.aiter_raw()])
        return got


@pytest.mark.parametrize("http", ["--http1.1", "--http2-prior-knowledge"])
@pytest.mark.parametrize("coding", ["zstd", "br", "gzip", "deflate"])
async def test_a_page_arrives_smaller_and_the_same(lab: Lab, http: str, coding: str) -> None:
    fact = lab.machine("m1")
    head = lab.folder.parent / "head"
    async with web_app(fact.local_ipv4, lab.app_port, page):
        await lab.start()
        plain = await curl(
            http, "--compressed", "-H", f"Accept-Encoding: {coding}", "-D", str(head),
            "-H", "Host: hello.godwit.localhost", lab.url,
        )  # fmt: skip
        sent = await lab.metrics()
    assert plain == PAGE
    lines = head.read_text().lower().splitlines()
    assert f"content-encoding: {coding}" in lines
    assert {"vary: accept-encoding", 'etag: w/"v1"'} <= set(lines)
    assert not [line for line in lines if line.startswith(("content-length", "accept-ranges"))]
    told = [value for name, value in sent.items() if name.startswith("fly_edge_data_out")]
    assert 0 < sum(told) < len(PAGE) * 3 // 4


async def test_what_is_not_to_be_changed_is_not(lab: Lab) -> None:
    own = gzip.compress(PAGE)
    kinds = {
        "/small": response(PAGE[:1000], "200 OK", HTML),
        "/image": response(PAGE, "200 OK", "Content-Type: image/png"),
        "/own": response(own, "200 OK", HTML, "Content-Encoding: gzip"),
        "/kept": response(PAGE, "200 OK", HTML, "Cache-Control: no-transform"),
        "/part": response(PAGE, "206 Partial Content", HTML, "Content-Range: bytes 0-1/2"),
        "/out": response(PAGE, "200 OK", HTML, "Content-Encoding: none"),
    }

    async def answer(request: Request) -> bytes:
        return kinds[request.path]

    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, answer):
        await lab.start()
        for path, sent in kinds.items():
            got = await raw(lab, path, Accept_Encoding="gzip")
            assert sent.endswith(b"\r\n\r\n" + got.extensions["raw"]), path
            coding = "gzip" if path == "/own" else None
            assert got.headers.get("content-encoding") == coding, path
        none = await raw(lab, "/image", Accept_Encoding="identity")
        assert none.extensions["raw"] == PAGE


async def test_a_head_has_no_body_to_compress(lab: Lab) -> None:
    async def answer(request: Request) -> bytes:
        whole = await page(request)
        return whole[: -len(PAGE)] if request.method == "HEAD" else whole

    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port, answer):
        await lab.start()
        got = await raw(lab, method="HEAD", Accept_Encoding="gzip")
    assert got.headers["content-length"] == str(len(PAGE))
    assert "content-encoding" not in got.headers


async def test_a_port_may_leave_responses_as_they_are(lab: Lab) -> None:
    port = {"start_port": 80, "end_port": 80, "handlers": ["http"]}
    off = {"ports": [port | {"http_options": {"compress": False}}]}
    fact = lab.machine("m1", service=off)

    async def answer(request: Request) -> bytes:
        if request.path == "/out":
            return response(PAGE, "200 OK", HTML, "Content-Encoding: none")
        return await page(request)

    async with web_app(fact.local_ipv4, lab.app_port, answer):
        await lab.start()
        for path in ("/", "/out"):
            got = await raw(lab, path, Accept_Encoding="gzip")
            assert got.extensions["raw"] == PAGE
            assert "content-encoding" not in got.headers


class Stream:
    """An app that says each word once it is told to, in a response without a length."""

    def __init__(self, kind: str) -> None:
        self.words: asyncio.Queue[bytes] = asyncio.Queue()
        self._kind = kind

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await parts.read_request(reader)
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: {self._kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        writer.write(head.encode())
        while word := await self.words.get():
            writer.write(b"%x\r\n%s\r\n" % (len(word), word))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _each(got: httpx.Response, reader: Any) -> AsyncIterator[bytes]:
    async for piece in got.aiter_raw():
        yield reader.decompress(piece)


@pytest.mark.parametrize("coding", ["zstd", "gzip", "deflate"])
async def test_what_an_app_has_said_is_not_held_back(lab: Lab, coding: str) -> None:
    """Every word is read before the app says the next."""
    made: dict[str, Any] = {
        "zstd": zstandard.ZstdDecompressor().decompressobj(),
        "gzip": zlib.decompressobj(wbits=31),
        "deflate": zlib.decompressobj(),
    }
    stream, fact = Stream("text/html"), lab.machine("m1")
    async with raw_app(fact.local_ipv4, lab.app_port, stream.serve):
        await lab.start()
        async with (
            asyncio.timeout(parts.PATIENCE_S),
            httpx.AsyncClient(timeout=parts.PATIENCE_S) as client,
            client.stream("GET", lab.url, headers=HELLO | {"Accept-Encoding": coding}) as got,
        ):
            assert got.headers["content-encoding"] == coding
            pieces = _each(got, made[coding])
            for word in (b"<p>first</p>", b"<p>second</p>", b"<p>third</p>"):
                stream.words.put_nowait(word)
                seen = b""
                while seen != word:
                    seen += await anext(pieces)
            stream.words.put_nowait(b"")
            assert b"".join([piece async for piece in pieces]) == b""


async def test_events_stay_as_they_are(lab: Lab) -> None:
    stream, fact = Stream("text/event-stream"), lab.machine("m1")
    async with raw_app(fact.local_ipv4, lab.app_port, stream.serve):
        await lab.start()
        async with (
            httpx.AsyncClient(timeout=parts.PATIENCE_S) as client,
            client.stream("GET", lab.url, headers=HELLO | ASKED) as got,
        ):
            pieces = got.aiter_raw()
            for word in (b"data: 1\n\n", b"data: 2\n\n"):
                stream.words.put_nowait(word)
                assert await anext(pieces) == word
            assert "content-encoding" not in got.headers


async def test_a_machine_of_another_host_answers_the_same(servers: Servers) -> None:
    near, far = await servers.add(), await servers.add()
    fact = far.machine("m1")
    async with web_app(fact.local_ipv4, far.lab.app_port, page):
        await servers.start()
        got = await raw(near.lab, Accept_Encoding="br;q=0, gzip")
    assert got.headers["content-encoding"] == "gzip"
    assert got.headers.get_list("vary") == ["accept-encoding"]
    assert gzip.decompress(got.extensions["raw"]) == PAGE
