"""Proxies before the edge that say in headers for whom they ask: who is believed, and how far."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from godwit.testing.loopback import free_port
from tests.host import rust_components as parts
from tests.host.backhaul_lab import Servers, make_servers  # noqa: F401
from tests.host.edge_lab import HELLO, Lab, curl, echo, make_lab  # noqa: F401
from tests.host.front_lab import NAME, OWN, FrontLab, connected, make_front  # noqa: F401
from tests.host.rust_components import web_app

pytestmark = pytest.mark.host

_FORWARDERS = ["127.0.0.1", "192.0.2.0/24"]
_CLIENT = "203.0.113.9"


@pytest.fixture(name="edge")
async def make_edge(lab: Lab) -> AsyncIterator[Lab]:
    """Give an edge that trusts loopback's first address, before an app that says what it gets."""
    fact = lab.machine("m1")
    lab.changes |= {"forwarders": _FORWARDERS, "access_log": True}
    async with web_app(fact.local_ipv4, lab.app_port, echo):
        await lab.start()
        yield lab


def _headers(told: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in told["headers"]}


async def _told(edge: Lab, *headers: tuple[str, str], by: str = "127.0.0.1") -> dict[str, str]:
    """Return the headers that the app gets of a request from an address of loopback."""
    transport = httpx.AsyncHTTPTransport(local_address=by)
    async with httpx.AsyncClient(transport=transport, timeout=parts.PATIENCE_S) as client:
        got = await client.get(edge.url, headers=[*HELLO.items(), *headers])
    return _headers(got.json())


@pytest.mark.parametrize(
    ("lists", "client"),
    [
        ([_CLIENT], _CLIENT),
        # What the client itself says is to the left of what forwarders saw.
        ([f"198.51.100.1, {_CLIENT}"], _CLIENT),
        ([f"198.51.100.1, {_CLIENT}, 192.0.2.7"], _CLIENT),
        (["198.51.100.1", f"{_CLIENT}, 192.0.2.7", "192.0.2.8"], _CLIENT),
        (["2001:db8::9,192.0.2.7"], "2001:db8::9"),
        (["192.0.2.9, 192.0.2.7"], "192.0.2.9"),
        ([f"{_CLIENT}, unknown, 192.0.2.7"], "192.0.2.7"),
        ([f"{_CLIENT}:4711"], "127.0.0.1"),
        (["[2001:db8::9]"], "127.0.0.1"),
        (["_hidden"], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
async def test_a_forwarder_says_whom_it_asks_for(edge: Lab, lists: list[str], client: str) -> None:
    headers = await _told(edge, *(("X-Forwarded-For", one) for one in lists))
    assert headers["fly-client-ip"] == client
    # The list goes on as it came, with who connected and to where.
    assert headers["x-forwarded-for"] == ", ".join([*lists, "127.0.0.1", "127.0.0.1"])
    log = edge.edges[-1].log
    async with asyncio.timeout(parts.PATIENCE_S):
        while f" {client} GET hello.godwit.localhost/ 200" not in log.read_text():
            await asyncio.sleep(0.01)


async def test_a_stranger_says_nothing_that_counts(edge: Lab) -> None:
    said = [("X-Forwarded-For", _CLIENT), ("X-Forwarded-Proto", "https")]
    headers = await _told(edge, *said, by="127.0.0.2")
    assert headers["fly-client-ip"] == "127.0.0.2"
    assert headers["x-forwarded-for"] == f"{_CLIENT}, 127.0.0.2, 127.0.0.1"
    assert (headers["x-forwarded-proto"], headers["x-forwarded-ssl"]) == ("http", "off")
    assert f"{_CLIENT} GET" not in edge.edges[-1].log.read_text()


async def test_one_connection_carries_many_clients(edge: Lab) -> None:
    async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
        for said, known in (
            ("203.0.113.1", "203.0.113.1"),
            (None, "127.0.0.1"),
            ("203.0.113.2", "203.0.113.2"),
            ("nonsense", "127.0.0.1"),
            ("203.0.113.3", "203.0.113.3"),
        ):
            headers = HELLO if said is None else HELLO | {"X-Forwarded-For": said}
            got = await client.get(edge.url, headers=headers)
            assert _headers(got.json())["fly-client-ip"] == known
    assert (await edge.metrics())["fly_edge_tcp_connects_count"] == 1


@pytest.mark.parametrize(
    ("said", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("http", "http"),
        ("https, http", "http"),
        ("x", "http"),
    ],
)
async def test_a_forwarder_says_what_its_client_speaks(edge: Lab, said: str, scheme: str) -> None:
    headers = await _told(edge, ("X-Forwarded-Proto", said))
    assert headers["x-forwarded-proto"] == scheme
    assert headers["x-forwarded-ssl"] == {"https": "on", "http": "off"}[scheme]
    assert headers["fly-client-ip"] == "127.0.0.1"


async def test_by_http_2_a_forwarder_is_believed_too(edge: Lab) -> None:
    printed = await curl(
        "--http2-prior-knowledge", "--connect-to", f"::127.0.0.1:{edge.port}",
        "-H", f"X-Forwarded-For: {_CLIENT}", "-H", "X-Forwarded-Proto: https",
        "-d", "body", f"http://{NAME}/",
    )  # fmt: skip
    headers = _headers(json.loads(printed))
    assert (headers["fly-client-ip"], headers["x-forwarded-proto"]) == (_CLIENT, "https")
    assert headers["via"] == "2 godwit"


async def test_a_request_that_came_by_tls_to_a_forwarder_is_not_sent_there_again(
    front: FrontLab,
) -> None:
    secure = free_port()
    services = [front.service(80, "http", force_https=True), front.service(443, "tls", "http")]
    fact = front.machine("m1", services=services)
    front.changes |= {
        "forwarders": ["127.0.0.1"],
        "listeners": [
            {"address": f"127.0.0.1:{front.port}", "port": 80},
            {"address": f"127.0.0.1:{secure}", "port": 443},
        ],
    }

    async def asked(proto: str | None, by: str = "127.0.0.1") -> str:
        said = () if proto is None else ("-H", f"X-Forwarded-Proto: {proto}")
        printed = await curl("-o", "/dev/null", "-w", "%{http_code} %{redirect_url}",
            "--interface", by, "--connect-to", f"::127.0.0.1:{front.port}",
            *said, f"http://{NAME}/a")  # fmt: skip
        return printed.decode().strip()

    async with web_app(fact.local_ipv4, front.app_port, echo):
        await front.start()
        assert await asked("https") == "200"
        # At the forwarder HTTPS is where everybody looks for it, not at this edge's own door.
        assert await asked("http") == f"301 https://{NAME}/a"
        own_door = f"301 https://{NAME}:{secure}/a"
        assert await asked(None) == own_door
        assert await asked("ftp") == own_door
        assert await asked("https", by="127.0.0.3") == own_door


async def test_who_a_proxy_header_names_is_a_forwarder_or_not(front: FrontLab) -> None:
    fact = front.machine("m1", services=[front.service(7060, "http")])
    front.changes |= {"proxies": ["127.0.0.0/8"], "forwarders": ["192.0.2.0/24"]}
    async with web_app(fact.local_ipv4, front.app_port, echo):
        await front.start()
        await front.listens(OWN, 7060)
        for peer, client in (("192.0.2.7", _CLIENT), ("198.51.100.1", "198.51.100.1")):
            async with connected(OWN, 7060) as (reader, writer):
                writer.write(
                    f"PROXY TCP4 {peer} {OWN} 4711 7060\r\nGET / HTTP/1.1\r\nHost: {NAME}\r\n"
                    f"X-Forwarded-For: {_CLIENT}\r\n\r\n".encode()
                )
                told = (await reader.readuntil(b"}")).decode()
            assert f'["fly-client-ip", "{client}"]' in told
            assert f'"{_CLIENT}, {peer}, {OWN}"' in told


async def test_the_clients_own_edge_says_it_to_machines_elsewhere(servers: Servers) -> None:
    near, far = await servers.add(forwarders=["127.0.0.1"]), await servers.add(forwarders=["::/0"])
    fact = far.machine("m1")
    async with web_app(fact.local_ipv4, near.lab.app_port, echo):
        await servers.start()
        said = {"X-Forwarded-For": f"192.0.2.1, {_CLIENT}", "X-Forwarded-Proto": "https"}
        got = await near.get(headers=said)
    headers = _headers(got.json())
    assert (headers["fly-client-ip"], headers["x-forwarded-proto"]) == (_CLIENT, "https")
    assert headers["x-forwarded-for"] == f"192.0.2.1, {_CLIENT}, 127.0.0.1, 127.0.0.1"
