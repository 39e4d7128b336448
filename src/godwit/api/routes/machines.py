"""`/v1/apps/{app}/machines`: make, change, read, destroy."""

from typing import Annotated

from fastapi import Query, Request, Response

from godwit.api import cursors
from godwit.api.routing import Ctx, Nonce, Who, needs, router
from godwit.api.schemas.common import ERRORS, Done
from godwit.api.schemas.machines import (
    CreateMachine,
    Event,
    Machine,
    Progress,
    UpdateMachine,
    Version,
)
from godwit.control import listing, machine_actions, machines

ROUTER = router("Machines")

_ALL = "/v1/apps/{app_name}/machines"
_ONE = "/v1/apps/{app_name}/machines/{machine_id}"
_METADATA = "metadata."
_MOST_FILTERS = 20
_EVENTS = 20
_MOST_EVENTS = 50


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
    response: Response,
    app_name: str,
    *,
    include_deleted: bool = False,
    region: Annotated[str | None, Query(max_length=200)] = None,
    state: Annotated[list[str], Query(max_length=20)] = [],  # noqa: B006 - never written to
    summary: bool = False,
    include_leases: bool = False,
    cursor: Annotated[str, Query(max_length=1000)] = "",
    limit: Annotated[int, Query(ge=0)] = 0,
) -> list[Machine]:
    """List an app's machines, oldest first; `metadata.<key>=<value>` filters, all must hold.

    `state` and `region` may be comma lists.

    When there are more, the header `fly-next-cursor` holds the `cursor` for the next page.
    """
    metadata = [
        (key.removeprefix(_METADATA), value)
        for key, value in request.query_params.multi_items()
        if key.startswith(_METADATA)
    ]
    only = listing.Filter(
        include_deleted=include_deleted,
        regions=listing.parts(region or ""),
        states=listing.parts(*state),
        metadata=tuple(metadata[:_MOST_FILTERS]),
    )
    kind, now_ms = f"machines:{app_name}", ctx.clock.now_ms()
    after = cursors.decode(kind, now_ms, cursor) if cursor else listing.BEGINNING
    size = min(limit or listing.MOST, listing.MOST)
    page = await listing.of_app(ctx, who, app_name, only, after=after, limit=size)
    if page.next is not None:
        response.headers["fly-next-cursor"] = cursors.encode(kind, now_ms, page.next)
    return [Machine.of(one, summary=summary, leases=include_leases) for one in page.machines]


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
    openapi_extra=needs("machines:read", own=True),
    responses=ERRORS,
    response_model_exclude_unset=True,
)
async def show_machine(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    *,
    version: Annotated[str | None, Query(max_length=26)] = None,
    include_leases: bool = False,
) -> Machine:
    """Show a machine, also one that was destroyed; of an old `version`, as `replaced`."""
    found = await machines.get(ctx, who, app_name, machine_id, version=version or None)
    return Machine.of(found, leases=include_leases)


@ROUTER.post(
    _ONE,
    operation_id="Machines_update",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
    response_model_exclude_unset=True,
)
async def update_machine(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, *, body: UpdateMachine, nonce: Nonce = None
) -> Machine:
    """Give a machine a whole new config."""
    wanted = body.wanted(nonce)
    return Machine.of(await machines.update(ctx, who, app_name, machine_id, wanted))


@ROUTER.delete(
    _ONE,
    operation_id="Machines_delete",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
)
async def delete_machine(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    *,
    force: bool = False,
    kill: bool = False,
    nonce: Nonce = None,
) -> Done:
    """Destroy a machine; one that runs only with `force` (or `kill`, the same)."""
    forced = force or kill
    await machine_actions.destroy(ctx, who, app_name, machine_id, force=forced, nonce=nonce)
    return Done()


@ROUTER.get(
    f"{_ONE}/events",
    operation_id="Machines_list_events",
    openapi_extra=needs("machines:read", own=True),
    responses=ERRORS,
    response_model_exclude_unset=True,
)
async def list_events(
    ctx: Ctx,
    who: Who,
    app_name: str,
    machine_id: str,
    limit: Annotated[int, Query(ge=0)] = 0,
) -> list[Event]:
    """List a machine's history, newest first: 20 entries unless told, at most 50."""
    size = min(limit or _EVENTS, _MOST_EVENTS)
    found = await machine_actions.events(ctx, who, app_name, machine_id, limit=size)
    return [Event.of(event) for event in found]


@ROUTER.get(
    f"{_ONE}/versions",
    operation_id="Machines_list_versions",
    openapi_extra=needs("machines:read", own=True),
    responses=ERRORS,
)
async def list_versions(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> list[Version]:
    """List the configs a machine has had, newest first."""
    found = await machines.versions(ctx, who, app_name, machine_id)
    return [Version(version=one.version, user_config=one.user_config) for one in found]


@ROUTER.get(
    "/x/v1/apps/{app_name}/machines/{machine_id}",
    operation_id="Godwit_show_machine_progress",
    openapi_extra=needs("machines:read", own=True),
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
