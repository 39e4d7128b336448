"""Edge and DNS of one region, real, with the machines of all: what is cut off is not forgotten."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from godwit.bus.facts import FactStream
from godwit.testing.loopback import free_port
from godwit.wire import components
from tests.host import edge_lab
from tests.host import rust_components as parts
from tests.host.network_lab import own_namespace
from tests.host.regions_lab import Lab, host, mirroring, regions, speaking
from tests.host.rust_components import FakeAgent
from tests.host.test_dns import ONE, Asker, give_addresses, until_answered

pytestmark = pytest.mark.host


@dataclass
class Place:
    """An edge and a DNS server of the region `fra`, on its bus."""

    lab: Lab
    edge: edge_lab.Lab
    asker: Asker
    agent: FakeAgent

    async def knows(self, *addresses: str, names: tuple[str, ...] = ("hello.internal",)) -> None:
        """Wait until DNS answers these addresses and the edge has as many machines."""
        for name in names:
            await until_answered(self.asker, name, *addresses)
        await self.edge.knows(len(addresses))


@contextlib.asynccontextmanager
async def reachable(folder: Path, *names: str) -> AsyncIterator[Lab]:
    """Run the buses of regions in this namespace, which has nothing yet."""
    await give_addresses(ONE, "fdaa::3")
    async with regions(folder, *names) as lab:
        yield lab


@contextlib.asynccontextmanager
async def place(lab: Lab, folder: Path) -> AsyncIterator[Place]:
    bus = lab.buses["fra"]
    agent = FakeAgent(folder / "a.sock")
    await agent.start()

    def client(component: str) -> components.BusClient:
        return components.BusClient(servers=(bus.url,), seed_file=str(bus.keys.seed(component)))

    dns = components.DnsConfig(
        host_id=bus.identity.host_id,
        region="fra",
        addresses=("[fdaa::3]:53",),
        upstreams=(),
        agent_socket=str(agent.path),
        bus=client("dns"),
        view_file=str(folder / "dns-view.json"),
    )
    edge = edge_lab.Lab(
        folder / "edge", agent, free_port(), free_port(), free_port(), client("edge")
    )
    edge.changes = {"host_id": bus.identity.host_id, "region": "fra"}
    server = await parts.start("godwit-dns", dns, folder / "dns")
    await edge.start(known=0)
    asker = Asker(ONE)
    try:
        yield Place(lab, edge, asker, agent)
    finally:
        asker.close()
        await server.kill()
        for one in edge.edges:
            await one.kill()
        await agent.stop()


async def say(stream: FactStream, lab: Lab, region: str, number: int, **changes: object) -> str:
    """Have a region's host tell of a machine; return its address."""
    address = f"fdaa:0:1:a7b:1:0:{number:x}:2"
    fact = parts.machine(
        f"m{number}",
        "172.16.0.5",
        80,
        **{"host_id": lab.host(region), "region": region, "private_ip": address, **changes},  # type: ignore[arg-type]
    )
    await stream.publish(fact)
    return address


@own_namespace
async def test_names_have_the_machines_of_all_regions_also_of_one_that_is_cut_off(
    tmp_path: Path,
) -> None:
    async with (
        reachable(tmp_path, "fra", "iad", "syd") as lab,
        place(lab, tmp_path) as it,
        mirroring(lab, "fra"),
        speaking(lab, "fra"),
    ):
        near = "fdaa:0:1:a7b:1:0:1:2"
        own = {"host_id": lab.host("fra"), "region": "fra", "private_ip": near}
        it.agent.say(parts.machine("m1", "172.16.0.5", 80, **own))
        async with speaking(lab, "iad") as iad, speaking(lab, "syd") as syd:
            far = await say(iad, lab, "iad", 2)
            down = await say(syd, lab, "syd", 3)
            await it.knows(near, far, down)
            await until_answered(it.asker, "iad.hello.internal", far)
            await until_answered(it.asker, "top1.nearest.of.hello.internal", near)
            await until_answered(it.asker, "m3.vm.hello.internal", down)
        await lab.buses["iad"].kill()
        # A reading anew from the region's own bus has all of it still.
        await lab.buses["fra"].kill()
        await lab.buses["fra"].start()
        async with speaking(lab, "syd") as syd:
            await say(syd, lab, "syd", 3, state="stopped", revision=2)
            await until_answered(it.asker, "hello.internal", near, far)
        await lab.buses["iad"].start()
        async with speaking(lab, "iad") as iad:
            await say(iad, lab, "iad", 2, deleted=True, revision=2)
            back = await say(iad, lab, "iad", 4)
            await until_answered(it.asker, "hello.internal", near, back)
        view = await it.edge.shows(lambda view: view["mirror_synced"])
        assert view["skipped_owner"] == 0


@own_namespace
async def test_an_edge_says_that_an_apps_machines_are_elsewhere(tmp_path: Path) -> None:
    async with reachable(tmp_path, "fra", "iad") as lab, place(lab, tmp_path) as it:
        async with lab.connected("fra", "control") as control:
            apps = FactStream(control, "fra")
            await apps.ensure()
            await apps.publish(parts.app("hello"))
        async with mirroring(lab, "fra"), speaking(lab, "iad") as iad:
            far = await say(iad, lab, "iad", 2)
            await iad.publish(host("iad", lab.host("iad")))
            await it.knows(far)
            await it.edge.shows(lambda view: view["apps"] == 1)
            answer = await it.edge.get()
            assert (answer.status_code, "other hosts" in answer.text) == (503, True)
