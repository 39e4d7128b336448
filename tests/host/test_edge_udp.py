"""godwit-edge as a real process: UDP services, at an app's own address and at the shared one.

On loopback no machine can be shown its client; tests/e2e does that with real ones.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self, cast

import httpx
import pytest

from tests.host import rust_components as parts
from tests.host.backhaul_lab import Server, Servers, make_servers  # noqa: F401
from tests.host.conftest import until
from tests.host.edge_lab import QUICK, Lab
from tests.host.front_lab import OWN, SHARED, FrontLab, make_front  # noqa: F401

pytestmark = pytest.mark.host

PORT, INSIDE = 5300, 5353
"""The port that clients use, and the one that the app has bound."""
FLOWS = "godwit_edge_udp_flows"
BEGUN = "godwit_edge_udp_flows_count"
LARGEST = 65_507
Seen = tuple[tuple[str, int], bytes]


class App(asyncio.DatagramProtocol):
    """Answers each datagram with it, unless it is told to be silent."""

    def __init__(self, *, silent: bool = False) -> None:
        self.seen: list[Seen] = []
        self.silent = silent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.seen.append((addr[:2], data))
        if not self.silent:
            self.transport.sendto(data, addr)

    @property
    def clients(self) -> set[tuple[str, int]]:
        return {client for client, _ in self.seen}


@contextlib.asynccontextmanager
async def udp_app(address: str, port: int = INSIDE, **options: Any) -> AsyncIterator[App]:
    loop = asyncio.get_running_loop()
    transport, app = await loop.create_datagram_endpoint(
        lambda: App(**options), local_addr=(address, port)
    )
    try:
        yield app
    finally:
        transport.close()


class Client:
    """A client with a port of its own."""

    def __init__(self, address: str = OWN, port: int = PORT) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((address, port))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionRefusedError):
            self._socket.send(data)

    async def hear(self, seconds: float = parts.PATIENCE_S) -> bytes:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    return await loop.sock_recv(self._socket, 70_000)

    async def ask(self, data: bytes) -> bytes:
        """Say something until it is answered: datagrams may be lost."""
        async with asyncio.timeout(parts.PATIENCE_S):
            while True:
                self.say(data)
                with contextlib.suppress(TimeoutError):
                    while (heard := await self.hear(0.5)) != data:
                        pass
                    return heard


def service(port: int = PORT, **more: Any) -> dict[str, Any]:
    ports = [{"start_port": port, "end_port": port}]
    return {"protocol": "udp", "internal_port": INSIDE, "ports": ports, **more}


async def takes(lab: Lab, address: str = OWN, port: int = PORT, *, wanted: bool = True) -> None:
    """Return once the edge takes datagrams there, or does not."""
    async with asyncio.timeout(parts.PATIENCE_S):
        while (f"{address}:{port}" in await open_ports(lab)) != wanted:
            await asyncio.sleep(0.02)


async def open_ports(lab: Lab) -> list[str]:
    told = await FrontLab.ports(cast("FrontLab", lab))
    return list(told["udp"]["open"])


async def refused(lab: Lab, reason: str, least: int = 1) -> None:
    await lab.counts(f'godwit_edge_udp_refused_count{{reason="{reason}"}}', least)


async def flows(lab: Lab, wanted: Callable[[float], bool]) -> None:
    async with asyncio.timeout(parts.PATIENCE_S):
        while not wanted((await lab.metrics())[FLOWS]):
            await asyncio.sleep(0.02)


async def test_a_client_has_one_flow_and_is_answered_from_where_it_asked(front: FrontLab) -> None:
    fact = front.machine("m1", services=[service()])
    async with udp_app(fact.local_ipv4) as app:
        await front.start()
        await takes(front)
        with Client() as one, Client() as other:
            for number in range(20):
                for client in (one, other):
                    await client.ask(b"hello %d" % number)
        # The clients' sockets are connected: from elsewhere they would have heard nothing.
        assert len(app.clients) == 2
        metrics = await front.metrics()
        assert (metrics[FLOWS], metrics[BEGUN]) == (2, 2)
        assert metrics['fly_edge_data_out{app="hello",org_id="org_1"}'] >= 40 * len("hello 0")


async def test_datagrams_of_any_size_go_both_ways_whole(front: FrontLab) -> None:
    fact = front.machine("m1", services=[service()])
    async with udp_app(fact.local_ipv4):
        await front.start()
        await takes(front)
        with Client() as client:
            for size in (1, 1_400, 9_000, LARGEST):
                assert await client.ask(os.urandom(size)) is not None


async def test_ports_open_and_close_as_services_come_and_go(front: FrontLab) -> None:
    fact = front.machine("m1", services=[service(), service(22), service(7200)])
    front.changes["reserved_ports"] = [22]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((OWN, 7200))
        await front.start()
        await takes(front)
        assert await open_ports(front) == [f"{OWN}:{PORT}"]
        told = (await front.ports())["udp"]
        assert [one["address"] for one in told["refused"]] == [f"{OWN}:7200"]
    await takes(front, port=7200)
    front.machine("m1", services=[service(7201)], local_ipv4=fact.local_ipv4)
    await takes(front, port=7201)
    await takes(front, wanted=False)
    assert not [one for one in await open_ports(front) if one.startswith(SHARED)]


async def test_a_stopped_machine_is_started_for_a_datagram_which_it_gets(front: FrontLab) -> None:
    fact = front.machine("m1", state="stopped", services=[service()])
    async with contextlib.AsyncExitStack() as stack:

        async def wake(_: str) -> None:
            front.agent.say(fact.model_copy(update={"state": "started"}))

        front.agent.on_wake = wake
        await front.start()
        await takes(front)
        with Client() as client:
            client.say(b"wake up")
            client.say(b"and more")
            # The machine is up long before its app has bound the port.
            await until(lambda: front.agent.wakes == ["m1"])
            await front.counts('fly_app_concurrency{app="hello",org_id="org_1",region="lcl",'
                               f'instance="m1",internal_port="{INSIDE}"}}', 1)  # fmt: skip
            app = await stack.enter_async_context(udp_app(fact.local_ipv4))
            assert await client.hear() == b"wake up"
            assert await client.hear() == b"and more"
        assert app.seen[0][1] == b"wake up"
    assert front.agent.wakes == ["m1"]


async def test_a_flow_ends_when_nothing_is_said(front: FrontLab) -> None:
    fact = front.machine("m1", services=[service()])
    front.limits = QUICK.model_copy(update={"flow_ms": 300, "flow_unanswered_ms": 200})
    async with udp_app(fact.local_ipv4) as app:
        await front.start()
        await takes(front)
        with Client() as client:
            await client.ask(b"one")
            await flows(front, lambda now: now == 0)
            await client.ask(b"two")
            app.silent = True
            await flows(front, lambda now: now == 0)
            client.say(b"three")
            await until(lambda: app.seen[-1][1] == b"three")
            await flows(front, lambda now: now == 0)
        assert await front.agent.count("m1") == (0, 0)


async def test_flows_take_no_room_of_a_tcp_service_at_the_same_port(front: FrontLab) -> None:
    """A limit is of a service: what has come by UDP makes nobody wait who comes by TCP."""
    limits = {"soft_limit": 10, "hard_limit": 20}
    by_tcp = front.service(7202, "http", **limits) | {"internal_port": INSIDE}
    front.limits = QUICK
    fact = front.machine("m1", services=[service(**limits), by_tcp])
    async with (
        udp_app(fact.local_ipv4),
        parts.web_app(fact.local_ipv4, INSIDE) as web,
    ):
        await front.start()
        await takes(front)
        await front.listens(OWN, 7202)
        with contextlib.ExitStack() as clients:
            for _ in range(20):
                await clients.enter_context(Client()).ask(b"hello")
            with Client() as beyond:
                beyond.say(b"hello")
                await refused(front, "PR04")
            async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
                got = await client.get(f"http://{OWN}:7202/")
            assert got.status_code == 200, got.text
            assert len(web.requests) == 1
            assert await front.agent.count("m1") == (0, 20)


async def test_a_flow_is_a_connection_of_its_machine(front: FrontLab) -> None:
    limits = {"soft_limit": 1, "hard_limit": 1}
    one = front.machine("m1", services=[service(**limits)])
    two = front.machine("m2", services=[service(**limits)])
    front.limits = QUICK
    async with udp_app(one.local_ipv4) as first, udp_app(two.local_ipv4) as second:
        await front.start()
        await takes(front)
        with Client() as a, Client() as b, Client() as c:
            await a.ask(b"a")
            await b.ask(b"b")
            assert {len(first.clients), len(second.clients)} == {1}
            assert await front.agent.count("m1") == (0, 1)
            c.say(b"c")
            await refused(front, "PR04")
            assert len(first.clients | second.clients) == 2


async def test_a_flow_ends_with_its_machine_and_goes_on_at_another(front: FrontLab) -> None:
    one = front.machine("m1", services=[service()])
    async with udp_app(one.local_ipv4) as first:
        await front.start()
        await takes(front)
        with Client() as client:
            await client.ask(b"one")
            assert first.seen
            two = front.machine("m2", services=[service()])
            async with udp_app(two.local_ipv4) as second:
                await front.knows(2)
                first.silent = True
                front.agent.say(front.agent.machines["m1"].model_copy(update={"state": "stopped"}))
                await client.ask(b"two")
                assert second.seen[-1][1] == b"two"


async def test_what_nobody_listens_for_is_given_up_and_counted(front: FrontLab) -> None:
    front.machine("m1", services=[service()])
    front.limits = QUICK
    await front.start()
    await takes(front)
    with Client() as client:
        client.say(b"anybody?")
        await refused(front, "not_listening")
        await flows(front, lambda now: now == 0)


async def test_a_flood_takes_no_more_than_there_is(front: FrontLab) -> None:
    fact = front.machine("m1", services=[service(soft_limit=10_000)])
    front.limits = QUICK.model_copy(update={"flows": 64, "flows_of_source": 8})
    async with udp_app(fact.local_ipv4) as app:
        edge = await front.start()
        await takes(front)
        with Client() as kept, contextlib.ExitStack() as stack:
            await kept.ask(b"before")
            begun = (await front.metrics())[BEGUN]
            before = edge.memory_mb()
            flood = [stack.enter_context(Client()) for _ in range(500)]
            for client in flood:
                for _ in range(20):
                    client.say(bytes(1_000))
            await refused(front, "too_many_of_source")
            metrics = await front.metrics()
            assert begun == 1
            assert metrics[FLOWS] <= 8
            assert len(app.clients) <= 8
            assert edge.memory_mb() - before < 64
            # Who has a flow keeps it.
            await kept.ask(b"after")


async def test_an_app_takes_no_more_than_half_of_the_flows(front: FrontLab) -> None:
    fact = front.machine("m1", services=[service(soft_limit=10_000)])
    front.limits = QUICK.model_copy(update={"flows": 8, "flows_of_source": 8})
    async with udp_app(fact.local_ipv4) as app:
        await front.start()
        await takes(front)
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(Client()).say(b"x")
            await refused(front, "too_many_of_app", 6)
            await until(lambda: len(app.clients) == 4)


def told(front: FrontLab, **apps: tuple[str, ...]) -> None:
    """Have the edge know apps with these ports at the shared address."""
    facts = [parts.app(name, shared_udp=ports) for name, ports in apps.items()]
    parts.keep_view(front.folder / "view.json", *facts)


async def test_at_the_shared_address_a_port_is_one_apps(front: FrontLab) -> None:
    told(front, hello=(f"{SHARED}:{PORT}",), other=(f"{SHARED}:7200", f"{SHARED}:22"))
    one = front.machine("m1", services=[service()])
    two = front.machine("m2", app="other", services=[service(7200), service(7300)])
    front.changes["reserved_ports"] = [22]
    async with udp_app(one.local_ipv4) as first, udp_app(two.local_ipv4) as second:
        await front.start()
        await takes(front, SHARED)
        await takes(front, SHARED, 7200)
        # Nobody was given 7300, and 22 is the platform's.
        assert await open_ports(front) == [f"{SHARED}:{PORT}", f"{SHARED}:7200"]
        with Client(SHARED) as mine, Client(SHARED, 7200) as theirs:
            for size in (5, LARGEST):
                await mine.ask(os.urandom(size))
                await theirs.ask(os.urandom(size))
        assert (len(first.clients), len(second.clients)) == (1, 1)


async def test_a_port_of_the_shared_address_goes_with_its_service(front: FrontLab) -> None:
    told(front, hello=(f"{SHARED}:{PORT}",))
    fact = front.machine("m1", services=[service()])
    async with udp_app(fact.local_ipv4) as app:
        await front.start()
        await takes(front, SHARED)
        with Client(SHARED) as client:
            await client.ask(b"one")
        front.machine("m1", services=[service(7201)], local_ipv4=fact.local_ipv4)
        front.machine("m2", app="other")
        await front.knows(2)
        with Client(SHARED) as client:
            client.say(b"two")
            await refused(front, "PR04")
        assert {data for _, data in app.seen} == {b"one"}


async def two_hosts(servers: Servers, **changes: Any) -> tuple[Server, Server]:
    """Return a host with the app's address, and another with its machine."""
    near, far = await servers.add("fra", addresses=[OWN]), await servers.add("iad")
    far.machine("m1", **({"services": [service()]} | changes))
    await servers.start(apps=(parts.app("hello", addresses=(OWN,)),))
    await takes(near.lab)
    return near, far


async def test_datagrams_go_to_the_host_that_has_the_machine(servers: Servers) -> None:
    near, far = await servers.add("fra", addresses=[OWN]), await servers.add("iad")
    fact = far.machine("m1", services=[service()])
    await servers.start(apps=(parts.app("hello", addresses=(OWN,)),))
    await takes(near.lab)
    async with udp_app(fact.local_ipv4) as app:
        with Client() as one, Client() as other:
            for data in (b"hello", os.urandom(1_400), os.urandom(60_000)):
                await one.ask(data)
                await other.ask(data)
        assert len(app.clients) == 2
    for server in (near, far):
        assert (await server.lab.metrics())[FLOWS] == 2
    assert await far.lab.agent.count("m1") == (0, 2)


async def test_a_machine_of_another_host_is_started_and_gets_what_woke_it(
    servers: Servers,
) -> None:
    near, far = await two_hosts(servers, state="stopped")
    fact = far.lab.agent.machines["m1"]

    async def wake(_: str) -> None:
        far.lab.agent.say(fact.model_copy(update={"state": "started"}))

    far.lab.agent.on_wake = wake
    async with udp_app(fact.local_ipv4):
        with Client() as client:
            client.say(b"wake up")
            assert await client.hear() == b"wake up"
    assert far.lab.agent.wakes == ["m1"]
    assert near.lab.agent.wakes == []


async def test_a_flow_to_another_host_ends_on_both(servers: Servers) -> None:
    servers.limits = QUICK.model_copy(update={"flow_ms": 300, "flow_unanswered_ms": 300})
    near, far = await two_hosts(servers)
    async with udp_app(far.lab.agent.machines["m1"].local_ipv4):
        with Client() as client:
            await client.ask(b"one")
            for server in (near, far):
                await flows(server.lab, lambda now: now == 0)
            await client.ask(b"two")


async def test_an_edge_that_was_restarted_is_asked_again(servers: Servers) -> None:
    near, far = await two_hosts(servers)
    async with udp_app(far.lab.agent.machines["m1"].local_ipv4):
        with Client() as client:
            await client.ask(b"one")
            await far.lab.edges[-1].kill()
            await servers.start_one(far, apps=(parts.app("hello", addresses=(OWN,)),))
            # It never heard of the flow, and says so or stays silent.
            assert await client.ask(b"two") == b"two"
    assert (await near.lab.metrics())[BEGUN] >= 2


async def test_whatever_comes_on_the_mesh_is_no_harm(servers: Servers) -> None:
    near, far = await two_hosts(servers)
    async with udp_app(far.lab.agent.machines["m1"].local_ipv4) as app:
        with Client() as client:
            await client.ask(b"one")
            ports = [port for port in udp_ports() if port[0] == far.mesh]
            assert ports
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.bind((near.mesh, 0))
                for at in ports:
                    for packet in (b"", b"\x01", b"\x01" * 9, b"\x02" * 9, os.urandom(200)):
                        stranger.sendto(packet, at)
            await far.lab.counts('godwit_edge_udp_dropped_count{reason="frame"}', 2)
            # What the client said again while it was not yet answered may come only now.
            assert {data for _, data in app.seen} == {b"one"}
            await client.ask(b"two")


def udp_ports() -> list[tuple[str, int]]:
    """Return the addresses of all UDP sockets of this network namespace."""
    table = Path("/proc/net/udp").read_text().splitlines()
    fields = [line.split()[1].split(":") for line in table[1:]]
    return [
        (socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)) for address, port in fields
    ]


async def test_a_successor_goes_on_and_no_datagram_finds_the_port_closed(front: FrontLab) -> None:
    fact = front.machine("m1", services=[service()])
    async with udp_app(fact.local_ipv4):
        first = await front.start()
        await takes(front)
        with Client() as client:
            await client.ask(b"one")
            await front.start()
            assert await first.ended() == 0
            await client.ask(b"two")
    assert (await front.ports())["udp"]["refused"] == []
