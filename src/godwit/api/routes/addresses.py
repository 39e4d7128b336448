"""`/v1/apps/{app}/ip_assignments`: the addresses of an app."""

from typing import Annotated

from fastapi import Path

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.addresses import AddressAssignment, AddressList, AllocateAddress
from godwit.api.schemas.common import ERRORS
from godwit.control import addresses

ROUTER = router("Addresses")

_ALL = "/v1/apps/{app_name}/ip_assignments"
_Ip = Annotated[str, Path(max_length=45)]


@ROUTER.get(
    _ALL,
    operation_id="App_IPAssignments_list",
    openapi_extra=needs("apps:read"),
    responses=ERRORS,
)
async def list_addresses(ctx: Ctx, who: Who, app_name: str) -> AddressList:
    """List an app's addresses."""
    found = await addresses.listed(ctx, who, app_name)
    return AddressList(ips=[AddressAssignment.of(row) for row in found])


@ROUTER.post(
    _ALL,
    operation_id="App_IPAssignments_create",
    openapi_extra=needs("apps:write"),
    responses=ERRORS,
)
async def allocate_address(
    ctx: Ctx, who: Who, app_name: str, body: AllocateAddress
) -> AddressAssignment:
    """Give an app an address."""
    return AddressAssignment.of(await addresses.allocate(ctx, who, app_name, body.wanted()))


@ROUTER.delete(
    _ALL + "/{ip}",
    operation_id="App_IPAssignments_delete",
    openapi_extra=needs("apps:write"),
    responses=ERRORS,
    status_code=204,
)
async def release_address(ctx: Ctx, who: Who, app_name: str, ip: _Ip) -> None:
    """Take an address from an app."""
    await addresses.release(ctx, who, app_name, ip)
