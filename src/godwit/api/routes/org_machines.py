"""`/v1/orgs/{slug}/machines`: every machine of an organization."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query

from godwit.api import cursors
from godwit.api.routing import Ctx, Who, needs, router
from godwit.api.schemas.common import ERRORS
from godwit.api.schemas.machines import OrgMachine, OrgMachines
from godwit.base import clock, errors
from godwit.control import listing

ROUTER = router("Organizations")

_AFTER_EVERY_ID = "~"


@ROUTER.get(
    "/v1/orgs/{org_slug}/machines",
    operation_id="Orgs_list_machines",
    openapi_extra=needs("machines:read"),
    responses=ERRORS,
    response_model_exclude_unset=True,
)
async def list_org_machines(
    ctx: Ctx,
    who: Who,
    org_slug: str,
    *,
    include_deleted: bool = False,
    region: Annotated[str, Query(max_length=200)] = "",
    state: Annotated[list[str], Query(max_length=20)] = [],  # noqa: B006 - never written to
    summary: bool = False,
    updated_after: Annotated[str, Query(max_length=40)] = "",
    cursor: Annotated[str, Query(max_length=1000)] = "",
    limit: Annotated[int, Query(ge=0)] = 0,
) -> OrgMachines:
    """List an organization's machines by last change, as they were last heard of."""
    only = listing.Filter(
        include_deleted=include_deleted,
        regions=listing.parts(region),
        states=listing.parts(*state),
    )
    kind = f"org:{org_slug}"
    after = listing.BEGINNING
    if cursor:
        after = cursors.decode(kind, ctx.clock.now_ms(), cursor)
    elif updated_after:
        after = (_moment(updated_after), _AFTER_EVERY_ID)
    size = min(limit or listing.MOST, listing.MOST)
    page = await listing.of_org(ctx, who, org_slug, only, after=after, limit=size)
    shown = [OrgMachine.of(one, summary=summary) for one in page.machines]
    found = OrgMachines(machines=shown, error_regions=page.error_regions)
    if page.last is not None:
        at_ms, machine_id = page.last
        last = {"last_machine_id": machine_id, "last_updated_at": clock.rfc3339(at_ms)}
        found = found.model_copy(update=last)
    if page.next is not None:
        next_cursor = cursors.encode(kind, ctx.clock.now_ms(), page.next)
        found = found.model_copy(update={"next_cursor": next_cursor})
    return found


def _moment(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise errors.invalid(
            "updated_after: must be a time such as 2026-01-31T12:00:00Z"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
