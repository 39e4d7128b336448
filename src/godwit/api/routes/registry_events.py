"""`/registry/events`: the platform's registry tells what was pushed."""

from fastapi import Request

from godwit.api import basic, problems, strict_json
from godwit.api.routing import Ctx, needs, read_body, router
from godwit.api.schemas.common import ERRORS, Done
from godwit.base import errors
from godwit.control import registry_events

ROUTER = router("Registries")

_MAX_BYTES = 4 << 20
_BODY_S = 10.0


@ROUTER.post(
    "/registry/events",
    operation_id="Registry_events",
    openapi_extra=needs("basic"),
    responses=ERRORS,
)
async def registry_told(ctx: Ctx, request: Request) -> Done:
    """Take the registry's notifications; for the registry alone."""
    user, password = basic.credentials(request)
    if not registry_events.is_registry(ctx, user, password):
        raise problems.NotAuthenticated('Basic realm="godwit"')
    data = await read_body(request, _MAX_BYTES, _BODY_S)
    try:
        document = strict_json.loads(data)
    except strict_json.NotJson as error:
        raise errors.invalid(str(error)) from error
    await registry_events.take(ctx, document)
    return Done()
