"""`/x/v1/hosts/{host_id}/images`, and what an organization takes of disks: `/x/v1/orgs/{org}`."""

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.host_images import HostImages, OrgShown, PrunedImages
from godwit.control import disk, host_images

ROUTER = router("Disk space")


@ROUTER.get(
    "/x/v1/hosts/{host_id}/images",
    operation_id="Godwit_list_host_images",
    openapi_extra=needs("hosts:read"),
    responses=ERRORS,
)
async def list_images(ctx: Ctx, who: Who, host_id: str) -> HostImages:
    """List the images at rest on a host; for the operator."""
    return HostImages.of(await host_images.listed(ctx, who, host_id))


@ROUTER.post(
    "/x/v1/hosts/{host_id}/images/prune",
    operation_id="Godwit_prune_host_images",
    openapi_extra=needs("orgs:write"),
    responses=ERRORS,
)
async def prune_images(ctx: Ctx, who: Who, host_id: str, *, dry_run: bool = False) -> PrunedImages:
    """Remove the images that no machine has and no release needs; for the operator."""
    pruned = await host_images.prune(ctx, who, host_id, dry_run=dry_run)
    return PrunedImages.of(pruned, dry_run=dry_run)


@ROUTER.get(
    "/x/v1/orgs/{org_slug}",
    operation_id="Godwit_get_org",
    openapi_extra=needs("orgs:read"),
    responses=ERRORS,
)
async def show_org(ctx: Ctx, who: Who, org_slug: str) -> OrgShown:
    """Show an organization and what it takes of registry and hosts."""
    org, taken = await disk.usage(ctx, who, org_slug)
    return OrgShown.shown(org, taken)
