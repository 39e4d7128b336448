"""`/x/v1/orgs`, `/x/v1/audit`, `/x/v1/usage`."""

from typing import Annotated

from fastapi import Query

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.orgs import (
    AuditPage,
    AuditRow,
    CreateOrg,
    CrossNetworkReplays,
    Org,
    OrgList,
    Usage,
)
from godwit.control import organizations, replays, usage

ROUTER = router("Organizations")

_ID = "^[a-z0-9_]{0,40}$"


@ROUTER.get(
    "/x/v1/orgs",
    operation_id="Godwit_list_orgs",
    openapi_extra=needs("orgs:read"),
    responses=ERRORS,
)
async def list_orgs(ctx: Ctx, who: Who) -> OrgList:
    """List the organizations the token is for."""
    return OrgList(orgs=[Org.of(org) for org in await organizations.visible(ctx, who)])


@ROUTER.post(
    "/x/v1/orgs",
    operation_id="Godwit_create_org",
    openapi_extra=needs("orgs:write"),
    responses=ERRORS,
    status_code=201,
)
async def create_org(ctx: Ctx, who: Who, body: CreateOrg) -> Org:
    """Create an organization; for the operator."""
    return Org.of(await organizations.create(ctx, who, slug=body.slug, name=body.name))


@ROUTER.delete(
    "/x/v1/orgs/{org_slug}",
    operation_id="Godwit_delete_org",
    openapi_extra=needs("orgs:write"),
    responses=ERRORS,
    status_code=204,
)
async def delete_org(ctx: Ctx, who: Who, org_slug: str) -> None:
    """Delete an organization without apps, its tokens and its logins; for the operator."""
    await organizations.delete(ctx, who, org_slug)


@ROUTER.put(
    "/x/v1/orgs/{org_slug}/cross_network_replays",
    operation_id="Godwit_set_cross_network_replays",
    openapi_extra=needs("orgs:write"),
    responses=ERRORS,
)
async def set_cross_network_replays(
    ctx: Ctx, who: Who, org_slug: str, body: CrossNetworkReplays
) -> Org:
    """Decide whether its apps may replay requests into any of its networks."""
    return Org.of(await replays.allow_across_networks(ctx, who, org_slug, allowed=body.allowed))


@ROUTER.get(
    "/x/v1/audit",
    operation_id="Godwit_list_audit",
    openapi_extra=needs("orgs:read"),
    responses=ERRORS,
)
async def list_audit(
    ctx: Ctx,
    who: Who,
    org_slug: Annotated[str | None, Query(max_length=63)] = None,
    before: Annotated[str, Query(pattern=_ID)] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> AuditPage:
    """List what was changed by whom, newest first."""
    found = await organizations.audit_page(ctx, who, org_slug=org_slug, before=before, limit=limit)
    return AuditPage(rows=[AuditRow.of(row) for row in found])


@ROUTER.get(
    "/x/v1/usage",
    operation_id="Godwit_list_usage",
    openapi_extra=needs("orgs:read"),
    responses=ERRORS,
)
async def list_usage(
    ctx: Ctx,
    who: Who,
    *,
    org_slug: Annotated[str, Query(max_length=63)],
    host_id: Annotated[str | None, Query(pattern=_ID)] = None,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Usage:
    """List an organization's use of machines, as the hosts keep it."""
    report = await usage.report(ctx, who, org_slug, host_id=host_id, after=after, limit=limit)
    return Usage(intervals=report.intervals, silent_hosts=report.silent_hosts)
