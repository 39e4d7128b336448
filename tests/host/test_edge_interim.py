"""What is said before a response: `100 Continue` to the client, hints from the app."""

import asyncio

import h2.config
import h2.connection
import h2.events
import pytest

from tests.host import rust_components as parts
from tests.host.backhaul_lab import Servers, make_servers  # noqa: F401
from tests.host.edge_lab import HELLO, QUICK, Lab, curl, echo, make_lab  # noqa: F401
from tests.host.front_lab import NAME, OWN, FrontLab, connected, make_front  # noqa: F401
from tests.host.http2_client import STREAM, Http2, speaking
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


@pytest.mark.parametrize("status", ["403 Forbidden", "417 Expectation Failed"])
async def test_a_machine_that_refuses_before_the_body_is_heard(lab: Lab, status: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response(b"no", status, "Connection: close"))
        await writer.drain()
        writer.close()

    heads: list[bytes] = []
    fact = lab.machine("m1")
    async with raw_app(fact.local_ipv4, lab.app_port, refuse):
        await lab.start()
        # The client waits for ever with its body; that it may be told to go on is no harm.
        told = await answers(lab, HELLO["Host"].encode(), None)
    assert told[-1] == f"HTTP/1.1 {status}".encode()
    assert told[:-1] in ([], [b"HTTP/1.1 100 Continue"])
    assert b"expect" not in heads[0].lower()


HINT = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nFly-Replay: app=other\r\n"
    b"Connection: x-hop\r\nX-Hop: 1\r\n\r\n"
)
TOLD = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"


class Hinting:
    """An app that gives a hint, and its response when it is let."""

    def __init__(self, body: bytes = b"page", *, let: bool = False) -> None:
        self.body = body
        self.let = asyncio.Event()
        self.asked = 0
        if let:
            self.let.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader) is not None:
            self.asked += 1
            writer.write(HINT)
            await writer.drain()
            await self.let.wait()
            writer.write(response(self.body, "200 OK", "Link: </a.css>; rel=preload"))
            await writer.drain()


class HintingByHttp2(Hinting):
    """The same, by HTTP/2."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        config = h2.config.H2Configuration(client_side=False)
        http = h2.connection.H2Connection(config)
        http.initiate_connection()
        writer.write(http.data_to_send())
        while data := await reader.read(1 << 16):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    await self._answer(http, event.stream_id, writer)
            writer.write(http.data_to_send())
            await writer.drain()
        writer.close()

    async def _answer(
        self, http: h2.connection.H2Connection, stream: int, writer: asyncio.StreamWriter
    ) -> None:
        self.asked += 1
        link = ("link", "</a.css>; rel=preload")
        http.send_headers(stream, [(":status", "100")])
        http.send_headers(stream, [(":status", "103"), link, ("fly-replay", "app=other")])
        writer.write(http.data_to_send())
        await self.let.wait()
        length = ("content-length", str(len(self.body)))
        http.send_headers(stream, [(":status", "200"), link, length])
        http.send_data(stream, self.body, end_stream=True)


async def response_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return the next response, past what was said before it."""
    while (line := await reader.readline()) == b"HTTP/1.1 103 Early Hints\r\n":
        assert await reader.readuntil(b"\r\n\r\n") == TOLD[len(line) :]
    head = line + await reader.readuntil(b"\r\n\r\n")
    _, _, length = head.lower().partition(b"content-length: ")
    return head, await reader.readexactly(int(length.split(b"\r\n")[0]))


@pytest.mark.parametrize("secure", [False, True])
async def test_a_hint_comes_before_the_response(front: FrontLab, secure: bool) -> None:
    services = [front.service(7080, "http"), front.service(7443, "tls", "http")]
    fact = front.machine("m1", services=services)
    app = Hinting()
    async with raw_app(fact.local_ipv4, front.app_port, app.serve):
        await front.start()
        for port in (7080, 7443):
            await front.listens(OWN, port)
        tls = {"ssl": front.trusting, "server_hostname": NAME} if secure else {}
        way = connected(OWN, 7443 if secure else 7080, **tls)
        async with way as (reader, writer), asyncio.timeout(parts.PATIENCE_S):
            await hinted_by_http_1(reader, writer, app)


async def hinted_by_http_1(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, app: Hinting
) -> None:
    """Ask a few times, and let the app respond when its hint is there."""
    for body in (b"", b"body", b""):
        app.let.clear()
        writer.write(
            b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s"
            % (NAME.encode(), len(body), body)
        )
        # The app has not said its response yet.
        assert await reader.readexactly(len(TOLD)) == TOLD
        app.let.set()
        head, page = await response_of(reader)
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert (b"link: </a.css>" in head, page) == (True, b"page")


async def test_hints_are_never_within_another_response(lab: Lab) -> None:
    app = Hinting(b"x" * 3_000_000, let=True)
    fact = lab.machine("m1")
    async with raw_app(fact.local_ipv4, lab.app_port, app.serve):
        await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port, limit=4096)
        count = 5
        writer.write(b"GET / HTTP/1.1\r\nHost: hello.godwit.localhost\r\n\r\n" * count)
        async with asyncio.timeout(2 * parts.PATIENCE_S):
            for _ in range(count):
                head, body = await response_of(reader)
                assert head.startswith(b"HTTP/1.1 200 OK")
                assert body == app.body
        writer.close()
    assert app.asked == count


async def test_a_client_by_http_1_0_is_told_no_hint(lab: Lab) -> None:
    app = Hinting(let=True)
    fact = lab.machine("m1")
    async with raw_app(fact.local_ipv4, lab.app_port, app.serve):
        await lab.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
        writer.write(b"GET / HTTP/1.0\r\nHost: hello.godwit.localhost\r\n\r\n")
        async with asyncio.timeout(parts.PATIENCE_S):
            answered = await reader.read()
        writer.close()
    assert answered.split(b" ")[1] == b"200"
    assert b"103" not in answered


@pytest.mark.parametrize("secure", [False, True])
async def test_a_client_by_http_2_gets_the_hint_first_too(front: FrontLab, secure: bool) -> None:
    services = [front.service(7080, "http"), front.service(7443, "tls", "http")]
    fact = front.machine("m1", services=services)
    app = Hinting()
    async with raw_app(fact.local_ipv4, front.app_port, app.serve):
        await front.start()
        for port in (7080, 7443):
            await front.listens(OWN, port)
        context = front.trusting
        context.set_alpn_protocols(["h2"])
        tls = {"ssl": context, "server_hostname": NAME} if secure else {}
        way = connected(OWN, 7443 if secure else 7080, **tls)
        async with way as streams, speaking(*streams) as client:
            await hinted_by_http_2(client, app)


async def hinted_by_http_2(client: Http2, app: Hinting) -> None:
    """Ask, and let the app respond when its hint is there."""
    asked = {":method": "GET", ":scheme": "http", ":path": "/", ":authority": NAME}
    async with asyncio.timeout(parts.PATIENCE_S):
        client.http.send_headers(STREAM, list(asked.items()), end_stream=True)
        await client.until(lambda: bool(client.hints))
        assert client.hints == [{":status": "103", "link": "</a.css>; rel=preload"}]
        assert client.status is None
        app.let.set()
        await client.until(lambda: client.ended)
    assert (client.status, bytes(client.came)) == (200, b"page")
    assert len(client.hints) == 1


async def hinted(port: int, app: Hinting, *, by_http_2: bool) -> None:
    """Be a client at this port, by either version."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if by_http_2:
        async with speaking(reader, writer) as client:
            await hinted_by_http_2(client, app)
        return
    async with asyncio.timeout(parts.PATIENCE_S):
        await hinted_by_http_1(reader, writer, app)
    writer.close()


BY_HTTP_2 = {
    "ports": [
        {
            "start_port": 80,
            "end_port": 80,
            "handlers": ["http"],
            "http_options": {"h2_backend": True},
        }
    ]
}


@pytest.mark.parametrize("by_http_2", [False, True], ids=["to-http1", "to-http2"])
async def test_an_app_by_http_2_gives_hints_too(lab: Lab, by_http_2: bool) -> None:
    fact = lab.machine("m1", service=BY_HTTP_2)
    app = HintingByHttp2()
    async with raw_app(fact.local_ipv4, lab.app_port, app.serve):
        await lab.start()
        await hinted(lab.port, app, by_http_2=by_http_2)


@pytest.mark.parametrize("by_http_2", [False, True], ids=["to-http1", "to-http2"])
@pytest.mark.parametrize("app", [Hinting, HintingByHttp2], ids=["from-http1", "from-http2"])
async def test_a_hint_of_a_machine_of_another_host_comes_through(
    servers: Servers, app: type[Hinting], by_http_2: bool
) -> None:
    near, far = await servers.add(), await servers.add()
    options = BY_HTTP_2 if app is HintingByHttp2 else {}
    fact = far.machine("m1", service=options)
    one = app()
    async with raw_app(fact.local_ipv4, far.lab.app_port, one.serve):
        await servers.start()
        await hinted(near.lab.port, one, by_http_2=by_http_2)
