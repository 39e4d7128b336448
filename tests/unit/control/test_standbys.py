"""Standbys start when the host of what they watch is gone: once, and only then."""

import pytest

from godwit.base import errors
from godwit.control import machine_actions, machines
from godwit.control.context import Context
from godwit.control.standbys import Standbys
from godwit.testing.control import World
from godwit.testing.hosts import SimulatedHost
from tests.unit.control.conftest import Town

GONE_S = 0.0


class Pair:
    """A machine on one host and its standby on another."""

    def __init__(self, town: Town, other: SimulatedHost, watched: str, standby: str) -> None:
        self.town = town
        self.host = town.world.host
        self.other = other
        self.watched = watched
        self.standby = standby
        self.world: World = town.world.options(host_gone_s=GONE_S)
        self.standbys = Standbys(self.ctx)

    @property
    def ctx(self) -> Context:
        return self.world.ctx

    def state(self) -> str:
        return self.other.machines[self.standby].state

    async def audited(self) -> list[tuple[str, str]]:
        async with self.ctx.store.read() as rows:
            found = await rows.audit.page(None, before="", limit=100)
        return [
            (row.target, row.detail["watched"])
            for row in found
            if row.action == "machines.standby"
        ]


@pytest.fixture
async def pair(town: Town) -> Pair:
    ctx = town.world.ctx
    new = machines.NewMachine({"image": "nginx"})
    watched = (await machines.create(ctx, town.acme, "shop", new)).view.machine_id
    other = SimulatedHost("b0000000", memory_mb=65_536)
    await town.world.add_host(other, 2)
    wanted = machines.NewMachine({"image": "nginx", "standbys": [watched]}, skip_launch=True)
    made = await machines.create(ctx, town.acme, "shop", wanted)
    assert made.view.host_id == other.host_id
    return Pair(town, other, watched, made.view.machine_id)


async def test_a_standby_rests_while_the_host_is_there(pair: Pair) -> None:
    await pair.standbys.sweep()
    assert pair.state() == "stopped"
    assert await pair.audited() == []


async def test_it_starts_when_the_host_is_gone_once_and_leaves_one_audit_row(pair: Pair) -> None:
    pair.host.away = True
    for _ in range(3):
        await pair.standbys.sweep()
    assert pair.state() == "started"
    assert await pair.audited() == [(pair.standby, pair.watched)]
    starts = [body for verb, body in pair.other.asked if verb == "machine.start"]
    assert starts == [{"machine_id": pair.standby}]


async def test_a_user_who_stops_it_is_not_overruled(pair: Pair) -> None:
    pair.host.away = True
    await pair.standbys.sweep()
    grace = machine_actions.Grace()
    await machine_actions.stop(pair.ctx, pair.town.acme, "shop", pair.standby, grace)
    await pair.standbys.sweep()
    assert pair.state() == "stopped"


async def test_a_host_that_came_back_and_goes_again_calls_again(pair: Pair) -> None:
    for _ in range(2):
        pair.host.away = True
        await pair.standbys.sweep()
        assert pair.state() == "started"
        pair.host.away = False
        await pair.standbys.sweep()
        grace = machine_actions.Grace()
        await machine_actions.stop(pair.ctx, pair.town.acme, "shop", pair.standby, grace)
    assert len(await pair.audited()) == 2


async def test_what_was_called_is_not_forgotten_when_control_ends_in_between(pair: Pair) -> None:
    pair.host.away = True
    original = pair.other.answer

    async def refuses_to_start(verb, body, who=None):
        if verb == "machine.start":
            raise errors.Failure("unavailable", "not now")
        return await original(verb, body, who)

    pair.other.answer = refuses_to_start  # type: ignore[method-assign]
    await pair.standbys.sweep()
    assert pair.state() == "stopped"
    assert len(await pair.audited()) == 1
    pair.other.answer = original  # type: ignore[method-assign]
    await Standbys(pair.ctx).sweep()
    assert pair.state() == "started"
    assert len(await pair.audited()) == 1


async def test_when_every_host_is_silent_nothing_starts(pair: Pair) -> None:
    world = pair.world.options(host_gone_s=60.0)
    pair.host.away = pair.other.away = True
    await Standbys(world.ctx).sweep()
    assert await pair.audited() == []


async def test_a_machine_at_rest_is_missed_by_nobody(pair: Pair) -> None:
    grace = machine_actions.Grace()
    await machine_actions.stop(pair.ctx, pair.town.acme, "shop", pair.watched, grace)
    await machines.get(pair.ctx, pair.town.acme, "shop", pair.watched)
    pair.host.away = True
    await pair.standbys.sweep()
    assert pair.state() == "stopped"


async def test_an_update_changes_what_it_stands_by_for(pair: Pair) -> None:
    new = machines.NewVersion({"image": "nginx"}, skip_launch=True)
    await machines.update(pair.ctx, pair.town.acme, "shop", pair.standby, new)
    pair.host.away = True
    await pair.standbys.sweep()
    assert pair.state() == "stopped"


async def test_nobody_stands_by_for_a_foreign_machine(pair: Pair) -> None:
    await pair.world.app("theirs", "rival")
    config = {"image": "nginx", "standbys": [pair.watched]}
    new = machines.NewMachine(config, skip_launch=True)
    theirs = await machines.create(pair.ctx, pair.town.rival, "theirs", new)
    pair.host.away = True
    await pair.standbys.sweep()
    assert pair.other.machines[theirs.view.machine_id].state == "stopped"
    assert await pair.audited() == [(pair.standby, pair.watched)]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"standbys": ["x"]}, "config.standbys[0]: must be ids of machines"),
        (
            {
                "standbys": ["0123456789abcd"],
                "services": [{"protocol": "tcp", "internal_port": 80}],
            },
            "config.standbys: a machine with services",
        ),
    ],
)
async def test_a_standby_that_makes_no_sense_is_refused(
    town: Town, config: dict, words: str
) -> None:
    new = machines.NewMachine({"image": "nginx", **config})
    with pytest.raises(errors.Failure, match="standbys") as caught:
        await machines.create(town.world.ctx, town.acme, "shop", new)
    assert caught.value.code == "invalid_argument"
    assert caught.value.message.startswith(words)
