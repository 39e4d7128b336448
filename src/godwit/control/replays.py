"""Replays between an organization's networks: allowed or not, as it decides.

The rule is of spec/network.md §2.4. Edges learn it with each app's fact, so all of them are
published again when it changes.
"""

from dataclasses import replace

from godwit.base.principal import Principal
from godwit.control import apps, audit, organizations
from godwit.control.context import Context
from godwit.control.records import Organization
from godwit.control.rows import Rows

_PAGE = 500


async def allow_across_networks(
    ctx: Context, who: Principal, slug: str, *, allowed: bool
) -> Organization:
    """Decide whether an organization's apps may replay requests into any of its networks.

    Raises:
        Failure: `permission_denied`, or `not_found` for an organization unknown or foreign.
    """
    async with ctx.store.write() as rows:
        org = await organizations.require(rows, who, "orgs:write", slug)
        if org.replays_across_networks == allowed:
            return org
        await rows.organizations.set_replays_across_networks(org.id, allowed)
        await _tell(ctx, rows, org)
        word = "enable" if allowed else "disable"
        action = f"organizations.cross_network_replays.{word}"
        await audit.record(rows, ctx.clock, who, action, slug, org_id=org.id)
    ctx.facts_wanted.set()
    return replace(org, replays_across_networks=allowed)


async def _tell(ctx: Context, rows: Rows, org: Organization) -> None:
    after = ""
    while found := await rows.apps.page(org.id, role=None, after=after, limit=_PAGE):
        for app in found:
            await apps.tell(ctx, rows, app)
        after = found[-1].name
