"""`/v1/apps/{app}/machines/{id}/lease`: who alone may change a machine for a while."""

from typing import Annotated

from fastapi import Query

from godwit.api.routing import Ctx, Nonce, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.leases import AcquireLease, DoneEnvelope, Lease, LeaseEnvelope, Ttl
from godwit.control import leases

ROUTER = router("Leases")

_LEASE = "/v1/apps/{app_name}/machines/{machine_id}/lease"


@ROUTER.get(
    _LEASE,
    operation_id="Machines_show_lease",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
    response_model_exclude_unset=True,
)
async def show_lease(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> LeaseEnvelope:
    """Show a machine's lease; with its nonce to who may write; 404 when nobody holds one."""
    found = await leases.get(ctx, who, app_name, machine_id)
    return LeaseEnvelope(status="success", data=Lease.of(found))


@ROUTER.post(
    _LEASE,
    operation_id="Machines_acquire_lease",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
    response_model_exclude_unset=True,
    status_code=201,
)
async def acquire_lease(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    *,
    body: AcquireLease | None = None,
    ttl: Annotated[Ttl, Query()] = 0,
    nonce: Nonce = None,
) -> LeaseEnvelope:
    """Acquire a machine's lease, for 120 seconds unless told; with its nonce, prolong it."""
    asked = body or AcquireLease()
    wanted = leases.NewLease(
        ttl_s=ttl or asked.ttl or leases.DEFAULT_TTL_S,
        description=asked.description,
        nonce=nonce or None,
    )
    found = await leases.acquire(ctx, who, app_name, machine_id, wanted)
    return LeaseEnvelope(status="success", data=Lease.of(found))


@ROUTER.delete(
    _LEASE,
    operation_id="Machines_release_lease",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
)
async def release_lease(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, nonce: Nonce = None
) -> DoneEnvelope:
    """Give a lease back: its nonce is required."""
    await leases.release(ctx, who, app_name, machine_id, nonce)
    return DoneEnvelope()


@ROUTER.delete(
    f"/x{_LEASE}",
    operation_id="Godwit_break_lease",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
    status_code=204,
)
async def break_lease(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> None:
    """End a lease whoever holds it: its client is gone and left it behind."""
    await leases.end(ctx, who, app_name, machine_id)
