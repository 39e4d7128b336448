"""Usage intervals of an organization, read from the hosts that keep them."""

import asyncio
from dataclasses import dataclass

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import machines, organizations
from godwit.control.context import Context
from godwit.wire import host_rpc

_MOST = 1_000


@dataclass(frozen=True)
class Report:
    """Intervals, and the hosts that could not be asked."""

    intervals: list[host_rpc.UsageInterval]
    silent_hosts: list[str]


async def report(
    ctx: Context, who: Principal, org_slug: str, *, host_id: str | None, after: int, limit: int
) -> Report:
    """Return an organization's usage intervals, per host after an interval's number.

    Args:
        ctx: Control's ports.
        who: Who asks.
        org_slug: Whose usage.
        host_id: One host only; numbers are each host's own.
        after: Number of the last interval already known from that host.
        limit: At most so many of each host.
    """
    async with ctx.store.read() as rows:
        org = await organizations.require(rows, who, "orgs:read", org_slug)
        host_ids = sorted(await rows.placements.hosts_of_org(org.id))
    if host_id is not None:
        host_ids = [known for known in host_ids if known == host_id]
    asked = {"org_id": org.id, "after": after, "limit": min(limit, _MOST)}
    answers = await asyncio.gather(*(_read(ctx, who, one, asked) for one in host_ids))
    found = [interval for answer in answers for interval in answer or ()]
    silent = [one for one, answer in zip(host_ids, answers, strict=True) if answer is None]
    return Report([one for one in found if one.org_id == org.id], silent)


async def _read(
    ctx: Context, who: Principal, host_id: str, asked: dict[str, object]
) -> list[host_rpc.UsageInterval] | None:
    try:
        body = await ctx.hosts.call(host_id, "usage.read", asked, who, ctx.options.ask_s)
    except errors.Failure as failure:
        if failure.code in machines.SILENT:
            return None
        raise
    return [host_rpc.UsageInterval.model_validate(one) for one in body.get("intervals", ())]
