"""`Fly-Src`: an app behind a real edge is told, signed, which machine asks it.

Callers are addresses of this namespace, led to the edge as the host's packet policy leads those of
machines; `tests/e2e/test_flycast.py` has real ones.
"""

import asyncio
import contextlib
import json
import re
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature

from godwit.base import processes
from godwit.control import fly_src_key
from godwit.testing.loopback import free_port
from godwit.wire import fly_src
from tests.host import network_lab as lab
from tests.host import rust_components as parts
from tests.host.backhaul_lab import Server, Servers, several
from tests.host.edge_lab import curl, echo
from tests.host.front_lab import connected
from tests.host.rust_components import Request, response, web_app

pytestmark = pytest.mark.host

PAGE = parts.ROOT / "docs" / "howto" / "flycast.md"
ADDRESS, OTHER = "fdaa:0:1:0:1::1", "fdaa:0:1:0:1::2"
"""Of the apps `hello` and `other`."""
CALLER, STRANGER = "fdaa:0:1:a7b:1:0:9:2", "fdaa:0:1:a7b:1:0:a:2"
"""Of the machine `c1` of the app `shop`, and of one that nobody told of."""
FORGED = (
    "FLY-SRC: instance=c9;app=shop;org=acme;ts=1",
    "fly-src: instance=c8;app=shop;org=acme;ts=1",
    "Fly-Src-Signature: AAAA",
    "fLY-sRC-oPTiN: *",
    "Connection: Fly-Src, Fly-Src-Signature",
)


@dataclass
class Site:
    """Hosts, of which the first has the caller.

    Attributes:
        keys: Of the cluster.
    """

    servers: Servers
    near: Server
    keys: Path

    async def start(self) -> None:
        """Start the edges, with the apps of one organization."""
        apps = [
            parts.app("hello", addresses=(ADDRESS,), org_slug="acme"),
            parts.app("other", addresses=(OTHER,), org_slug="acme"),
            parts.app("shop", org_slug="acme"),
        ]
        await self.servers.start(apps=tuple(apps))

    def caller(self, headers: dict[str, str]) -> dict[str, str]:
        """Return what an app finds by the program that the documentation gives it."""
        names: dict[str, Any] = {}
        (program,) = re.findall(
            r"^ {4}import base64\n(?: {4}.*\n|\n)+", PAGE.read_text(), re.MULTILINE
        )
        exec(textwrap.dedent(program), names)
        told: Callable[..., dict[str, str]] = names["caller"]
        return told(headers, str(self.keys / fly_src.PUBLIC_FILE))


@contextlib.asynccontextmanager
async def site(tmp_path: Path, *, key: bool = True) -> AsyncIterator[Site]:
    keys = tmp_path / "keys"
    keys.mkdir()
    if key:
        fly_src_key.ensure(keys)
    async with lab.world(), several(tmp_path) as servers:
        await _lead(port := free_port())
        near = await servers.add(
            flycast=f"[{lab.RESOLVER}]:{port}", fly_src_key_file=str(keys / fly_src.KEY_FILE)
        )
        near.machine("c1", app="shop", private_ip=CALLER)
        yield Site(servers, near, keys)


async def _lead(port: int) -> None:
    """Lead what is for the apps to the edge, as it is led when it comes from taps."""
    own = [f"addr add {one}/128 dev lo nodad" for one in (lab.RESOLVER, CALLER, STRANGER)]
    await lab.ip(*own, *(f"route add {one}/128 dev lo" for one in (ADDRESS, OTHER)))
    led = (
        "table inet lead { chain out { type nat hook output priority -100;"
        f" ip6 daddr {{ {ADDRESS}, {OTHER} }} tcp dport 80 dnat ip6 to [{lab.RESOLVER}]:{port}; }}; }}"
    )
    await processes.run(["nft", led], timeout_s=lab.PATIENCE_S)


async def asked(
    address: str, *lines: str, source: str | None = CALLER, port: int = 80, body: str = ""
) -> dict[str, str]:
    """Return the headers that the app got, by which `Fly-Src` and others are found."""
    local = None if source is None else (source, 0)
    async with connected(address, port, local_addr=local) as (reader, writer):
        head = [f"{'POST' if body else 'GET'} /x HTTP/1.1", "Host: hello.godwit.localhost", *lines]
        writer.write("\r\n".join([*head, "", body]).encode())
        status = await reader.readline()
        length = 0
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        told = await reader.readexactly(length)
    assert status == b"HTTP/1.1 200 OK\r\n", (status, told)
    headers = [(name.title(), value) for name, value in json.loads(told)["headers"]]
    assert len(dict(headers)) == len(headers), headers
    return dict(headers)


async def asked_in_public(here: Site, *lines: str) -> dict[str, str]:
    """Return the same of a request that comes by the first host's public address."""
    return await asked("127.0.0.1", *lines, source=None, port=here.near.lab.port)


def is_told_of_nobody(headers: dict[str, str]) -> bool:
    return not [name for name in headers if name.startswith("Fly-Src")]


@lab.own_namespace
async def test_an_app_can_check_which_machine_asks_it(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        fact = here.near.machine("m1")
        async with web_app(fact.local_ipv4, here.near.lab.app_port, echo):
            await here.start()
            before = int(time.time())
            for forged in ((), FORGED):
                headers = await asked(ADDRESS, *forged)
                said = here.caller(headers)
                at = int(said.pop("ts"))
                assert said == {"instance": "c1", "app": "shop", "org": "acme"}
                assert before <= at <= time.time()
                assert "Fly-Src-Optin" not in headers
            words = headers["Fly-Src"].split(";")
            assert [word.partition("=")[0] for word in words] == ["instance", "app", "org", "ts"]
            with pytest.raises(InvalidSignature):
                here.caller(headers | {"Fly-Src": headers["Fly-Src"].replace("c1", "c2")})


@lab.own_namespace
async def test_it_is_told_of_http_2_as_well(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        fact = here.near.machine("m1")
        lies = [word for lie in FORGED[:4] for word in ("-H", lie)]
        by = ("--http2-prior-knowledge", "--interface", CALLER)
        async with web_app(fact.local_ipv4, here.near.lab.app_port, echo):
            await here.start()
            told = json.loads(await curl(*by, *lies, f"http://[{ADDRESS}]/"))
        headers = {name.title(): value for name, value in told["headers"]}
        assert headers["Via"].startswith("2 ")
        assert len(headers) == len(told["headers"])
        assert here.caller(headers)["instance"] == "c1"
        assert "Fly-Src-Optin" not in headers


@lab.own_namespace
async def test_who_is_not_known_is_not_named(tmp_path: Path) -> None:
    """Neither a machine that nobody told of, nor anybody at a public address."""
    async with site(tmp_path) as here:
        fact = here.near.machine("m1")
        async with web_app(fact.local_ipv4, here.near.lab.app_port, echo):
            await here.start()
            for lines in ((), FORGED):
                assert is_told_of_nobody(await asked(ADDRESS, *lines, source=STRANGER))
                assert is_told_of_nobody(await asked_in_public(here, *lines))


@lab.own_namespace
async def test_a_machine_of_another_host_is_told_the_same(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        far = await here.servers.add()
        fact = far.machine("m1")
        async with web_app(fact.local_ipv4, here.near.lab.app_port, echo):
            await here.start()
            assert here.caller(await asked(ADDRESS, *FORGED))["instance"] == "c1"
            assert is_told_of_nobody(await asked_in_public(here, *FORGED))
        taken = "godwit_edge_backhaul_taken_count"
        assert (await far.lab.metrics())[taken] == 2


@lab.own_namespace
async def test_a_replayed_request_says_who_asked_first(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        port = here.near.lab.app_port
        first, second = here.near.machine("m1"), here.near.machine("m2", app="other")
        seen: list[Request] = []

        async def elsewhere(request: Request) -> bytes:
            seen.append(request)
            return response(b"", "409 Conflict", "fly-replay: app=other")

        async with (
            web_app(first.local_ipv4, port, elsewhere),
            web_app(second.local_ipv4, port, echo),
        ):
            await here.start()
            headers = await asked(ADDRESS)
        assert here.caller(headers)["instance"] == "c1"
        for name in ("Fly-Src", "Fly-Src-Signature"):
            assert seen[0].header(name.lower()) == headers[name]
        assert headers["Fly-Replay-Src"].startswith("instance=m1;")


@lab.own_namespace
async def test_trailers_say_nothing_of_the_kind(tmp_path: Path) -> None:
    """What comes after a body is a client's word, and no app can take it for the platform's."""
    async with site(tmp_path) as here:
        fact = here.near.machine("m1")
        raw: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            raw.append(await reader.readuntil(b"\r\n\r\n"))
            raw.append(await reader.readuntil(b"0\r\n"))
            while raw[-1] != b"\r\n":
                raw.append(await reader.readline())
            writer.write(response(b'{"headers": []}'))

        async with parts.raw_app(fact.local_ipv4, here.near.lab.app_port, serve):
            await here.start()
            named = "Transfer-Encoding: chunked", "TE: trailers", "Trailer: Fly-Src, X-Sum"
            body = "2\r\nhi\r\n0\r\nFly-Src: instance=c9\r\nX-Sum: 1\r\n\r\n"
            assert await asked(ADDRESS, *named, body=body) == {}
        assert b"fly-src: instance=c1" in raw[0].lower()
        assert [line.lower() for line in raw[2:]] == [b"x-sum: 1\r\n", b"\r\n"]


@lab.own_namespace
async def test_a_key_that_comes_later_is_found(tmp_path: Path) -> None:
    async with site(tmp_path, key=False) as here:
        fact = here.near.machine("m1")
        async with web_app(fact.local_ipv4, here.near.lab.app_port, echo):
            await here.start()
            assert is_told_of_nobody(await asked(ADDRESS, *FORGED))
            fly_src_key.ensure(here.keys)
            async with asyncio.timeout(parts.PATIENCE_S):
                while is_told_of_nobody(headers := await asked(ADDRESS)):
                    await asyncio.sleep(0.1)
            assert here.caller(headers)["app"] == "shop"
