"""Hosts and regions as control knows them, and what the operator does with a host.

    active ◄──uncordon── cordoned     takes no new machines
      └────────drain────► draining    takes none, and `control.evacuation` moves those it has
    any ──────remove────► removed     has no rights any more, for ever; what it still had is lost

Every change is a member fact: buses, meshes and edges act on it within seconds.
"""

import asyncio
from dataclasses import dataclass
from typing import Literal

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import audit, members, regions
from godwit.control.context import Context
from godwit.control.records import Host, Placement
from godwit.control.rows import Rows
from godwit.wire import host_rpc
from godwit.wire.facts import MemberState

_BATCH = 200


@dataclass(frozen=True)
class HostNow:
    """A host and whether it answers.

    Attributes:
        machines: How many living ones it has.
    """

    host: Host
    status: Literal["ok", "unreachable"]
    free_memory_mb: int | None
    machines: int = 0


@dataclass(frozen=True)
class Removed:
    """What became of a host's machines when it was removed."""

    host: Host
    lost: list[Placement]


async def visible(ctx: Context, who: Principal) -> list[HostNow]:
    """Return every host and how it is; for the operator only, since tenants share hosts.

    Raises:
        Failure: `permission_denied`.
    """
    _require_operator(who, "hosts:read")
    async with ctx.store.read() as rows:
        known = await rows.hosts.all()
        machines = await rows.placements.counts_on_hosts()
    free: dict[str, int] = {}
    present = sorted({host.region for host in known})
    for bids in await asyncio.gather(*(_bids(ctx, region) for region in present)):
        free |= {bid.host_id: bid.free_memory_mb for bid in bids}
    return list(
        await asyncio.gather(
            *(_now(ctx, who, host, free, machines.get(host.id, 0)) for host in known)
        )
    )


async def show(ctx: Context, who: Principal, host_id: str) -> HostNow:
    """Return one host, a removed one too.

    Raises:
        Failure: `permission_denied`, `not_found`.
    """
    _require_operator(who, "hosts:read")
    async with ctx.store.read() as rows:
        host = await _require(rows, host_id)
        machines = (await rows.placements.counts_on_hosts()).get(host_id, 0)
    if host.state == "removed":
        return HostNow(host, "unreachable", None, machines)
    free = {bid.host_id: bid.free_memory_mb for bid in await _bids(ctx, host.region)}
    return await _now(ctx, who, host, free, machines)


async def cordon(ctx: Context, who: Principal, host_id: str) -> Host:
    """Have a host take no new machines; those it has stay.

    Raises:
        Failure: `permission_denied`, `not_found`, `failed_precondition` when it was removed.
    """
    return await _set(ctx, who, host_id, "cordoned", "hosts.cordon")


async def uncordon(ctx: Context, who: Principal, host_id: str) -> Host:
    """Have a host take machines again; one that is being drained keeps what it still has.

    Raises:
        Failure: As `cordon`.
    """
    return await _set(ctx, who, host_id, "active", "hosts.uncordon")


async def drain(ctx: Context, who: Principal, host_id: str) -> Host:
    """Have a host take no new machines, and those it has moved to others, one after another.

    Raises:
        Failure: As `cordon`.
    """
    return await _set(ctx, who, host_id, "draining", "hosts.drain")


async def remove(ctx: Context, who: Principal, host_id: str, *, force: bool) -> Removed:
    """Take every right from a host, for ever; with `force` also while it has machines.

    Those are lost: they are destroyed for control and for everybody who routes to them, and the
    host's agent stops them when it learns of its removal.

    Raises:
        Failure: `permission_denied`, `not_found`, `failed_precondition` when it has machines and
            `force` is not set, or is where control runs.
    """
    _require_operator(who, "hosts:write")
    async with ctx.store.write() as rows:
        host = await _require(rows, host_id)
        if "control" in host.roles:
            raise errors.Failure(
                "failed_precondition", f"host {host_id} runs control: it cannot be removed"
            )
        lost = await _living(rows, host_id)
        if lost and not force:
            raise errors.Failure(
                "failed_precondition",
                f"host {host_id} has {len(lost)} machines",
                hint=f"`godwit host drain {host_id}` moves them; --force gives them up for lost",
            )
        if host.state != "removed":
            host = await members.set_state(rows, host, "removed")
            await audit.record(
                rows, ctx.clock, who, "hosts.remove", host_id, org_id=None, lost=len(lost)
            )
        for row in lost:
            await _lose(ctx, rows, who, row)
    ctx.facts_wanted.set()
    return Removed(host, lost)


async def with_regions(ctx: Context) -> list[regions.Region]:
    """Return the regions that have hosts; no secret."""
    async with ctx.store.read() as rows:
        return [regions.describe(code) for code in await rows.hosts.regions()]


async def _living(rows: Rows, host_id: str) -> list[Placement]:
    found: list[Placement] = []
    while True:
        after = found[-1].machine_id if found else ""
        page = await rows.placements.on_host(host_id, after, _BATCH)
        found += page
        if len(page) < _BATCH:
            return found


async def _lose(ctx: Context, rows: Rows, who: Principal, row: Placement) -> None:
    await rows.placements.mark_destroyed(row.machine_id, ctx.clock.now_ms())
    await audit.record(
        rows,
        ctx.clock,
        who,
        "machines.lost",
        row.machine_id,
        org_id=row.org_id,
        name=row.name,
        host=row.host_id,
    )


async def _set(
    ctx: Context, who: Principal, host_id: str, state: MemberState, action: str
) -> Host:
    _require_operator(who, "hosts:write")
    async with ctx.store.write() as rows:
        host = await _require(rows, host_id)
        if host.state == "removed":
            raise errors.Failure(
                "failed_precondition",
                f"host {host_id} was removed",
                hint="its server may join again, with an empty data directory and a new token",
            )
        if host.state != state:
            host = await members.set_state(rows, host, state)
        await audit.record(rows, ctx.clock, who, action, host_id, org_id=None)
    ctx.facts_wanted.set()
    return host


async def _require(rows: Rows, host_id: str) -> Host:
    host = await rows.hosts.get(host_id)
    if host is None:
        raise errors.not_found(
            f"there is no host {host_id!r}", hint="list them with `godwit host list`"
        )
    return host


def _require_operator(who: Principal, scope: Literal["hosts:read", "hosts:write"]) -> None:
    who.require(scope)
    if who.org_ids is not None:
        raise errors.Failure("permission_denied", "only the operator sees hosts")


async def _bids(ctx: Context, region: str) -> list[host_rpc.Bid]:
    """Return the bids for the smallest machine: who bids is there."""
    nothing = host_rpc.BidRequest(
        org_id="", app_id="", resources=host_rpc.Resources(), image_digest=""
    )
    try:
        return await ctx.hosts.bids(region, nothing, 1.0)
    except errors.Failure:
        return []


async def _now(
    ctx: Context, who: Principal, host: Host, free: dict[str, int], machines: int
) -> HostNow:
    if host.id in free:
        return HostNow(host, "ok", free[host.id], machines)
    try:
        # A large region's bids end before every host was heard: ask this one.
        await ctx.hosts.call(host.id, "machine.list", {"app_id": ""}, who, 1.0)
    except errors.Failure as failure:
        if failure.code in ("unavailable", "deadline_exceeded"):
            return HostNow(host, "unreachable", None, machines)
    return HostNow(host, "ok", None, machines)
