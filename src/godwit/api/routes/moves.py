"""`/x/v1/apps/{app}/machines/{id}/move`: a machine that is wanted elsewhere."""

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS, Done
from godwit.api.schemas.moves import Move, MoveMachine
from godwit.control import moves

ROUTER = router("Machines")

_MOVE = "/x/v1/apps/{app_name}/machines/{machine_id}/move"


@ROUTER.get(
    _MOVE,
    operation_id="Godwit_show_move",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
)
async def show_move(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> Move:
    """Show how a machine's move comes along; 404 when nobody wanted it elsewhere."""
    return Move.of(await moves.show(ctx, who, app_name, machine_id))


@ROUTER.post(
    _MOVE,
    operation_id="Godwit_move_machine",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
    status_code=202,
)
async def move_machine(
    ctx: Ctx, who: Who, app_name: str, machine_id: str, *, body: MoveMachine | None = None
) -> Move:
    """Have a machine made anew in another region, or on another host of its own."""
    region = (body or MoveMachine()).region
    return Move.of(await moves.ask(ctx, who, app_name, machine_id, region))


@ROUTER.delete(
    _MOVE,
    operation_id="Godwit_cancel_move",
    openapi_extra=needs("machines:write"),
    responses=ERRORS,
)
async def cancel_move(ctx: Ctx, who: Who, app_name: str, machine_id: str) -> Done:
    """Leave a machine where it is; 409 when the one in its place is well already."""
    await moves.cancel(ctx, who, app_name, machine_id)
    return Done()
