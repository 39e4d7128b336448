"""`/x/v1/apps/{app}/releases`."""

from typing import Annotated

from fastapi import Path, Query

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.releases import (
    CreateRelease,
    Release,
    ReleaseDetail,
    ReleaseList,
    UpdateRelease,
)
from godwit.control import releases

ROUTER = router("Releases")

_ALL = "/x/v1/apps/{app_name}/releases"


@ROUTER.get(
    _ALL,
    operation_id="Godwit_list_releases",
    openapi_extra=needs("apps:read"),
    responses=ERRORS,
)
async def list_releases(
    ctx: Ctx, who: Who, app_name: str, limit: Annotated[int, Query(ge=1, le=500)] = 25
) -> ReleaseList:
    """List an app's releases, newest first."""
    found = await releases.newest(ctx, who, app_name, limit=limit)
    return ReleaseList(releases=[Release.of(release) for release in found])


@ROUTER.post(
    _ALL,
    operation_id="Godwit_create_release",
    openapi_extra=needs("apps:write"),
    responses=ERRORS,
    status_code=201,
)
async def create_release(ctx: Ctx, who: Who, app_name: str, body: CreateRelease) -> Release:
    """Record that a deploy begins."""
    return Release.of(await releases.create(ctx, who, app_name, body.wanted()))


@ROUTER.get(
    _ALL + "/{release}",
    operation_id="Godwit_get_release",
    openapi_extra=needs("apps:read"),
    responses=ERRORS,
)
async def get_release(
    ctx: Ctx, who: Who, app_name: str, release: Annotated[str, Path(pattern="^[a-z0-9_]{1,40}$")]
) -> ReleaseDetail:
    """Return a release, by its id or number, with the machines that run it."""
    found = await releases.get(ctx, who, app_name, release)
    return ReleaseDetail.detailed(found, await releases.machines(ctx, who, app_name, found))


@ROUTER.patch(
    _ALL + "/{release}",
    operation_id="Godwit_update_release",
    openapi_extra=needs("apps:write"),
    responses=ERRORS,
)
async def update_release(
    ctx: Ctx,
    who: Who,
    app_name: str,
    release: Annotated[str, Path(pattern="^[a-z0-9_]{1,40}$")],
    body: UpdateRelease,
) -> Release:
    """Record how a deploy stands or ended, by its id or number."""
    return Release.of(
        await releases.set_status(
            ctx, who, app_name, release, status=body.status, error=body.error
        )
    )
