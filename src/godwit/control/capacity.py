"""Where machines would go: a dry run of placement, from the hosts' bids. Nothing is reserved."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import guest_sizes, machine_config, organizations, placement
from godwit.control import regions as places
from godwit.control.context import Context
from godwit.wire import host_rpc

MOST = 1_000
DEFAULT_REGION = "[nearest],any"
DEFAULT_GUEST: dict[str, Any] = {"cpu_kind": "performance", "cpus": 1, "memory_mb": 2048}


@dataclass(frozen=True)
class Wanted:
    """Which machines, and what counts.

    Attributes:
        region: An expression; the order in it is the preference.
        count: 0 means as many as fit.
        region_weight: How much being earlier in the expression counts.
        spread_weight: How much having got fewer machines counts.
    """

    org_slug: str
    region: str = DEFAULT_REGION
    count: int = 0
    guest: dict[str, Any] = field(default_factory=lambda: dict(DEFAULT_GUEST))
    region_weight: int = 50
    spread_weight: int = 1


@dataclass(frozen=True)
class RegionShare:
    """What a region would get.

    Attributes:
        hosts: How many of its hosts would take one right now.
    """

    region: str
    count: int
    hosts: int


@dataclass(frozen=True)
class _Room:
    region: str
    machines: int
    hosts: int


async def shares(ctx: Context, who: Principal, wanted: Wanted) -> list[RegionShare]:
    """Return how many machines each region would get, by preference.

    Raises:
        Failure: `insufficient_capacity` when they do not all fit.
    """
    async with ctx.store.read() as rows:
        org = await organizations.require(rows, who, "machines:read", wanted.org_slug)
        present = await rows.hosts.regions()
    parsed = machine_config.parse({"image": "any", "guest": wanted.guest})
    resources = guest_sizes.resources(parsed)
    regions = places.choose(wanted.region, present, ctx.options.region)
    request = host_rpc.BidRequest(org_id=org.id, app_id="", resources=resources, image_digest="")
    rooms = await asyncio.gather(*(_room(ctx, region, request) for region in regions))
    if not wanted.count:
        return [RegionShare(room.region, min(room.machines, MOST), room.hosts) for room in rooms]
    return _shared_out(list(rooms), wanted)


async def _room(ctx: Context, region: str, request: host_rpc.BidRequest) -> _Room:
    try:
        taking = await placement.taking_machines(ctx, region)
        bids = await ctx.hosts.bids(region, request, ctx.options.bid_s)
    except errors.Failure:
        bids, taking = [], frozenset()
    fitting = [bid for bid in bids if bid.fits and bid.host_id in taking]
    each = max(request.resources.memory_mb, 1)
    return _Room(region, sum(bid.free_memory_mb // each for bid in fitting), len(fitting))


def _shared_out(rooms: list[_Room], wanted: Wanted) -> list[RegionShare]:
    given = dict.fromkeys((room.region for room in rooms), 0)
    for number in range(wanted.count):
        free = [(at, room) for at, room in enumerate(rooms) if given[room.region] < room.machines]
        if not free:
            raise errors.Failure(
                "insufficient_capacity",
                f"{number} of {wanted.count} machines fit in {', '.join(given)}",
                hint="ask for fewer, for smaller ones, or for more regions",
            )
        _, best = min(free, key=lambda one: _cost(one[0], given[one[1].region], wanted))
        given[best.region] += 1
    return [RegionShare(room.region, given[room.region], room.hosts) for room in rooms]


def _cost(place: int, given: int, wanted: Wanted) -> tuple[int, int]:
    return wanted.region_weight * place + wanted.spread_weight * given, place
