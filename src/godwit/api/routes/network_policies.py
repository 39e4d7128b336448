"""`/v1/apps/{app}/network_policies`: what an app's machines may send and be sent."""

from typing import Annotated

from fastapi import Path

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.network_policies import NetworkPolicyOut, PutNetworkPolicy
from godwit.control import network_policies

ROUTER = router("Network policies")

_ALL = "/v1/apps/{app_name}/network_policies"
_ONE = _ALL + "/{policy_id}"
_PolicyId = Annotated[str, Path(max_length=40)]


@ROUTER.get(
    _ALL,
    operation_id="NetworkPolicies_list",
    openapi_extra=needs("apps:read"),
    responses=ERRORS,
)
async def list_policies(ctx: Ctx, who: Who, app_name: str) -> list[NetworkPolicyOut]:
    """List an app's network policies."""
    found = await network_policies.listed(ctx, who, app_name)
    return [NetworkPolicyOut.of(one) for one in found]


@ROUTER.post(
    _ALL,
    operation_id="NetworkPolicies_put",
    openapi_extra=needs("apps:write"),
    responses=ERRORS,
)
async def put_policy(
    ctx: Ctx, who: Who, app_name: str, body: PutNetworkPolicy
) -> NetworkPolicyOut:
    """Make a network policy, or replace the one whose id is given."""
    return NetworkPolicyOut.of(await network_policies.put(ctx, who, app_name, body.wanted()))


@ROUTER.get(
    _ONE,
    operation_id="NetworkPolicies_show",
    openapi_extra=needs("apps:read"),
    responses=ERRORS,
)
async def show_policy(ctx: Ctx, who: Who, app_name: str, policy_id: _PolicyId) -> NetworkPolicyOut:
    """Show a network policy."""
    return NetworkPolicyOut.of(await network_policies.get(ctx, who, app_name, policy_id))


@ROUTER.delete(
    _ONE,
    operation_id="NetworkPolicies_delete",
    openapi_extra=needs("apps:write"),
    responses=ERRORS,
    status_code=204,
)
async def delete_policy(ctx: Ctx, who: Who, app_name: str, policy_id: _PolicyId) -> None:
    """Remove a network policy."""
    await network_policies.remove(ctx, who, app_name, policy_id)
