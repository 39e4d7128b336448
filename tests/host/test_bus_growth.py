"""A region grows from one bus server to three: nothing is lost, and nobody is told by hand."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from godwit.base import tasks
from godwit.base.clock import SystemClock
from godwit.base.settings import Settings
from godwit.bus import connection
from godwit.bus.connection import Connection
from godwit.bus.facts import FactStream
from godwit.bus.mirror import Mirror
from godwit.host import bus_file, identity, membership
from godwit.wire.facts import MemberFact
from tests.host.conftest import Bus, persist, until
from tests.host.regions_lab import machine

pytestmark = pytest.mark.timeout(600)


@dataclass
class Region:
    """The hosts of a region; the first few of them are members."""

    buses: list[Bus]
    members: list[MemberFact]
    settings: list[Settings]

    def admit(self, count: int) -> None:
        """Have every host know the first so many as members, and its server's file say so."""
        for bus, settings in zip(self.buses, self.settings, strict=True):
            membership.keep(settings.paths.data, self.members[:count])
            text = bus_file.text(settings, bus.identity, bus.keys, self.members[:count])
            bus.config.write_text(text)

    @contextlib.asynccontextmanager
    async def connected(self, number: int, component: str) -> AsyncIterator[Connection]:
        """Connect a component of a host as it does when it starts now."""
        bus = self.buses[number]
        servers = membership.own_bus(self.settings[number], bus.identity)
        name = bus.identity.host_id if component == "host" else component
        link = await connection.connect(servers, bus.keys.seed(component), name)
        try:
            assert await link.wait_up(60)
            yield link
        finally:
            await link.close()


@contextlib.asynccontextmanager
async def region(directory: Path) -> AsyncIterator[Region]:
    """Make three hosts, none of which runs yet; their servers end with the context."""
    made = Region([], [], [])
    pid = os.getpid()
    for number in range(3):
        data = directory / str(number)
        data.mkdir()
        who, keys = identity.ensure(data, "fra", "0000")
        (data / "keys" / "cluster.secret").write_text("0123456789abcdef\n")
        # On an address that no other process of tests has: the ports are those of a real host.
        at = f"127.{100 + number}.{pid // 256 % 256}.{pid % 256}:4222"
        settings = Settings.model_validate({"paths": {"data": data}, "listen": {"bus": at}})
        made.buses.append(Bus(f"nats://{at}", data / "bus.conf", who, keys))
        made.settings.append(settings)
        public = {
            name: key for name, key in keys.public.items() if name != "control" or not number
        }
        known: dict[str, Any] = {
            "epoch": 1,
            "revision": number + 1,
            "host_id": who.host_id,
            "host_number": 65_537 + number,
            "region": "fra",
            "zone": "0000",
            "roles": who.roles,
            "keys": public,
            "services": {"bus": at},
        }
        made.members.append(MemberFact.model_validate(known))
    try:
        yield made
    finally:
        for bus in made.buses:
            await bus.kill()


@contextlib.asynccontextmanager
async def seen(stream: FactStream) -> AsyncIterator[dict[str, int]]:
    """Keep the newest revision of every machine as a view has it."""
    newest: dict[str, int] = {}

    async def watch() -> None:
        async for fact in stream.watch(["machine"]):
            newest[fact.machine_id] = fact.revision  # type: ignore[union-attr]

    async with tasks.Tasks("view") as owned:
        owned.spawn(watch(), name="watch")
        yield newest


async def copies(link: Connection, stream: str) -> int:
    """Return how many servers keep a stream and have all of it."""
    try:
        info = await link.jetstream.stream_info(stream)
    except Exception:  # noqa: BLE001 - whatever it is, it is asked again
        return 0
    others = (info.cluster and info.cluster.replicas) or ()
    return 1 + sum(bool(one.current and not one.offline) for one in others)


async def until_copied(link: Connection, stream: str) -> None:
    """Return once three servers keep a stream."""
    async with asyncio.timeout(120):
        while await copies(link, stream) != 3:
            await asyncio.sleep(0.2)


async def tell(stream: FactStream, host_id: str, revision: int) -> None:
    """Tell of all machines, as an owner does after any doubt."""

    async def all_of_them() -> None:
        await stream.ensure()
        for number in range(20):
            await stream.publish(machine("fra", host_id, f"m{number}", revision))

    await persist(all_of_them)


def all_at(revision: int, newest: dict[str, int]) -> Callable[[], bool]:
    """Return what tells whether a view has every machine at a revision."""
    return lambda: newest == {f"m{number}": revision for number in range(20)}


async def test_a_region_grows_to_three_servers_and_loses_the_first(tmp_path: Path) -> None:
    async with region(tmp_path) as there, contextlib.AsyncExitStack() as stack:
        first, second, third = there.buses
        there.admit(1)
        await first.start()
        control = await stack.enter_async_context(there.connected(0, "control"))
        await persist(FactStream(control, "fra").ensure)
        # The second host's server waits for the third: its host uses the first one's.
        there.admit(2)
        await first.kill()
        await first.start()
        await second.start()
        host = await stack.enter_async_context(there.connected(1, "host"))
        catalog = await stack.enter_async_context(there.connected(1, "catalog"))
        assert host.client.connected_url is not None
        assert host.client.connected_url.netloc == first.url.removeprefix("nats://")
        owner, told = second.identity.host_id, FactStream(host, "fra")
        newest = await stack.enter_async_context(seen(FactStream(control, "fra")))
        await tell(told, owner, 1)
        await until(all_at(1, newest))
        # The third is a member, and not up yet: two are enough.
        there.admit(3)
        for bus in (first, second):
            await bus.kill()
            await bus.start()
        await tell(told, owner, 2)
        await until(all_at(2, newest))
        owned = await stack.enter_async_context(tasks.Tasks("mirror"))
        kept = Mirror(catalog, "fra", dict, SystemClock(), replicas=3)
        owned.spawn(kept.run(), name="mirror")
        await third.start()
        whole = FactStream(control, "fra", replicas=3)
        await persist(lambda: whole.ensure(migrate=True))
        await until_copied(control, "FACTS_fra")
        await until_copied(catalog, "MIRROR")
        # All of them dialled the first one alone.
        await first.kill()
        await tell(told, owner, 3)
        await until(all_at(3, newest), 120)
