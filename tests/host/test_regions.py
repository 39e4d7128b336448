"""Control over several regions, each with a real bus: one that is away holds up no other."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nkeys
import pytest

from godwit.base import errors, principal, tasks
from godwit.bus import rpc
from godwit.bus.connection import Connection
from godwit.bus.facts import FactStream
from godwit.bus.regions import Hosts, Regions
from godwit.cmd.regions import RegionLinks
from godwit.host import bus_config
from godwit.testing.control import World, world
from godwit.wire import host_rpc
from tests.host.conftest import until
from tests.host.regions_lab import Lab, machine, regions

USER = nkeys.PREFIX_BYTE_USER
WHO = principal.component("test")
BID_REQUEST = host_rpc.BidRequest(
    org_id="o", app_id="a", resources=host_rpc.Resources(), image_digest="sha256:0"
)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with regions(tmp_path, "fra", "iad") as made:
        yield made


@pytest.fixture
async def around(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "control").mkdir()
    async with world(tmp_path / "control") as made:
        await made.organization("acme")
        yield made


@contextlib.asynccontextmanager
async def control(lab: Lab, around: World) -> AsyncIterator[Regions]:
    """Run what control does in the regions."""
    links = Regions(lab.control_seed, "control")
    async with tasks.Tasks("control") as owned:
        work = RegionLinks(around.ctx, links, {}, owned)
        await work.keep(lab.servers)
        try:
            yield links
        finally:
            await work.close()


async def apps_in(lab: Lab, region: str) -> dict[str, int]:
    """Return the apps that a region's stream holds, with their revisions."""
    found: dict[str, int] = {}

    async def read() -> None:
        async with lab.connected(region, "control", of="fra") as link:
            async for fact in FactStream(link, region).watch(["app"]):
                found[fact.app] = fact.revision  # type: ignore[union-attr]

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.5):
            await read()
    return found


async def test_a_region_that_is_away_holds_up_no_other_and_gets_everything_when_it_is_back(
    lab: Lab, around: World
) -> None:
    async with control(lab, around) as links:
        await around.app("before", "acme")
        await until(lambda: links.connection("iad").up)
        async with asyncio.timeout(10):
            while "before" not in await apps_in(lab, "iad"):
                pass
        await lab.buses["iad"].kill()
        await until(lambda: not links.connection("iad").up)
        for number in range(5):
            await around.app(f"during-{number}", "acme")
        async with asyncio.timeout(20):
            while len(await apps_in(lab, "fra")) < 6:
                pass
        async with around.store.read() as rows:
            # What only the region that is away was not told of does not pile up.
            newest = await rows.outbox.newest()
            assert [row.id for row in await rows.outbox.after(0, 100)] == [newest]
        await lab.buses["iad"].start()
        async with asyncio.timeout(30):
            while await apps_in(lab, "iad") != await apps_in(lab, "fra"):
                pass


async def test_what_concerns_a_host_goes_to_its_region(lab: Lab) -> None:
    async def echo(_: principal.Principal, body: dict[str, Any]) -> dict[str, Any]:
        return body

    async def bid(request: host_rpc.BidRequest) -> host_rpc.Bid:
        return host_rpc.Bid(host_id=lab.host("iad"), region="iad", zone="0", fits=True)

    async def region_of(host_id: str) -> str | None:
        return {lab.host(name): name for name in lab.buses}.get(host_id)

    links = Regions(lab.control_seed, "control")
    await links.keep(lab.servers)
    async with tasks.Tasks("test") as owned, lab.connected("iad", "host") as host:
        await rpc.serve(host, owned, lab.host("iad"), {"echo": echo})
        await rpc.serve_bids(host, owned, "iad", bid)
        await host.client.flush()
        await until(lambda: all(links.connection(name).up for name in lab.buses))

        async def hosts_of(region: str) -> list[str]:
            return [lab.host(region)]

        hosts = Hosts(links, region_of, hosts_of)
        assert await hosts.call(lab.host("iad"), "echo", {"x": 1}, WHO) == {"x": 1}
        assert [one.host_id for one in await hosts.bids("iad", BID_REQUEST)] == [lab.host("iad")]
        assert await hosts.bids("fra", BID_REQUEST) == []
        await lab.buses["iad"].kill()
        await until(lambda: not links.connection("iad").up)
        for region, reason in (("iad", "is away"), ("syd", "is known")):
            with pytest.raises(errors.Failure, match=reason) as caught:
                await hosts.bids(region, BID_REQUEST)
            assert caught.value.code == "unavailable"
        with pytest.raises(errors.Failure, match="not known"):
            await hosts.call("ffffffff", "echo", {}, WHO)
    await links.close()


async def test_control_follows_the_hosts_of_every_region(lab: Lab, around: World) -> None:
    async with control(lab, around) as links:
        await until(lambda: all(links.connection(name).up for name in lab.buses))
        app = await around.app("hello", "acme")
        for region in lab.buses:
            async with lab.connected(region, "host") as host:
                stream = FactStream(host, region)
                await stream.ensure()
                told = machine(region, lab.host(region), f"m{region}", 1)
                whose = {"app_id": app.id, "org_id": app.org_id, "network_id": app.network_id}
                await stream.publish(told.model_copy(update=whose))
        async with asyncio.timeout(20):
            for region in lab.buses:
                while True:
                    async with around.store.read() as rows:
                        row = await rows.placements.get(f"m{region}")
                    if row is not None and (row.region, row.state) == (region, "started"):
                        break
                    await asyncio.sleep(0.05)


async def test_of_a_large_region_eight_are_asked_and_others_only_while_none_has_room(
    lab: Lab,
) -> None:
    seeds = {
        f"{number:08x}": nkeys.encode_seed(secrets.token_bytes(32), USER) for number in range(12)
    }
    names = list(seeds)
    for name, seed in seeds.items():
        key = nkeys.from_seed(bytearray(seed)).public_key.decode()
        lab.members.append(bus_config.Member(name, "iad", {"host": key}))
    lab.write("iad")
    await lab.buses["iad"].kill()
    await lab.buses["iad"].start()
    asked: list[str] = []
    roomy = set(names)

    async def region_of(_: str) -> str | None:
        return "iad"

    async def hosts_of(_: str) -> list[str]:
        return names

    links = Regions(lab.control_seed, "control")
    await links.keep(lab.servers)
    async with tasks.Tasks("test") as owned, contextlib.AsyncExitStack() as stack:
        for name, seed in seeds.items():

            async def bid(request: host_rpc.BidRequest, name: str = name) -> host_rpc.Bid:
                asked.append(name)
                return host_rpc.Bid(host_id=name, region="iad", zone="0", fits=name in roomy)

            link = await stack.enter_async_context(
                Connection([lab.buses["iad"].url], seed.decode(), name)
            )
            assert await link.wait_up(10)
            await rpc.serve_bids(link, owned, "iad", bid, name)
            await link.client.flush()
        await until(lambda: links.connection("iad").up)
        hosts = Hosts(links, region_of, hosts_of)
        await hosts.bids("iad", BID_REQUEST)
        assert len(asked) == len(set(asked)) == 8
        roomy.clear()
        roomy.add(names[-1])
        for _ in range(3):
            asked.clear()
            found = await hosts.bids("iad", BID_REQUEST)
            assert [bid.host_id for bid in found if bid.fits] == [names[-1]]
            assert len(asked) == len(set(asked))
    await links.close()
