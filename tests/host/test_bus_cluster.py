"""A region with three bus servers: any of them may be killed, the stream's leader too."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from godwit.base import tasks
from godwit.bus import connection
from godwit.bus.connection import Connection
from godwit.bus.facts import FactStream
from godwit.host import bus_config, identity
from godwit.testing.loopback import free_port
from tests.host.conftest import Bus, persist
from tests.host.regions_lab import machine, member

SECRET = "0123456789abcdef"
VOTES = "votes"


@contextlib.asynccontextmanager
async def three(directory: Path) -> AsyncIterator[list[Bus]]:
    """Run the three servers of one region."""
    ports = [free_port() for _ in range(3)]
    buses, members = [], []
    for number in range(3):
        folder = directory / str(number)
        folder.mkdir()
        who, keys = identity.ensure(folder, "fra", "0000")
        url = f"nats://127.0.0.1:{free_port()}"
        buses.append(Bus(url, folder / "bus.conf", who, keys))
        public = {
            name: key for name, key in keys.public.items() if name != "control" or not number
        }
        members.append(member(buses[-1], public))
    for number, bus in enumerate(buses):
        routes = tuple(f"127.0.0.1:{port}" for port in ports if port != ports[number])
        listen, at = bus.url.removeprefix("nats://"), f"127.0.0.1:{ports[number]}"
        cluster = bus_config.Cluster(at, routes, SECRET, VOTES, reached_at=at, clients_at=listen)
        server = bus_config.Server(
            bus.identity.host_id, "fra", listen, bus.config.parent / "bus", cluster
        )
        bus.config.write_text(bus_config.render(server, members))
    try:
        for bus in buses:
            await bus.start()
        yield buses
    finally:
        for bus in buses:
            await bus.kill()


@contextlib.asynccontextmanager
async def connected(buses: list[Bus], of: Bus, component: str) -> AsyncIterator[Connection]:
    """Connect a component of a host to the region, whichever server answers."""
    name = of.identity.host_id if component == "host" else component
    link = await connection.connect([bus.url for bus in buses], of.keys.seed(component), name)
    try:
        assert await link.wait_up(60)
        yield link
    finally:
        await link.close()


@pytest.mark.timeout(900)
async def test_a_region_that_loses_the_leader_of_its_stream_loses_no_record(
    tmp_path: Path,
) -> None:
    async with (
        three(tmp_path) as buses,
        tasks.Tasks("test") as owned,
        connected(buses, buses[0], "control") as control,
        connected(buses, buses[1], "host") as host,
    ):
        stream = FactStream(control, "fra", replicas=3)
        await persist(stream.ensure)
        told = FactStream(host, "fra")
        who = buses[1].identity.host_id
        newest: dict[str, int] = {}

        async def watch() -> None:
            async for fact in stream.watch(["machine"]):
                newest[fact.machine_id] = fact.revision  # type: ignore[union-attr]

        owned.spawn(watch(), name="watch")
        await persist(lambda: told.publish(machine("fra", who, "m1", 1)))
        info = await control.jetstream.stream_info("FACTS_fra")
        assert info.cluster is not None
        leader = next(bus for bus in buses if bus.identity.host_id == info.cluster.leader)
        await leader.kill()
        await persist(lambda: told.publish(machine("fra", who, "m1", 2)))
        await persist(lambda: told.publish(machine("fra", who, "m2", 1)))
        async with asyncio.timeout(60):
            while newest != {"m1": 2, "m2": 1}:
                await asyncio.sleep(0.05)
        await leader.start()
        await persist(lambda: told.publish(machine("fra", who, "m1", 3)))
        async with asyncio.timeout(60):
            while newest != {"m1": 3, "m2": 1}:
                await asyncio.sleep(0.05)
