"""Private addresses of apps: machines behind the real packet policy, and a real edge."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from godwit.agent import ports
from godwit.agent.network import rules
from godwit.agent.network.host_network import HostNetwork
from godwit.base import processes
from godwit.testing.loopback import free_port
from tests.host import network_lab as lab
from tests.host import rust_components as parts
from tests.host.conftest import until
from tests.host.edge_lab import echo
from tests.host.front_lab import FrontLab, certificate_of, connected, echo_lines, front_lab
from tests.host.rust_components import raw_app, web_app
from tests.host.test_edge_postgres import database
from tests.host.wired_guest import WiredGuest

pytestmark = pytest.mark.host

HELLO, HELLO_TOO, LENT = "fdaa:0:1:0:1::1", "fdaa:0:1:0:1::2", "fdaa:0:2:0:1::1"
"""What `hello` has in its own network, twice, and in another one."""


@dataclass
class Site:
    """A host with machines, and the edge that they reach."""

    network: HostNetwork
    front: FrontLab
    port: int
    guests: list[WiredGuest]

    async def guest(self, slot: int, network: int) -> WiredGuest:
        """Return a machine of a network."""
        plumbing = ports.Plumbing(f"m{slot}", f"org{network}", f"net{network}", network, slot)
        await self.network.plumb(plumbing)
        made = WiredGuest(slot, self.network.private_ip(plumbing))
        self.guests.append(made)
        await made.connect()
        return made


@contextlib.asynccontextmanager
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with lab.world(), front_lab(tmp_path) as front:
        port = free_port()
        network = HostNetwork(65_537, run_dir=tmp_path, policy=rules.Policy(flycast=port))
        await network.start()
        front.changes["flycast"] = f"[{lab.RESOLVER}]:{port}"
        parts.keep_view(
            tmp_path / "edge" / "view.json",
            parts.app("hello", hostnames=(), addresses=(HELLO, HELLO_TOO, LENT)),
        )
        here = Site(network, front, port, [])
        try:
            yield here
        finally:
            for guest in here.guests:
                guest.close()


async def counted(name: str) -> int:
    text = await lab.output("nft", "list", "counter", "inet", "godwit", name)
    return int(text.split("packets")[1].split()[0])


async def got(
    guest: WiredGuest, address: str, port: int = 80, **more: Any
) -> tuple[str, dict[str, Any]]:
    """Return the status line and the JSON of the answer to a request by IPv6 from a guest."""
    async with guest.connected(address, port, **more) as (reader, writer):
        writer.write(b"GET /x HTTP/1.1\r\nHost: hello.flycast\r\nConnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].decode(), json.loads(body)


@lab.own_namespace
async def test_a_machine_of_the_network_is_served_as_anybody(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        fact = here.front.machine("m1")
        guest = await here.guest(2, 1)
        async with web_app(fact.local_ipv4, here.front.app_port, echo) as app:
            await here.front.start()
            status, told = await got(guest, HELLO)
            assert status == "HTTP/1.1 200 OK"
            headers = {name.lower(): value for name, value in told["headers"]}
            assert headers["host"] == "hello.flycast"
            assert headers["fly-client-ip"] == guest.address
            assert headers["x-forwarded-for"] == f"{guest.address}, {HELLO}"
            assert (headers["fly-forwarded-port"], headers["x-forwarded-proto"]) == ("80", "http")
            assert (await here.front.metrics())["godwit_edge_private_connects_count"] == 1
            # One port of the machine's for two addresses at once: they stay apart.
            both = [guest.socket(guest.address, 40_000) for _ in range(2)]
            async with (
                guest.connected(HELLO, 80, own=both[0]) as (_, first),
                guest.connected(HELLO_TOO, 80, own=both[1]) as (reader, second),
            ):
                for writer in (first, second):
                    writer.write(b"GET /both HTTP/1.1\r\nHost: hello.flycast\r\n\r\n")
                told = json.loads((await reader.readuntil(b"}"))[-1000:].split(b"\r\n\r\n")[1])
                assert told["path"] == "/both"
                await until(lambda: len(app.requests) == 3)


@lab.own_namespace
async def test_a_stopped_machine_is_started_for_it(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        fact = here.front.machine("m1", state="stopped")
        guest = await here.guest(2, 1)
        async with web_app(fact.local_ipv4, here.front.app_port, echo):

            async def wake(machine_id: str) -> str | None:
                here.front.agent.say(fact.model_copy(update={"state": "started"}))
                return None

            here.front.agent.on_wake = wake
            await here.front.start()
            assert (await got(guest, HELLO))[0] == "HTTP/1.1 200 OK"
            assert here.front.agent.wakes == ["m1"]


@lab.own_namespace
async def test_nobody_of_another_network_gets_there(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        fact = here.front.machine("m1")
        own, other, third = [await here.guest(slot, slot - 1) for slot in (2, 3, 4)]
        async with web_app(fact.local_ipv4, here.front.app_port, echo) as app:
            await here.front.start()
            # The app's own network, the one that it was lent to, and one that has nothing of it.
            refused = [(own, LENT), (other, HELLO), (third, HELLO), (third, LENT)]
            for guest, address in refused:
                # The host says at once that there is no way.
                with pytest.raises(OSError, match="Connect call failed"):
                    async with guest.connected(address, 80):
                        pass
            # With another's address as source, and where the edge listens, without the way there.
            other.run(f"addr add {own.address}/128 dev eth0 nodad")
            for source, to, counter in (
                (own.address, (HELLO, 80), "spoofed"),
                (other.address, (lab.RESOLVER, here.port), "refused_by_host"),
            ):
                before = await counted(counter)
                with contextlib.closing(other.socket(source)) as attempt:
                    attempt.connect_ex(to)
                    async with asyncio.timeout(lab.PATIENCE_S):
                        while await counted(counter) == before:
                            await asyncio.sleep(0.02)
            for guest, address in ((own, HELLO), (other, LENT)):
                assert (await got(guest, address))[0] == "HTTP/1.1 200 OK"
            metrics = await here.front.metrics()
            assert metrics["fly_edge_tcp_connects_count"] == len(app.requests) == 2


@lab.own_namespace
async def test_the_edge_does_not_rely_on_the_packet_policy_alone(tmp_path: Path) -> None:
    """What reaches its socket without having been led there, or from elsewhere, is refused."""
    async with site(tmp_path) as here:
        here.front.machine("m1")
        await here.front.start()
        await lab.ip("addr add fdaa:0:2:1:1::2/128 dev lo nodad", f"route add {HELLO}/128 dev lo")
        async with connected(lab.RESOLVER, here.port) as (reader, _):
            assert await reader.read() == b""
        await here.front.refused("not_private", 1)
        led = (
            "table inet lead { chain out { type nat hook output priority -100;"
            f" ip6 daddr {HELLO} tcp dport 80 dnat ip6 to [{lab.RESOLVER}]:{here.port}; }}; }}"
        )
        await processes.run(["nft", led], timeout_s=lab.PATIENCE_S)
        foreign = ("fdaa:0:2:1:1::2", 0)
        async with connected(HELLO, 80, local_addr=foreign) as (reader, _):
            assert await reader.read() == b""
        await here.front.refused("not_private", 2)
        assert (await here.front.metrics())["godwit_edge_private_connects_count"] == 0


@lab.own_namespace
async def test_bytes_tls_and_postgres(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        front = here.front
        services = [
            front.service(7000, "proxy_proto"),
            front.service(7443, "tls"),
            front.service(5432, "pg_tls") | {"internal_port": free_port()},
        ]
        fact = front.machine("m1", services=services)
        guest = await here.guest(2, 1)
        database_port = services[2]["internal_port"]
        async with (
            raw_app(fact.local_ipv4, front.app_port, echo_lines),
            raw_app(fact.local_ipv4, database_port, database),
        ):
            await front.start()
            async with guest.connected(HELLO, 7000) as (reader, writer):
                _, port = writer.get_extra_info("sockname")[:2]
                line = await reader.readline()
                said = f"> PROXY TCP6 {guest.address} {HELLO} {port} 7000\r\n"
                assert line.decode() == said
            context = front.trusting
            tls = {"ssl": context, "server_hostname": "hello.flycast"}
            async with guest.connected(HELLO, 7443, **tls) as (reader, writer):
                writer.write(b"hi\n")
                assert await reader.readline() == b"> hi\n"
                names = certificate_of(writer)["subjectAltName"]
                assert names == (("DNS", "hello.flycast"),)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with guest.connected(HELLO, 7443, ssl=context, server_hostname="a.flycast"):
                    pass
            # Within the network a PostgreSQL client need not encrypt.
            async with guest.connected(HELLO, 5432) as (reader, writer):
                start = b"\0\x03\0\0user\0me\0database\0db\0\0"
                writer.write((len(start) + 4).to_bytes(4, "big") + start)
                assert await reader.readexactly(1) == b"R"


@lab.own_namespace
async def test_a_port_without_a_service_and_an_address_of_nobody_end(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        here.front.machine("m1")
        guest = await here.guest(2, 1)
        await here.front.start()
        for address, port, reason in (
            (HELLO, 81, "no_service"),
            ("fdaa:0:1:0:1::99", 80, "no_app"),
        ):
            async with guest.connected(address, port) as (reader, _):
                assert await reader.read() == b""
            await here.front.refused(reason)


@lab.own_namespace
async def test_a_successor_goes_on_where_the_edge_was(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        fact = here.front.machine("m1")
        guest = await here.guest(2, 1)
        async with web_app(fact.local_ipv4, here.front.app_port, echo):
            first = await here.front.start()
            assert (await got(guest, HELLO))[0] == "HTTP/1.1 200 OK"
            here.front.status_port = free_port()
            await here.front.start()
            assert await first.ended() == 0
            assert (await got(guest, HELLO))[0] == "HTTP/1.1 200 OK"
