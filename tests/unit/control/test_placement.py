"""Bids: a region that is silent for a moment is asked again, one that stays silent is not."""

import dataclasses

import pytest

from godwit.base import errors
from godwit.control import machines, placement
from godwit.control.context import Context
from godwit.testing.control import World
from godwit.testing.hosts import SimulatedHost
from godwit.wire import host_rpc
from tests.unit.control.conftest import Town

REQUEST = host_rpc.BidRequest(
    org_id="o", app_id="a", resources=host_rpc.Resources(), image_digest="sha256:0"
)
BID = host_rpc.Bid(host_id="a1b2c3d4", region="lcl", zone="0", fits=True)


class Silent:
    """Hosts of which none bids before the third time; the bus is away the first time."""

    def __init__(self, silent: int) -> None:
        self.asked, self._silent = 0, silent

    async def bids(
        self, region: str, request: host_rpc.BidRequest, wait_s: float = 1.0, *, hosts: int = 8
    ):
        self.asked += 1
        if self.asked == 1:
            raise errors.Failure("unavailable", "the bus is away")
        return [] if self.asked <= self._silent else [BID]


def asking(around: World, hosts: Silent, silence_s: float) -> Context:
    options = dataclasses.replace(around.ctx.options, silence_s=silence_s)
    return dataclasses.replace(around.ctx, hosts=hosts, options=options)


async def test_a_region_silent_for_a_moment_is_asked_again(around) -> None:
    hosts = Silent(2)
    assert await placement._bids(asking(around, hosts, 10.0), "lcl", REQUEST, frozenset()) == [BID]
    assert hosts.asked == 3


async def test_a_region_that_stays_silent_has_no_bids(around) -> None:
    assert (
        await placement._bids(asking(around, Silent(10**6), 0.3), "lcl", REQUEST, frozenset())
        == []
    )


async def test_a_bus_that_stays_away_is_told(around) -> None:
    with pytest.raises(errors.Failure, match="bus is away"):
        await placement._bids(asking(around, Silent(10**6), 0.0), "lcl", REQUEST, frozenset())


async def test_an_app_is_spread_over_zones_before_it_is_over_hosts(town: Town) -> None:
    more = {"memory_mb": 64_000, "stream": town.world.stream}
    await town.world.add_host(SimulatedHost("b1b2b3b4", zone="0000", **more), 2)
    await town.world.add_host(SimulatedHost("c1c2c3c4", zone="00b1", memory_mb=32_000), 3)
    for _ in range(4):
        new = machines.NewMachine(config={"image": "nginx"})
        await machines.create(town.world.ctx, town.acme, "shop", new)
    counts = {one: len(host.machines) for one, host in town.world.hosts.by_id.items()}
    assert counts["c1c2c3c4"] == 2
    assert counts["a1b2c3d4"] + counts["b1b2b3b4"] == 2
