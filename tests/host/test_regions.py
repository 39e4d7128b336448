"""Control over several regions, each with a real bus: one that is away holds up no other."""

import asyncio
import contextlib
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
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
from godwit.wire.facts import AppFact
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
    async with lab.connected(region, "control", of="fra") as link:
        # While the stream is not there yet, or not again, it holds none.
        with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
            async for message in FactStream(link, region)._newest(["app"]):
                told = AppFact.model_validate_json(message.data)
                found[told.app] = told.revision
    return found


async def is_told(lab: Lab, region: str, wanted: Callable[[dict[str, int]], bool]) -> None:
    """Return once what a region's stream holds of apps is as wanted."""
    async with asyncio.timeout(60):
        while not wanted(await apps_in(lab, region)):
            await asyncio.sleep(0.05)


async def test_a_region_that_is_away_holds_up_no_other_and_gets_everything_when_it_is_back(
    lab: Lab, around: World
) -> None:
    async with control(lab, around) as links:
        await around.app("before", "acme")
        await until(lambda: links.connection("iad").up)
        await is_told(lab, "iad", lambda apps: "before" in apps)
        await lab.buses["iad"].kill()
        await until(lambda: not links.connection("iad").up)
        for number in range(5):
            await around.app(f"during-{number}", "acme")
        await is_told(lab, "fra", lambda apps: len(apps) == 6)
        # What only the region that is away was not told of does not pile up.
        async with asyncio.timeout(60):
            while len(left := await left_over(around)) > 1:
                await asyncio.sleep(0.05)
        async with around.store.read() as rows:
            assert left == [await rows.outbox.newest()]
        await lab.buses["iad"].start()
        told = await apps_in(lab, "fra")
        assert len(told) == 6
        await is_told(lab, "iad", lambda apps: apps == told)


async def left_over(around: World) -> list[int]:
    """Return the rows that are still in the outbox."""
    async with around.store.read() as rows:
        return [row.id for row in await rows.outbox.after(0, 100)]


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
        there = await hosts.bids("iad", BID_REQUEST, 60.0)
        assert [one.host_id for one in there] == [lab.host("iad")]
        assert await hosts.bids("fra", BID_REQUEST, 60.0) == []
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
        async with asyncio.timeout(60):
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
    asked: dict[str, list[str]] = defaultdict(list)
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
                asked[request.app_id].append(name)
                return host_rpc.Bid(host_id=name, region="iad", zone="0", fits=name in roomy)

            link = await stack.enter_async_context(
                Connection([lab.buses["iad"].url], seed.decode(), name)
            )
            assert await link.wait_up(60)
            await rpc.serve_bids(link, owned, "iad", bid, name)
            await link.client.flush()
        await until(lambda: links.connection("iad").up)
        hosts = Hosts(links, region_of, hosts_of)
        await hosts.bids("iad", BID_REQUEST, 60.0)
        # Who has room soon enough is not waited for, and may hear of it later.
        await until(lambda: len(asked["a"]) == 8)
        roomy.clear()
        roomy.add(names[-1])
        for app in ("b", "c", "d"):
            request = BID_REQUEST.model_copy(update={"app_id": app})
            found = await hosts.bids("iad", request, 60.0)
            assert [bid.host_id for bid in found if bid.fits] == [names[-1]]
            await until(lambda app=app: len(asked[app]) in (8, 12))  # type: ignore[misc]
        assert [len(some) for some in asked.values() if len(some) != len(set(some))] == []
        assert len(asked["a"]) == 8
    await links.close()
