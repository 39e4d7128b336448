"""HAProxy before the edge and behind it: each takes the other's word about the client (PROXY)."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from godwit.testing.loopback import free_port
from tests.host import rust_components as parts
from tests.host.edge_lab import echo
from tests.host.front_lab import NAME, OWN, SHARED, FrontLab, connected, make_front  # noqa: F401
from tests.host.rust_components import web_app

pytestmark = [pytest.mark.host, pytest.mark.full]

_PORT = 7490
_CLIENT = "127.20.251.9"
_ASK = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()
_CONFIG = """\
defaults
    mode {mode}
    timeout connect 60s
    timeout client 60s
    timeout server 60s
    {more}
listen one
    bind {bind}
    server other {to}
"""


@contextlib.asynccontextmanager
async def _haproxy(folder: Path, bind: str, to: str, *, http: bool) -> AsyncIterator[None]:
    """Run one that listens and leads there, each as HAProxy's own configuration says it."""
    assert shutil.which("haproxy"), "haproxy is missing: tools/setup.sh strangers"
    more = "option forwardfor" if http else ""
    mode = "http" if http else "tcp"
    config = folder / "haproxy.cfg"
    config.write_text(_CONFIG.format(mode=mode, more=more, bind=bind, to=to))
    process = await asyncio.create_subprocess_exec("haproxy", "-db", "-f", str(config))
    host, _, port = bind.split(maxsplit=1)[0].rpartition(":")
    try:
        async with asyncio.timeout(parts.PATIENCE_S):
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    _, writer = await asyncio.open_connection(host, int(port))
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield
    finally:
        process.terminate()
        async with asyncio.timeout(parts.PATIENCE_S):
            await process.wait()


async def _told(address: str, port: int) -> dict[str, str]:
    """Return the headers that an app got from a client with an address of its own."""
    async with connected(address, port, local_addr=(_CLIENT, 0)) as (reader, writer):
        writer.write(_ASK)
        answer = await reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), answer
    return {name.lower(): value for name, value in json.loads(body)["headers"]}


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
async def test_the_edge_believes_a_haproxy_before_it(
    front: FrontLab, tmp_path: Path, version: str
) -> None:
    fact = front.machine("m1", services=[front.service(_PORT, "http")])
    front.changes["proxies"] = ["127.0.0.0/8"]
    # At an address that is none of the edge's: the app is the one that Host names.
    before = f"127.20.251.1:{_PORT}"
    async with web_app(fact.local_ipv4, front.app_port, echo):
        await front.start()
        await front.listens(SHARED, _PORT)
        to = f"{SHARED}:{_PORT} {version}"
        async with _haproxy(tmp_path, before, to, http=False):
            headers = await _told("127.20.251.1", _PORT)
    assert headers["fly-client-ip"] == _CLIENT
    assert headers["x-forwarded-for"].split(", ")[0] == _CLIENT


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_haproxy_behind_the_edge_learns_who_the_client_is(
    front: FrontLab, tmp_path: Path, version: str
) -> None:
    service = front.service(_PORT, "proxy_proto", proxy_version=version)
    fact = front.machine("m1", services=[service])
    behind = free_port()
    app = f"{fact.local_ipv4}:{front.app_port} accept-proxy"
    async with (
        web_app("127.0.0.1", behind, echo),
        _haproxy(tmp_path, app, f"127.0.0.1:{behind}", http=True),
    ):
        await front.start()
        await front.listens(OWN, _PORT)
        headers = await _told(OWN, _PORT)
    assert headers["x-forwarded-for"] == _CLIENT
