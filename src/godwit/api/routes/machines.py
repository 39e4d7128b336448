"""`/v1/apps/{app}/machines`: make, change, read, destroy."""

from typing import Annotated

from fastapi import Query, Request

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS, Done
from godwit.api.schemas.machines import (
    CreateMachine,
    Event,
    Machine,
    Progress,
    UpdateMachine,
    Value,
    Version,
)
from godwit.base import errors
from godwit.control import machine_actions, machines

ROUTER = router("Machines")

_ALL = "/v1/apps/{app_name}/machines"
_ONE = "/v1/apps/{app_name}/machines/{machine_id}"
_METADATA = "metadata."
_MOST_FILTERS = 20


@ROUTER.get(
    _ALL,
    operation_id="Machines_list",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
    response_model_exclude_unset=True,
)
async def list_machines(
    ctx: Ctx,
    who: Who,
    request: Request,
    app_name: str,
    *,
    include_deleted: bool = False,
    region: Annotated[str | None, Query(max_length=200)] = None,
    state: Annotated[str, Query(max_length=200)] = "",
    summary: bool = False,
) -> list[Machine]:
    """List an app's machines, oldest first; `metadata.<key>=<value>` filters, all must hold."""
    metadata = [
        (key.removeprefix(_METADATA), value)
        for key, value in request.query_params.multi_items()
        if key.startswith(_METADATA)
    ]
    only = machines.Filter(
        include_deleted=include_deleted,
        region=region or None,
        states=frozenset(part for part in state.split(",") if part),
        metadata=tuple(metadata[:_MOST_FILTERS]),
    )
    found = await machines.listed(ctx, who, app_name, only)
    return [Machine.of(machine, summary=summary) for machine in found]


@ROUTER.post(
    _ALL,
    operation_id="Machines_create",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
    response_model_exclude_unset=True,
)
async def create_machine(ctx: Ctx, who: Who, app_name: str, body: CreateMachine) -> Machine:
    """Create a machine on the host that bids best."""
    return Machine.of(await machines.create(ctx, who, app_name, body.wanted()))


@ROUTER.get(
    _ONE,
    operation_id="Machines_show",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
    response_model_exclude_unset=True,
)
async def show_machine(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    version: Annotated[str | None, Query(max_length=26)] = None,
) -> Machine:
    """Show a machine, also one that was destroyed."""
    return Machine.of(await machines.get(ctx, who, app_name, machine_id, version=version or None))


@ROUTER.post(
    _ONE,
    operation_id="Machines_update",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
    response_model_exclude_unset=True,
)
async def update_machine(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, body: UpdateMachine
) -> Machine:
    """Give a machine a whole new config."""
    return Machine.of(await machines.update(ctx, who, app_name, machine_id, body.wanted()))


@ROUTER.delete(
    _ONE,
    operation_id="Machines_delete",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
)
async def delete_machine(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, *, force: bool = False, kill: bool = False
) -> Done:
    """Destroy a machine; one that runs only with `force` (or `kill`, the same)."""
    await machine_actions.destroy(ctx, who, app_name, machine_id, force=force or kill)
    return Done()


@ROUTER.get(
    f"{_ONE}/events",
    operation_id="Machines_list_events",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
    response_model_exclude_unset=True,
)
async def list_events(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    limit: Annotated[int, Query(ge=1, le=50)] = 20,
) -> list[Event]:
    """List a machine's history, newest first."""
    found = await machine_actions.events(ctx, who, app_name, machine_id, limit=limit)
    return [Event.of(event) for event in found]


@ROUTER.get(
    f"{_ONE}/versions",
    operation_id="Machines_list_versions",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
)
async def list_versions(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> list[Version]:
    """List the configs a machine has had, newest first."""
    found = await machines.versions(ctx, who, app_name, machine_id)
    return [Version(version=one.version, user_config=one.config) for one in found]


@ROUTER.get(
    f"{_ONE}/metadata",
    operation_id="Machines_show_metadata",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
)
async def show_metadata(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> dict[str, str]:
    """Show a machine's metadata."""
    machine = await machines.get(ctx, who, app_name, machine_id)
    return machine.view.config.get("metadata") or {}


@ROUTER.get(
    f"{_ONE}/metadata/{{key}}",
    operation_id="Machines_get_metadata_key",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
)
async def get_metadata_key(ctx: Ctx, who: Who, app_name: str, machine_id: str, key: str) -> Value:
    """Show one value of a machine's metadata."""
    machine = await machines.get(ctx, who, app_name, machine_id)
    found = (machine.view.config.get("metadata") or {}).get(key)
    if found is None:
        raise errors.not_found(f"machine {machine_id} has no metadata {key!r}")
    return Value(value=found)


@ROUTER.get(
    f"{_ONE}/lease",
    operation_id="Machines_show_lease",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
)
async def show_lease(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> None:
    """Show a machine's lease: this release gives none out."""
    await machines.get(ctx, who, app_name, machine_id)
    raise errors.not_found("lease not found")


@ROUTER.get(
    "/x/v1/apps/{app_name}/machines/{machine_id}",
    operation_id="Godwit_show_machine_progress",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
)
async def show_progress(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> Progress:
    """Tell in words what a machine's host does with it, or why it rests."""
    machine = await machines.get(ctx, who, app_name, machine_id)
    view = machine.view
    return Progress(
        id=view.machine_id,
        name=view.name,
        state=view.state,
        sentence=view.sentence,
        host_id=view.host_id,
        host_status=machine.host_status,
    )
