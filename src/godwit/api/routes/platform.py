"""`/v1/platform/…`."""

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.platform import (
    FindPlacements,
    Placements,
    Region,
    Regions,
)
from godwit.control import capacity, hosts

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


@ROUTER.post(
    "/v1/platform/placements",
    operation_id="Platform_placements",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
)
async def find_placements(ctx: Ctx, who: Who, body: FindPlacements) -> Placements:
    """Tell where machines would go if they were made now; nothing is reserved."""
    return Placements.of(await capacity.shares(ctx, who, body.wanted()))
