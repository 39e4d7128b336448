"""Hosts and regions as control knows them."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import regions
from godwit.control.context import Context
from godwit.control.records import Host
from godwit.wire import host_rpc


@dataclass(frozen=True)
class HostNow:
    """A host and whether it answers."""

    host: Host
    status: Literal["ok", "unreachable"]
    free_memory_mb: int | None


async def visible(ctx: Context, who: Principal) -> list[HostNow]:
    """Return every host and how it is; for the operator only, since tenants share hosts.

    Raises:
        Failure: `permission_denied`.
    """
    who.require("hosts:read")
    if who.org_ids is not None:
        raise errors.Failure("permission_denied", "only the operator sees hosts")
    async with ctx.store.read() as rows:
        known = await rows.hosts.all()
    free: dict[str, int] = {}
    regions = sorted({host.region for host in known})
    for bids in await asyncio.gather(*(_bids(ctx, region) for region in regions)):
        free |= {bid.host_id: bid.free_memory_mb for bid in bids}
    return list(await asyncio.gather(*(_now(ctx, who, host, free) for host in known)))


async def with_regions(ctx: Context) -> list[regions.Region]:
    """Return the regions that have hosts; no secret."""
    async with ctx.store.read() as rows:
        return [regions.describe(code) for code in await rows.hosts.regions()]


async def _bids(ctx: Context, region: str) -> list[host_rpc.Bid]:
    """Return the bids for the smallest machine: who bids is there."""
    nothing = host_rpc.BidRequest(
        org_id="", app_id="", resources=host_rpc.Resources(), image_digest=""
    )
    try:
        return await ctx.hosts.bids(region, nothing, 1.0)
    except errors.Failure:
        return []


async def _now(ctx: Context, who: Principal, host: Host, free: dict[str, int]) -> HostNow:
    if host.id in free:
        return HostNow(host, "ok", free[host.id])
    try:
        # A large region's bids end before every host was heard: ask this one.
        await ctx.hosts.call(host.id, "machine.list", {"app_id": ""}, who, 1.0)
    except errors.Failure as failure:
        if failure.code in ("unavailable", "deadline_exceeded"):
            return HostNow(host, "unreachable", None)
    return HostNow(host, "ok", None)
