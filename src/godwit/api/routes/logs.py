"""`/api/v1/apps/{app}/logs`."""

from typing import Annotated

from fastapi import Query

from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.logs import LogPage
from godwit.base import errors
from godwit.control import logs

ROUTER = router("Logs")

_DIGITS = 20
_LATEST = 2**63


@ROUTER.get(
    "/api/v1/apps/{app_name}/logs",
    operation_id="Logs_list",
    openapi_extra=needs("logs:read"),
    responses=ERRORS,
)
async def list_logs(
    ctx: Ctx,
    who: Who,
    app_name: str,
    *,
    region: Annotated[str | None, Query(max_length=3)] = None,
    instance: Annotated[str | None, Query(max_length=40)] = None,
    next_token: Annotated[str, Query(max_length=40)] = "",
) -> LogPage:
    """List the newest 100 lines, or those after `next_token`."""
    wanted = logs.Wanted(
        region=region or None, machine_id=instance or None, after=_cursor(next_token)
    )
    return LogPage.of(await logs.page(ctx, who, app_name, wanted))


def _cursor(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < _DIGITS and int(text) < _LATEST):
        raise errors.invalid("next_token: is not one of this API's")
    return int(text)
