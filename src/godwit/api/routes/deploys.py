"""`/x/v1/apps/{app}/deploys` and `/x/v1/apps/{app}/rollback`."""

from typing import Annotated

from fastapi import Path, Query, Response

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.deploys import (
    CreateDeploy,
    CreateRollback,
    Deploy,
    DeployList,
    DeployPlan,
    PlanOnly,
)
from godwit.control.deploys import service

ROUTER = router("Deploys")

_ALL = "/x/v1/apps/{app_name}/deploys"
_ONE = _ALL + "/{deploy_id}"

DeployId = Annotated[str, Path(pattern="^[a-z0-9_]{1,40}$")]


@ROUTER.get(
    _ALL, operation_id="Godwit_list_deploys", openapi_extra=needs("apps:read"), responses=ERRORS
)
async def list_deploys(
    ctx: Ctx, who: Who, app_name: str, limit: Annotated[int, Query(ge=1, le=50)] = 10
) -> DeployList:
    """List an app's deploys, newest first, without their events."""
    found = await service.newest(ctx, who, app_name, limit)
    return DeployList(deploys=[Deploy.of(one) for one in found])


@ROUTER.post(
    _ALL,
    operation_id="Godwit_create_deploy",
    openapi_extra=needs("apps:write"),
    responses={**ERRORS, 200: {"model": PlanOnly, "description": "What it would do."}},
    status_code=201,
    response_model=Deploy,
)
async def create_deploy(
    ctx: Ctx, who: Who, app_name: str, body: CreateDeploy
) -> Deploy | Response:
    """Begin a deploy, which the platform carries through by itself; or show its plan.

    Refused with 409 while another one of the app is under way.
    """
    if body.plan_only:
        plan = await service.show_plan(ctx, who, app_name, body.wanted())
        shown = PlanOnly(plan=DeployPlan.of(plan))
        return Response(shown.model_dump_json(), media_type="application/json")
    return Deploy.of(await service.begin(ctx, who, app_name, body.wanted()))


@ROUTER.get(
    _ONE, operation_id="Godwit_get_deploy", openapi_extra=needs("apps:read"), responses=ERRORS
)
async def get_deploy(
    ctx: Ctx,
    who: Who,
    app_name: str,
    deploy_id: DeployId,
    *,
    after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    wait_s: Annotated[float, Query(ge=0, le=30)] = 0,
) -> Deploy:
    """Return a deploy with its events after a number, waiting for one that is newer."""
    return Deploy.of(await service.get(ctx, who, app_name, deploy_id, after=after, wait_s=wait_s))


@ROUTER.post(
    _ONE + "/cancel",
    operation_id="Godwit_cancel_deploy",
    openapi_extra=needs("apps:write"),
    responses=ERRORS,
)
async def cancel_deploy(ctx: Ctx, who: Who, app_name: str, deploy_id: DeployId) -> Deploy:
    """Have a deploy stop and go back; 412 past its point of no return."""
    return Deploy.of(await service.cancel(ctx, who, app_name, deploy_id))


@ROUTER.post(
    "/x/v1/apps/{app_name}/rollback",
    operation_id="Godwit_create_rollback",
    openapi_extra=needs("apps:write"),
    responses=ERRORS,
    status_code=201,
)
async def create_rollback(ctx: Ctx, who: Who, app_name: str, body: CreateRollback) -> Deploy:
    """Deploy an earlier release's image and definition again, without its release command."""
    return Deploy.of(
        await service.roll_back(ctx, who, app_name, body.version, body.options.wanted())
    )
