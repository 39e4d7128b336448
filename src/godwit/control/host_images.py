"""Images at rest on hosts, for the operator: what is there, what holds it, removing the rest."""

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import audit
from godwit.control.context import Context
from godwit.wire import host_images

_PRUNE_S = 60.0


async def listed(ctx: Context, who: Principal, host_id: str) -> host_images.Inventory:
    """Return what is at rest on a host.

    Raises:
        Failure: `permission_denied`, `not_found`, `unavailable`.
    """
    who.require("hosts:read")
    await _check(ctx, who, host_id)
    body = await ctx.hosts.call(host_id, "images.list", {}, who, ctx.options.act_s)
    return host_images.Inventory.model_validate(body)


async def prune(
    ctx: Context, who: Principal, host_id: str, *, dry_run: bool
) -> host_images.Pruned:
    """Remove every image of a host that no machine has and no release needs.

    Raises:
        Failure: `permission_denied`, `not_found`, `unavailable`, `failed_precondition`.
    """
    who.require("orgs:write")
    await _check(ctx, who, host_id)
    asked = host_images.Prune(dry_run=dry_run)
    body = await ctx.hosts.call(host_id, "images.prune", asked, who, _PRUNE_S)
    pruned = host_images.Pruned.model_validate(body)
    if not dry_run:
        async with ctx.store.write() as rows:
            await audit.record(
                rows,
                ctx.clock,
                who,
                "hosts.prune_images",
                host_id,
                org_id=None,
                images=len(pruned.removed),
            )
    return pruned


async def _check(ctx: Context, who: Principal, host_id: str) -> None:
    if who.org_ids is not None:
        raise errors.Failure(
            "permission_denied", "only the operator sees the images of hosts: tenants share them"
        )
    async with ctx.store.read() as rows:
        known = {host.id for host in await rows.hosts.all()}
    if host_id not in known:
        raise errors.not_found(
            f"there is no host {host_id!r}", hint="list them with `godwit platform hosts`"
        )
