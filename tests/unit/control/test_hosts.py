"""What the operator does with hosts, and what follows for machines."""

import asyncio
from dataclasses import replace
from typing import Any, Literal

import pytest

from godwit.base import errors
from godwit.control import hosts, machines, members, relocation
from godwit.control.evacuation import Evacuation
from godwit.control.host_requests import HostRequests
from godwit.control.machines import NewMachine
from godwit.control.publisher import Publisher
from godwit.control.records import Placement
from godwit.control.strays import Strays
from godwit.control.watcher import Watcher
from godwit.testing.control import OPERATOR, World
from godwit.testing.hosts import SimulatedHost
from godwit.wire import facts, host_rpc
from tests.unit.control.conftest import Town

OTHER = "b2c3d4e5"
CONFIG: dict[str, Any] = {"image": "nginx"}


async def second_host(world: World, **changes: Any) -> SimulatedHost:
    host = SimulatedHost(OTHER, stream=world.stream, **changes)
    await world.add_host(host, 65_538)
    return host


async def make(town: Town, **changes: Any) -> machines.Machine:
    wanted = NewMachine(config=CONFIG, **changes)
    return await machines.create(town.world.ctx, town.acme, "shop", wanted)


async def placements(world: World) -> list[Placement]:
    """Return the living, once all that hosts told has been heard."""
    told = [one for one in world.stream.published if isinstance(one, facts.MachineFact)]
    await Watcher(world.ctx, lambda: None, Strays(world.ctx)).apply_batch([*told])
    async with world.store.read() as rows:
        return await rows.placements.alive("", 100)


async def state_told(world: World, host_id: str) -> str:
    await Publisher(world.ctx, "lcl", world.stream).publish_once()
    fact = world.stream.newest[f"facts.lcl.member.control.{host_id}"]
    assert isinstance(fact, facts.MemberFact)
    return fact.state


async def audited(world: World, action: str) -> list[str]:
    async with world.store.read() as rows:
        page = await rows.audit.page(None, before="", limit=100)
    return [row.target for row in page if row.action == action]


async def test_a_cordoned_host_gets_no_new_machines_and_keeps_its_own(town: Town) -> None:
    world = town.world
    kept = await make(town)
    await second_host(world)
    await hosts.cordon(world.ctx, OPERATOR, "a1b2c3d4")
    assert (await make(town)).view.host_id == OTHER
    assert kept.view.machine_id in {row.machine_id for row in await placements(world)}
    assert await state_told(world, "a1b2c3d4") == "cordoned"
    await hosts.uncordon(world.ctx, OPERATOR, "a1b2c3d4")
    await hosts.cordon(world.ctx, OPERATOR, OTHER)
    assert (await make(town)).view.host_id == "a1b2c3d4"
    assert await audited(world, "hosts.cordon") == [OTHER, "a1b2c3d4"]


async def test_where_all_hosts_are_cordoned_that_is_said(town: Town) -> None:
    await hosts.cordon(town.world.ctx, OPERATOR, "a1b2c3d4")
    with pytest.raises(errors.Failure, match="every host of region lcl is cordoned"):
        await make(town)


async def test_a_draining_host_s_machines_go_elsewhere_with_their_config(town: Town) -> None:
    world = town.world
    running = await make(town)
    resting = await make(town, skip_launch=True)
    await second_host(world)
    await hosts.drain(world.ctx, OPERATOR, "a1b2c3d4")
    await Evacuation(world.ctx).sweep()
    left = await placements(world)
    assert {row.host_id for row in left} == {OTHER}
    assert {row.machine_id for row in left} == {
        relocation.successor(one.view.machine_id, 0) for one in (running, resting)
    }
    for old in (running, resting):
        new = await machines.get(
            world.ctx, town.acme, "shop", relocation.successor(old.view.machine_id, 0)
        )
        assert new.view.config == CONFIG
        assert (new.view.state == "started") == (old is running)
    assert set(await audited(world, "machines.move")) == {
        running.view.machine_id,
        resting.view.machine_id,
    }
    await Evacuation(world.ctx).sweep()
    assert {row.machine_id for row in await placements(world)} == {row.machine_id for row in left}


async def test_a_machine_that_fits_nowhere_stays_until_it_does(town: Town) -> None:
    world = town.world
    made = await make(town)
    small = await second_host(world, memory_mb=1)
    await hosts.drain(world.ctx, OPERATOR, "a1b2c3d4")
    await Evacuation(world.ctx).sweep()
    assert made.view.machine_id in {row.machine_id for row in await placements(world)}
    small.memory_mb = 8192
    for _ in range(3):
        await Evacuation(world.ctx).sweep()
    assert {row.host_id for row in await placements(world) if row.status == "accepted"} == {OTHER}


async def test_nothing_is_moved_from_a_host_that_does_not_answer(town: Town) -> None:
    world = town.world
    await make(town)
    await second_host(world)
    await hosts.drain(world.ctx, OPERATOR, "a1b2c3d4")
    world.host.away = True
    await Evacuation(world.ctx).sweep()
    assert [row.host_id for row in await placements(world)] == ["a1b2c3d4"]


def said(status: Literal["passing", "critical"]) -> tuple[host_rpc.CheckStatus, ...]:
    return (host_rpc.CheckStatus(name="up", status=status, output="", updated_at=""),)


async def test_a_machine_is_kept_until_the_checks_of_the_new_one_pass(town: Town) -> None:
    world = town.world
    checked = {"checks": {"up": {"type": "tcp", "port": 80}}}
    wanted = NewMachine(config=CONFIG | checked)
    old = (await machines.create(world.ctx, town.acme, "shop", wanted)).view.machine_id
    world.host.machines[old].checks = said("passing")
    other = await second_host(world)
    await hosts.drain(world.ctx, OPERATOR, "a1b2c3d4")
    new = relocation.successor(old, 0)

    async def seen(times: int) -> None:
        for status in ("critical", "passing"):
            looks = len(other.asked) + times
            while new not in other.machines or len(other.asked) < looks:
                await asyncio.sleep(0)
            assert world.host.machines[old].state == "started"
            other.machines[new].checks = said(status)

    async with asyncio.timeout(60):
        await asyncio.gather(Evacuation(world.ctx).sweep(), seen(2))
    assert world.host.machines[old].state == "destroyed"
    assert other.machines[new].state == "started"


async def test_a_machine_whose_checks_fail_is_moved_all_the_same(town: Town) -> None:
    """Waiting for what the old one does not do either would keep the host for ever."""
    world = town.world
    checked = {"checks": {"up": {"type": "tcp", "port": 80}}}
    wanted = NewMachine(config=CONFIG | checked)
    old = (await machines.create(world.ctx, town.acme, "shop", wanted)).view.machine_id
    world.host.machines[old].checks = said("critical")
    await second_host(world)
    await hosts.drain(world.ctx, OPERATOR, "a1b2c3d4")
    await Evacuation(world.ctx).sweep()
    assert world.host.machines[old].state == "destroyed"


async def test_what_stands_by_for_a_machine_does_so_for_the_one_in_its_place(town: Town) -> None:
    world = town.world
    old = (await make(town)).view.machine_id
    other = await second_host(world, memory_mb=65_536)
    watching = CONFIG | {"standbys": [old]}
    wanted = NewMachine(config=watching, skip_launch=True)
    standby = (await machines.create(world.ctx, town.acme, "shop", wanted)).view.machine_id
    assert standby in other.machines
    await hosts.drain(world.ctx, OPERATOR, "a1b2c3d4")
    await Evacuation(world.ctx).sweep()
    new = relocation.successor(old, 0)
    assert other.machines[standby].config["standbys"] == [new]
    assert other.machines[standby].state == "stopped"
    async with world.store.read() as rows:
        assert await rows.standbys.watching(new) == [standby]
        assert await rows.standbys.watching(old) == []


async def test_draining_ends_with_uncordon(town: Town) -> None:
    world = town.world
    made = await make(town)
    await second_host(world)
    await hosts.drain(world.ctx, OPERATOR, "a1b2c3d4")
    await hosts.uncordon(world.ctx, OPERATOR, "a1b2c3d4")
    await Evacuation(world.ctx).sweep()
    assert [row.machine_id for row in await placements(world)] == [made.view.machine_id]


async def test_a_removed_host_s_machines_are_lost_and_nothing_brings_them_back(
    town: Town,
) -> None:
    world = town.world
    made = await make(town)
    with pytest.raises(errors.Failure, match="has 1 machines"):
        await hosts.remove(world.ctx, OPERATOR, "a1b2c3d4", force=False)
    removed = await hosts.remove(world.ctx, OPERATOR, "a1b2c3d4", force=True)
    assert [row.machine_id for row in removed.lost] == [made.view.machine_id]
    assert await placements(world) == []
    assert await audited(world, "machines.lost") == [made.view.machine_id]
    assert await state_told(world, "a1b2c3d4") == "removed"
    said = [one for one in world.stream.published if isinstance(one, facts.MachineFact)]
    later = said[-1].model_copy(update={"revision": 10_000, "state": "started"})
    stranger = later.model_copy(update={"machine_id": "0" * 14, "name": "back"})
    await Watcher(world.ctx, lambda: None, Strays(world.ctx)).apply_batch([later, stranger])
    assert await placements(world) == []
    async with world.store.read() as rows:
        assert await rows.placements.get("0" * 14) is None


async def test_a_removed_host_gets_no_tokens_or_secrets_any_more(town: Town) -> None:
    world = town.world
    made = await make(town)
    await hosts.remove(world.ctx, OPERATOR, "a1b2c3d4", force=True)
    asked = {"machine_id": made.view.machine_id, "reference": "nginx"}
    requests = HostRequests(world.ctx)
    for ask in (requests.pull_token, requests.secrets):
        with pytest.raises(errors.Failure, match="was removed"):
            await ask("a1b2c3d4", asked)


async def test_a_removed_host_stays_removed(town: Town) -> None:
    world = town.world
    await hosts.remove(world.ctx, OPERATOR, "a1b2c3d4", force=False)
    assert (await hosts.remove(world.ctx, OPERATOR, "a1b2c3d4", force=False)).lost == []
    for act in (hosts.cordon, hosts.uncordon, hosts.drain):
        with pytest.raises(errors.Failure, match="was removed"):
            await act(world.ctx, OPERATOR, "a1b2c3d4")
    assert await hosts.visible(world.ctx, OPERATOR) == []
    assert (await hosts.show(world.ctx, OPERATOR, "a1b2c3d4")).host.state == "removed"


async def test_the_host_with_control_is_not_removed(town: Town) -> None:
    world = town.world
    async with world.store.write() as rows:
        host = await rows.hosts.get("a1b2c3d4")
        assert host is not None
        await members.put(rows, replace(host, roles=["control", "agent"]))
    with pytest.raises(errors.Failure, match="runs control"):
        await hosts.remove(world.ctx, OPERATOR, "a1b2c3d4", force=True)


async def test_hosts_are_the_operator_s(town: Town) -> None:
    ctx = town.world.ctx
    for refused in (
        hosts.show(ctx, town.acme, "a1b2c3d4"),
        hosts.cordon(ctx, town.acme, "a1b2c3d4"),
        hosts.remove(ctx, town.acme, "a1b2c3d4", force=True),
    ):
        with pytest.raises(errors.Failure, match="operator"):
            await refused
    with pytest.raises(errors.Failure, match="no host"):
        await hosts.show(ctx, OPERATOR, "ffffffff")
