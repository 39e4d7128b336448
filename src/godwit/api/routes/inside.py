"""`/v1/apps/{app}/machines/{id}/ps` and `…/memory`: what a running machine's guest tells."""

from typing import Annotated

from fastapi import Query

from godwit.api.routing import Ctx, Nonce, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.inside import Cpu, Memory, Process, Reclaim, Reclaimed, SetMemory
from godwit.control import inside
from godwit.wire import host_rpc

ROUTER = router("Machines")

_ONE = "/v1/apps/{app_name}/machines/{machine_id}"


@ROUTER.get(
    f"{_ONE}/ps",
    operation_id="Machines_list_processes",
    openapi_extra=needs("machines:read", own=True),
    responses=ERRORS,
)
async def list_processes(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    *,
    sort_by: Annotated[str, Query(max_length=20)] = "",
    order: Annotated[str, Query(max_length=10)] = "",
) -> list[Process]:
    """List a machine's processes; `sort_by` any of their fields, `order` asc or desc."""
    found = await inside.processes(
        ctx, who, app_name, machine_id, sort_by=sort_by or "pid", order=order or "asc"
    )
    return [Process.of(process) for process in found]


@ROUTER.get(
    f"{_ONE}/memory",
    operation_id="Machines_show_memory",
    openapi_extra=needs("machines:read", own=True),
    responses=ERRORS,
)
async def show_memory(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> Memory:
    """Show how much memory a machine may use, and how much of it is free."""
    return _memory(await inside.memory(ctx, who, app_name, machine_id))


@ROUTER.get(
    f"/x{_ONE}/cpu",
    operation_id="Godwit_show_cpu",
    openapi_extra=needs("machines:read", own=True),
    responses=ERRORS,
)
async def show_cpu(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> Cpu:
    """Show a machine's CPU baseline, what it has saved up, and for how long it was held back."""
    found = await inside.cpu(ctx, who, app_name, machine_id)
    return Cpu() if found is None else Cpu(**found.model_dump())


@ROUTER.put(
    f"{_ONE}/memory",
    operation_id="Machines_set_memory",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
)
async def set_memory(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, *, body: SetMemory, nonce: Nonce = None
) -> Memory:
    """Change how much memory a running machine may use, up to its guest's max_memory_mb."""
    return _memory(
        await inside.set_memory(ctx, who, app_name, machine_id, body.limit_mb, nonce=nonce)
    )


@ROUTER.post(
    f"{_ONE}/memory/reclaim",
    operation_id="Machines_reclaim_memory",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
)
async def reclaim_memory(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, *, body: Reclaim, nonce: Nonce = None
) -> Reclaimed:
    """Take back memory that a running machine does not need; say how much came."""
    actual_mb = await inside.reclaim(ctx, who, app_name, machine_id, body.amount_mb, nonce=nonce)
    return Reclaimed(actual_mb=actual_mb)


def _memory(found: host_rpc.Memory) -> Memory:
    return Memory(available_mb=found.available_mb, limit_mb=found.limit_mb)
