"""A machine that a host should not have: not believed, and destroyed there."""

import copy

import pytest

from godwit.control import machine_actions, machines
from godwit.control.strays import Strays
from godwit.control.watcher import Watcher
from godwit.testing.hosts import SimulatedHost
from tests.unit.control.conftest import Town, listed

OTHER = "b1b2b3b4"


@pytest.fixture
async def other(town: Town) -> SimulatedHost:
    """Return a second host."""
    host = SimulatedHost(OTHER, stream=town.world.stream)
    await town.world.add_host(host, 2)
    return host


async def make(town: Town) -> str:
    new = machines.NewMachine(config={"image": "nginx"}, avoiding=frozenset({OTHER}))
    return (await machines.create(town.world.ctx, town.acme, "shop", new)).view.machine_id


async def told(town: Town, host: SimulatedHost, machine_id: str) -> Strays:
    """Have control hear what a host says of a machine."""
    strays = Strays(town.world.ctx)
    fact = host.fact(host.machines[machine_id])
    await Watcher(town.world.ctx, lambda: None, strays).apply_batch([fact])
    return strays


async def seen(town: Town) -> list[tuple[str, str, str]]:
    """Return the app's machines, each with its state and host, as control's books have them."""
    async with town.world.store.read() as rows:
        found = [await rows.placements.get(one.view.machine_id) for one in await listed(town)]
    return [(row.machine_id, row.state, row.host_id or "") for row in found if row is not None]


async def test_of_two_hosts_with_one_machine_the_second_destroys_its_own(
    town: Town, other: SimulatedHost
) -> None:
    machine_id = await make(town)
    first = town.world.host
    await told(town, first, machine_id)
    other.machines[machine_id] = copy.copy(first.machines[machine_id])
    strays = await told(town, other, machine_id)
    await strays.sweep()
    assert other.machines[machine_id].state == "destroyed"
    assert first.machines[machine_id].state == "started"
    assert await seen(town) == [(machine_id, "started", first.host_id)]


async def test_a_host_that_does_not_answer_is_told_again(town: Town, other: SimulatedHost) -> None:
    machine_id = await make(town)
    other.machines[machine_id] = copy.copy(town.world.host.machines[machine_id])
    strays = await told(town, other, machine_id)
    other.away = True
    await strays.sweep()
    other.away = False
    assert other.machines[machine_id].state == "started"
    await strays.sweep()
    assert other.machines[machine_id].state == "destroyed"
    other.asked.clear()
    await strays.sweep()
    assert not other.asked


async def test_a_destroyed_machine_that_a_host_has_again_is_destroyed_again(town: Town) -> None:
    machine_id = await make(town)
    host = town.world.host
    copied = copy.copy(host.machines[machine_id])
    await machine_actions.destroy(town.world.ctx, town.acme, "shop", machine_id, force=True)
    await told(town, host, machine_id)
    host.machines[machine_id] = copied
    # A host whose database was restored from a copy begins a new epoch.
    host.epoch += 1
    strays = await told(town, host, machine_id)
    assert await seen(town) == []
    await strays.sweep()
    assert host.machines[machine_id].state == "destroyed"


async def test_what_was_said_before_a_machine_was_destroyed_is_no_claim(town: Town) -> None:
    machine_id = await make(town)
    host = town.world.host
    before = host.fact(host.machines[machine_id])
    await machine_actions.destroy(town.world.ctx, town.acme, "shop", machine_id, force=True)
    await told(town, host, machine_id)
    strays = Strays(town.world.ctx)
    await Watcher(town.world.ctx, lambda: None, strays).apply_batch([before])
    host.asked.clear()
    await strays.sweep()
    assert not host.asked
