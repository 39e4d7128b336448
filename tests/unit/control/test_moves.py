"""Machines that somebody wants elsewhere: made anew there, and destroyed once that one is well."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from godwit.base import errors, tasks
from godwit.control import hosts, machine_actions, machines, moves
from godwit.control.evacuation import Evacuation
from godwit.control.machines import NewMachine
from godwit.control.moves import Moves
from godwit.control.relocation import successor
from godwit.testing.control import OPERATOR
from godwit.testing.hosts import SimulatedHost
from tests.unit.control.conftest import Town

CONFIG: dict[str, Any] = {"image": "nginx", "metadata": {"color": "blue"}}
HOME, NEIGHBOR, ABROAD = "a1b2c3d4", "b2c3d4e5", "c3d4e5f6"


class Place:
    """A town with a machine, a second host beside the first, and one abroad."""

    def __init__(self, town: Town, machine_id: str, by_id: dict[str, SimulatedHost]) -> None:
        self.world = town.world
        self.ctx = town.world.ctx
        self.town = town
        self.machine_id = machine_id
        self.hosts = by_id
        self.moves = Moves(self.ctx)

    async def ask(self, region: str = "") -> None:
        await moves.ask(self.ctx, self.town.acme, "shop", self.machine_id, region)

    async def show(self) -> tuple[str, str | None, str]:
        now = await moves.show(self.ctx, self.town.acme, "shop", self.machine_id)
        return now.state, now.moved_to, now.problem

    def alive(self) -> dict[str, str]:
        """Return the hosts of machines that are not destroyed."""
        return {
            machine_id: host_id
            for host_id, host in self.hosts.items()
            for machine_id, one in host.machines.items()
            if one.state != "destroyed"
        }


@pytest.fixture
async def place(town: Town) -> Place:
    made = await machines.create(
        town.world.ctx, town.acme, "shop", NewMachine(config=CONFIG, cordoned=True)
    )
    neighbor = SimulatedHost(NEIGHBOR, stream=town.world.stream)
    abroad = SimulatedHost(ABROAD, region="ams", stream=town.world.stream)
    await town.world.add_host(neighbor, 65_538)
    await town.world.add_host(abroad, 65_539)
    by_id = {HOME: town.world.host, NEIGHBOR: neighbor, ABROAD: abroad}
    return Place(town, made.view.machine_id, by_id)


async def test_a_machine_moves_to_another_region_with_its_config(place: Place) -> None:
    new = successor(place.machine_id, 0)
    await place.ask("ams")
    assert await place.show() == ("wanted", None, "")
    await place.moves.sweep()
    assert await place.show() == ("moved", new, "")
    assert place.alive() == {new: ABROAD}
    seen = await machines.get(place.ctx, place.town.acme, "shop", new)
    assert (seen.view.region, seen.view.config, seen.view.state) == ("ams", CONFIG, "started")
    assert seen.view.cordoned


async def test_the_old_one_is_told_to_end_before_it_is_destroyed(place: Place) -> None:
    home = place.world.host
    home.asked.clear()
    await place.ask("ams")
    await place.moves.sweep()
    told = [verb for verb, body in home.asked if body.get("machine_id") == place.machine_id]
    ending = [
        verb for verb in told if verb in {"machine.drain", "machine.stop", "machine.destroy"}
    ]
    assert ending == ["machine.drain", "machine.stop", "machine.destroy"]


async def test_without_a_region_it_goes_to_another_host_of_its_own(place: Place) -> None:
    await place.ask()
    await place.moves.sweep()
    assert place.alive() == {successor(place.machine_id, 0): NEIGHBOR}


async def test_one_at_rest_is_at_rest_there(place: Place) -> None:
    grace = machine_actions.Grace(None, None)
    await machine_actions.stop(place.ctx, place.town.acme, "shop", place.machine_id, grace)
    await place.ask("ams")
    await place.moves.sweep()
    assert place.hosts[ABROAD].machines[successor(place.machine_id, 0)].state == "stopped"


async def test_what_keeps_it_is_told_and_it_is_tried_again(place: Place) -> None:
    place.hosts[NEIGHBOR].memory_mb = 1
    await place.ask()
    await place.moves.sweep()
    state, moved_to, problem = await place.show()
    assert (state, moved_to) == ("wanted", None)
    assert "has room" in problem
    assert place.alive() == {place.machine_id: HOME}
    place.hosts[NEIGHBOR].memory_mb = 8192
    for _ in range(3):
        await place.moves.sweep()
    assert (await place.show())[0] == "moved"


async def test_where_there_is_no_other_host_that_is_said(place: Place) -> None:
    await place.ask("ams")
    await place.moves.sweep()
    place.machine_id = successor(place.machine_id, 0)
    await place.ask()
    await place.moves.sweep()
    assert (await place.show())[2] == "no other host of region ams takes machines"


async def test_one_that_is_on_its_way_goes_nowhere_else(place: Place) -> None:
    await place.ask("ams")
    await place.ask("ams")
    with pytest.raises(errors.Failure, match="is on its way to ams") as raised:
        await place.ask("lcl")
    assert raised.value.code == "conflict"


async def test_a_region_without_hosts_is_refused(place: Place) -> None:
    with pytest.raises(errors.Failure, match="'syd' has no hosts"):
        await place.ask("syd")


@asynccontextmanager
async def held_back(place: Place) -> AsyncIterator[None]:
    """Sweep while the new machine cannot be seen to be well."""
    new, abroad = successor(place.machine_id, 0), place.hosts[ABROAD]
    await place.ask("ams")
    async with asyncio.timeout(60), tasks.Tasks("test") as owned:
        sweeping = owned.spawn(place.moves.sweep(), name="sweep")
        while new not in abroad.machines:
            await asyncio.sleep(0)
        abroad.machines[new].state = "starting"
        yield
        await sweeping


async def test_a_cancelled_one_stays_and_nothing_is_left_of_the_new_one(place: Place) -> None:
    async with held_back(place):
        await moves.cancel(place.ctx, place.town.acme, "shop", place.machine_id)
    assert place.alive() == {place.machine_id: HOME}
    assert (await place.show())[0] == "cancelled"
    await place.moves.sweep()
    assert place.alive() == {place.machine_id: HOME}
    await place.ask("ams")
    await place.moves.sweep()
    assert place.alive() == {successor(place.machine_id, 1): ABROAD}


async def test_one_that_has_left_cannot_be_called_back(place: Place) -> None:
    await place.ask("ams")
    await place.moves.sweep()
    with pytest.raises(errors.Failure, match=r"has left: machine [0-9a-f]{14} takes its place"):
        await moves.cancel(place.ctx, place.town.acme, "shop", place.machine_id)


async def test_one_that_was_destroyed_meanwhile_leaves_nothing(place: Place) -> None:
    async with held_back(place):
        await machine_actions.destroy(
            place.ctx, place.town.acme, "shop", place.machine_id, force=True
        )
        place.hosts[ABROAD].machines[successor(place.machine_id, 0)].state = "started"
    await place.moves.sweep()
    assert (await place.show())[0] in {"cancelled", "moved"}


async def test_a_control_that_died_on_the_way_is_followed_by_another(place: Place) -> None:
    """It ended between the last word and the end of the old machine."""
    ask = place.world.hosts.call

    async def dies(host_id: str, verb: str, *rest: Any) -> Any:
        if verb == "machine.drain":
            raise RuntimeError("killed")
        return await ask(host_id, verb, *rest)

    await place.ask("ams")
    place.world.hosts.call = dies  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="killed"):
        await place.moves.sweep()
    place.world.hosts.call = ask  # type: ignore[method-assign]
    new = successor(place.machine_id, 0)
    assert await place.show() == ("leaving", new, "")
    with pytest.raises(errors.Failure, match="has left"):
        await moves.cancel(place.ctx, place.town.acme, "shop", place.machine_id)
    await Moves(place.ctx).sweep()
    assert place.alive() == {new: ABROAD}
    assert await place.show() == ("moved", new, "")


async def test_of_two_replicas_at_once_none_takes_the_new_one_away(place: Place) -> None:
    await place.ask("ams")
    other = Moves(place.ctx)
    await asyncio.gather(place.moves.sweep(), other.sweep())
    assert place.alive() == {successor(place.machine_id, 0): ABROAD}
    assert (await place.show())[0] == "moved"


async def test_a_replica_that_comes_second_to_the_last_word_leaves_the_new_one(
    place: Place,
) -> None:
    """It has read that the machine is wanted, and meanwhile the other one carries the move out."""
    await place.ask("ams")
    ask = place.world.hosts.call
    new = successor(place.machine_id, 0)
    overtaken = False

    async def late(host_id: str, verb: str, *rest: Any) -> Any:
        nonlocal overtaken
        answer = await ask(host_id, verb, *rest)
        if not overtaken and (host_id, verb) == (ABROAD, "machine.reserve"):
            overtaken = True
            await Moves(place.ctx).sweep()
        return answer

    place.world.hosts.call = late  # type: ignore[method-assign]
    await place.moves.sweep()
    assert overtaken
    assert place.alive() == {new: ABROAD}
    assert await place.show() == ("moved", new, "")


async def test_one_whose_host_is_being_drained_is_left_to_that(place: Place) -> None:
    await hosts.drain(place.ctx, OPERATOR, HOME)
    with pytest.raises(errors.Failure, match="is being drained") as raised:
        await place.ask("ams")
    assert raised.value.code == "conflict"


async def test_draining_leaves_a_machine_that_is_on_its_way_alone(place: Place) -> None:
    await place.ask("ams")
    await hosts.drain(place.ctx, OPERATOR, HOME)
    await Evacuation(place.ctx).sweep()
    assert place.alive() == {place.machine_id: HOME}
    await place.moves.sweep()
    assert place.alive() == {successor(place.machine_id, 0): ABROAD}


async def test_of_two_replicas_that_empty_a_host_none_takes_the_new_one_away(
    place: Place,
) -> None:
    await hosts.drain(place.ctx, OPERATOR, HOME)
    await asyncio.gather(Evacuation(place.ctx).sweep(), Evacuation(place.ctx).sweep())
    assert list(place.alive().values()) == [NEIGHBOR]
    await Evacuation(place.ctx).sweep()
    assert list(place.alive().values()) == [NEIGHBOR]


async def test_a_replica_overtaken_while_it_empties_a_host_leaves_the_new_one(
    place: Place,
) -> None:
    """Whatever it had asked of the new host, the other one does all that is left meanwhile."""
    await hosts.drain(place.ctx, OPERATOR, HOME)
    ask = place.world.hosts.call
    asked: list[tuple[str, str]] = []

    async def late(host_id: str, verb: str, *rest: Any) -> Any:
        answer = await ask(host_id, verb, *rest)
        asked.append((host_id, verb))
        if asked.count((host_id, verb)) == 1 and host_id == NEIGHBOR:
            await Evacuation(place.ctx).sweep()
        return answer

    place.world.hosts.call = late  # type: ignore[method-assign]
    await Evacuation(place.ctx).sweep()
    assert (NEIGHBOR, "machine.reserve") in asked
    assert list(place.alive().values()) == [NEIGHBOR]
