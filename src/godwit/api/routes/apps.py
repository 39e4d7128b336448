"""`/v1/apps`."""

from typing import Annotated

from fastapi import Query

from godwit.api import cursors
from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.apps import App, AppList, CreateApp, fields
from godwit.api.schemas.common import ERRORS
from godwit.control import apps, removal

ROUTER = router("Apps")

_MOST = 5_000


@ROUTER.get(
    "/v1/apps",
    operation_id="Apps_list",
    openapi_extra=needs("apps:read"),
    responses=ERRORS,
    response_model_exclude_unset=True,
)
async def list_apps(
    ctx: Ctx,
    who: Who,
    *,
    org_slug: Annotated[str, Query(max_length=200)],
    app_role: Annotated[str | None, Query(max_length=63)] = None,
    limit: Annotated[int, Query(ge=0, le=_MOST)] = 0,
    cursor: Annotated[str, Query(max_length=1000)] = "",
) -> AppList:
    """List an organization's apps by name."""
    kind, now_ms = f"apps:{org_slug}", ctx.clock.now_ms()
    after = cursors.decode(kind, now_ms, cursor)[1] if cursor else ""
    page = await apps.page(
        ctx, who, org_slug, role=_role(app_role), after=after, limit=limit or _MOST
    )
    shown = [App.of(found, ctx.options.apps_domain) for found in page.apps]
    if page.next_name is None:
        return AppList(apps=shown, total_apps=page.total)
    next_cursor = cursors.encode(kind, now_ms, (0, page.next_name))
    return AppList(apps=shown, total_apps=page.total, next_cursor=next_cursor)


@ROUTER.post(
    "/v1/apps",
    operation_id="Apps_create",
    openapi_extra=needs("apps:write"),
    responses=ERRORS,
    status_code=201,
)
async def create_app(ctx: Ctx, who: Who, body: CreateApp) -> App:
    """Create an app. The answer is there when the app is: `wait` changes nothing."""
    made = await apps.create(ctx, who, body.wanted())
    return App(**fields(made, 0, ctx.options.apps_domain))


@ROUTER.get(
    "/v1/apps/{app_name}",
    operation_id="Apps_show",
    openapi_extra=needs("apps:read"),
    responses=ERRORS,
)
async def show_app(ctx: Ctx, who: Who, app_name: str) -> App:
    """Show an app: 404 when the name is free, 403 when it is somebody else's."""
    return App.of(await apps.get(ctx, who, app_name), ctx.options.apps_domain)


@ROUTER.delete(
    "/v1/apps/{app_name}",
    operation_id="Apps_delete",
    openapi_extra=needs("apps:write"),
    responses=ERRORS,
    status_code=202,
)
async def delete_app(ctx: Ctx, who: Who, app_name: str, *, force: bool = False) -> None:
    """Delete an app; with `force` while its machines run."""
    await removal.delete_app(ctx, who, app_name, force=force)


def _role(role: str | None) -> str | None:
    return role if role and "\0" not in role else None
