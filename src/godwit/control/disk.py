"""How much of the disks an organization takes, and where that ends: at a push or a build.

In the registry every byte of an organization's repositories counts, uploads that no image names
included. On hosts it is read from them for people to see; what a machine may take there is
bounded by its own config.
"""

import asyncio
from dataclasses import dataclass

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import organizations
from godwit.control.context import Context
from godwit.control.records import Organization
from godwit.wire import host_images

_PAGE = 500
_FULL = 0.95


@dataclass(frozen=True)
class DiskUsage:
    """What an organization takes.

    Attributes:
        image_bytes: On hosts; an image on two hosts counts twice.
        silent_hosts: Hosts that could not be asked.
    """

    registry_bytes: int
    registry_limit_bytes: int
    image_bytes: int
    machine_bytes: int
    silent_hosts: tuple[str, ...]


async def usage(ctx: Context, who: Principal, org_slug: str) -> tuple[Organization, DiskUsage]:
    """Return an organization and what it takes of registry and hosts.

    Raises:
        Failure: `not_found`, `permission_denied`.
    """
    async with ctx.store.read() as rows:
        org = await organizations.require(rows, who, "orgs:read", org_slug)
        hosts = sorted(await rows.placements.hosts_of_org(org.id))
    answers = await asyncio.gather(*(_on_host(ctx, who, host_id, org.id) for host_id in hosts))
    told = [answer for answer in answers if answer is not None]
    return org, DiskUsage(
        registry_bytes=await in_registry(ctx, org.id),
        registry_limit_bytes=ctx.options.org_disk_bytes,
        image_bytes=sum(one.image_bytes for one in told),
        machine_bytes=sum(one.machine_bytes for one in told),
        silent_hosts=tuple(
            host_id for host_id, answer in zip(hosts, answers, strict=True) if answer is None
        ),
    )


async def in_registry(ctx: Context, org_id: str) -> int:
    """Return how many bytes an organization's repositories take."""
    names: list[str] = []
    while True:
        async with ctx.store.read() as rows:
            after = names[-1] if names else ""
            page = await rows.apps.page(org_id, role=None, after=after, limit=_PAGE)
        names += [app.name for app in page]
        if len(page) < _PAGE:
            return await ctx.warehouse.taken(names)


async def room_to_push(ctx: Context, org_id: str) -> int:
    """Return how many bytes an organization may still push.

    Raises:
        Failure: `insufficient_capacity` when there is no room, its own or the registry's.
    """
    space = ctx.warehouse.space()
    if space.used >= _FULL:
        raise errors.Failure(
            "insufficient_capacity",
            f"the registry's disk is {space.used:.0%} full: nothing is pushed until it has room",
            hint="the operator adds disk, or lets go of images (`godwit images prune`)",
        )
    limit, taken = ctx.options.org_disk_bytes, await in_registry(ctx, org_id)
    if taken >= limit:
        raise errors.Failure(
            "insufficient_capacity",
            f"the organization has {_mb(taken)} MB in the registry and may have {_mb(limit)} MB",
            hint="images that no release needs go within hours; destroy apps that are not"
            " needed, or ask the operator for more (setting keep.org_disk_mb)",
        )
    return limit - taken


async def _on_host(
    ctx: Context, who: Principal, host_id: str, org_id: str
) -> host_images.DiskUsage | None:
    try:
        body = await ctx.hosts.call(
            host_id, "disk.usage", {"org_id": org_id}, who, ctx.options.ask_s
        )
    except errors.Failure as failure:
        if failure.code in ("unavailable", "deadline_exceeded", "not_found"):
            return None
        raise
    return host_images.DiskUsage.model_validate(body)


def _mb(count: int) -> int:
    return count // 1024**2
