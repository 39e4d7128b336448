"""What control tells of every host, and when."""

from dataclasses import replace
from typing import Any

from godwit.control import members
from godwit.control.publisher import Publisher
from godwit.control.records import Host
from godwit.control.strays import Strays
from godwit.control.watcher import Watcher
from godwit.wire import facts
from tests.unit.control.conftest import Town

SUBJECT = "facts.lcl.member.control.b2c3d4e5"


def host(**changes: Any) -> Host:
    known = Host("b2c3d4e5", 65_538, "UKEY", "fra", "00a1", 5, roles=["bus", "agent"])
    return replace(known, **changes)


async def put(town: Town, one: Host) -> Host:
    async with town.world.store.write() as rows:
        return await members.put(rows, one)


async def told(town: Town) -> facts.MemberFact:
    await Publisher(town.world.ctx, "lcl", town.world.stream).publish_once()
    fact = town.world.stream.newest[SUBJECT]
    assert isinstance(fact, facts.MemberFact)
    return fact


async def test_a_host_is_told_of_with_everything_others_need(town: Town) -> None:
    endpoints, services = ["198.51.100.7:51820"], {"bus": "10.0.0.2:4222"}
    kept = await put(
        town,
        host(mesh_key="MESH", keys={"edge": "UE"}, endpoints=endpoints, services=services),
    )
    fact = await told(town)
    assert (fact.host_number, fact.region, fact.roles) == (65_538, "fra", ("bus", "agent"))
    assert (fact.keys, fact.mesh_key) == ({"host": "UKEY", "edge": "UE"}, "MESH")
    assert (list(fact.endpoints), fact.services) == (endpoints, services)
    assert (fact.state, fact.revision) == ("active", kept.revision)


async def test_only_what_is_new_is_told_and_raises_the_revision(town: Town) -> None:
    first = await put(town, host())
    assert await put(town, host()) == first
    moved = await put(town, host(endpoints=["203.0.113.9:51820"]))
    assert moved.revision > first.revision
    assert (await told(town)).endpoints == ("203.0.113.9:51820",)


async def test_what_a_host_says_changes_neither_its_number_nor_its_state(town: Town) -> None:
    first = await put(town, host())
    async with town.world.store.write() as rows:
        await members.set_state(rows, first, "removed")
    later = await put(town, host(number=70_000, state="active", zone="00b2"))
    assert (later.number, later.state, later.zone) == (65_538, "removed", "00b2")
    async with town.world.store.read() as rows:
        assert await rows.hosts.get("b2c3d4e5") == later
    assert (await told(town)).state == "removed"


async def test_a_removed_host_is_none_of_the_hosts_but_is_still_told_of(town: Town) -> None:
    first = await put(town, host())
    async with town.world.store.write() as rows:
        await members.set_state(rows, first, "removed")
    async with town.world.store.read() as rows:
        assert "b2c3d4e5" not in {one.id for one in await rows.hosts.all()}
        assert "fra" not in await rows.hosts.regions()
        assert await rows.hosts.count("fra") == 0
    assert (await told(town)).state == "removed"


async def test_a_host_that_takes_no_machines_is_not_waited_for(town: Town) -> None:
    first = await put(town, host())
    async with town.world.store.write() as rows:
        await members.set_state(rows, first, "cordoned")
    async with town.world.store.read() as rows:
        assert await rows.hosts.count("fra") == 0
        assert "fra" in await rows.hosts.regions()


async def test_members_of_a_newer_database_begin_an_epoch(town: Town) -> None:
    await put(town, host())
    publisher = Publisher(town.world.ctx, "lcl", town.world.stream)
    await publisher.publish_once()
    ahead = (await told(town)).model_copy(update={"revision": 10_000})
    watcher = Watcher(town.world.ctx, publisher.republish, Strays(town.world.ctx))
    await watcher.apply_batch([ahead])
    await publisher.publish_once()
    assert (await told(town)).epoch == ahead.epoch + 1
