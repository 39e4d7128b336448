"""`/v1/platform/regions` and `/x/v1/hosts`."""

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.platform import Host, HostList, Region, Regions
from godwit.control import hosts

ROUTER = router("Platform")


@ROUTER.get(
    "/v1/platform/regions",
    operation_id="Platform_regions",
    openapi_extra=needs("public"),
    responses=ERRORS,
)
async def list_regions(ctx: Ctx) -> Regions:
    """List the regions that have hosts."""
    found = await hosts.with_regions(ctx)
    return Regions(regions=[Region.of(region) for region in found], nearest=ctx.options.region)


@ROUTER.get(
    "/x/v1/hosts",
    operation_id="Godwit_list_hosts",
    openapi_extra=needs("hosts:read"),
    responses=ERRORS,
)
async def list_hosts(ctx: Ctx, who: Who) -> HostList:
    """List the hosts; for the operator."""
    return HostList(hosts=[Host.of(host) for host in await hosts.visible(ctx, who)])
