"""Several regions on loopback: a real bus each, a host each, control in the first one."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from godwit.base import tasks
from godwit.base.clock import SystemClock
from godwit.bus import connection, mirror
from godwit.bus.connection import Connection
from godwit.bus.facts import FactStream
from godwit.bus.regions import Regions
from godwit.host import bus_config, identity
from godwit.testing.loopback import free_port
from godwit.wire.facts import HostFact, MachineFact
from tests.host.conftest import Bus


@dataclass
class Lab:
    """Regions by name; every bus knows every member."""

    directory: Path
    buses: dict[str, Bus]
    members: list[bus_config.Member] = field(default_factory=list)

    @property
    def servers(self) -> dict[str, tuple[str, ...]]:
        """Where each region's bus is."""
        return {name: (bus.url,) for name, bus in self.buses.items()}

    @property
    def control_seed(self) -> str:
        """The seed of control, which runs in the first region."""
        first = next(iter(self.buses.values()))
        return first.keys.seed("control").read_text().strip()

    def host(self, region: str) -> str:
        """Return the id of a region's host."""
        return self.buses[region].identity.host_id

    def write(self, region: str, members: Iterable[bus_config.Member] | None = None) -> None:
        """Write the file that a region's bus reads."""
        bus = self.buses[region]
        listen = bus.url.removeprefix("nats://")
        store = self.directory / region / "bus"
        server = bus_config.Server(bus.identity.host_id, region, listen, store)
        named = self.members if members is None else members
        bus.config.write_text(bus_config.render(server, named))

    @contextlib.asynccontextmanager
    async def connected(
        self, region: str, component: str, *, of: str = ""
    ) -> AsyncIterator[Connection]:
        """Connect a component of a region's host (or of another region's) to the region's bus."""
        owner = self.buses[of or region]
        named = owner.identity.host_id if component == "host" else component
        link = await connection.connect(
            [self.buses[region].url], owner.keys.seed(component), named
        )
        try:
            assert await link.wait_up(60)
            yield link
        finally:
            await link.close()


def member(bus: Bus, keys: Mapping[str, str]) -> bus_config.Member:
    """Return a member with some of its host's keys."""
    return bus_config.Member(bus.identity.host_id, bus.identity.region, keys)


@contextlib.asynccontextmanager
async def regions(directory: Path, *names: str) -> AsyncIterator[Lab]:
    """Run the buses of some regions; they end with the context."""
    buses = {}
    for name in names:
        (directory / name).mkdir()
        who, keys = identity.ensure(directory / name, name, "0000")
        url = f"nats://127.0.0.1:{free_port()}"
        buses[name] = Bus(url, directory / name / "bus.conf", who, keys)
    lab = Lab(directory, buses)
    for name, bus in buses.items():
        public = dict(bus.keys.public)
        if name != names[0]:
            del public["control"]
        lab.members.append(member(bus, public))
    try:
        for name, bus in buses.items():
            lab.write(name)
            await bus.start()
        yield lab
    finally:
        for bus in buses.values():
            await bus.kill()


def machine(
    region: str, host_id: str, machine_id: str, revision: int, *, deleted: bool = False
) -> MachineFact:
    """Return what a host tells of a machine."""
    return MachineFact(
        owner=host_id,
        epoch=1,
        revision=revision,
        deleted=deleted,
        org_id="o",
        network_id="n",
        network_number=1,
        app_id="a",
        app="hello",
        machine_id=machine_id,
        instance_id="i",
        name="quiet",
        host_id=host_id,
        region=region,
        state="destroyed" if deleted else "started",
        private_ip="fdaa:0:1::2",
        local_ipv4="172.16.0.5",
    )


def host(region: str, host_id: str, revision: int = 1) -> HostFact:
    """Return what a host tells of itself."""
    return HostFact(
        owner=host_id, epoch=1, revision=revision, host_id=host_id, region=region, zone="0000"
    )


@contextlib.asynccontextmanager
async def mirroring(
    lab: Lab, region: str, *, settling_s: float = mirror.SETTLING_S
) -> AsyncIterator[mirror.Mirror]:
    """Keep a region's mirror."""
    links = Regions(lab.buses[region].keys.seed("catalog").read_text().strip(), "catalog")
    await links.keep(lab.servers)
    others = {name: links.connection(name) for name in lab.buses if name != region}
    kept = mirror.Mirror(
        links.connection(region), region, lambda: others, SystemClock(), settling_s=settling_s
    )
    try:
        async with tasks.Tasks("mirror") as owned:
            owned.spawn(kept.run(), name="run")
            yield kept
    finally:
        await links.close()


@contextlib.asynccontextmanager
async def speaking(lab: Lab, region: str) -> AsyncIterator[FactStream]:
    """Speak as a region's host."""
    async with lab.connected(region, "host") as link:
        stream = FactStream(link, region)
        await stream.ensure()
        yield stream
