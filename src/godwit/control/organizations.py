"""Organizations: the tenants. Made by the operator."""

from godwit.base import errors, ids, log
from godwit.base.principal import Principal, Scope
from godwit.control import audit
from godwit.control.context import Context
from godwit.control.records import AuditRow, Organization
from godwit.control.rows import Rows


async def require(rows: Rows, who: Principal, scope: Scope, slug: str) -> Organization:
    """Return an organization this principal may act in.

    Raises:
        Failure: `permission_denied`, or `not_found` for one that is unknown or foreign.
    """
    who.require(scope)
    found = await rows.organizations.by_slug(slug) if ids.is_slug(slug) else None
    if found is None or not who.may_see(found.id):
        raise errors.not_found(
            f"organization {slug!r} not found", hint="list yours with `godwit orgs list`"
        )
    log.bind(org_id=found.id)
    return found


async def visible(ctx: Context, who: Principal) -> list[Organization]:
    """Return the organizations this principal may act in, by slug."""
    who.require("orgs:read")
    async with ctx.store.read() as rows:
        return await rows.organizations.by_ids(who.org_ids)


async def create(ctx: Context, who: Principal, *, slug: str, name: str) -> Organization:
    """Make an organization.

    Raises:
        Failure: `invalid_argument`, `already_exists`, `permission_denied` (not the operator).
    """
    who.require("orgs:write")
    if who.org_ids is not None:
        raise errors.Failure(
            "permission_denied",
            "only the operator makes organizations",
            hint="use the operator's token",
        )
    if not ids.is_slug(slug):
        raise errors.invalid(
            f"slug: {slug!r} is not a slug: lower-case letters, digits and dashes, starting with"
            " a letter, at most 63"
        )
    async with ctx.store.write() as rows:
        if await rows.organizations.by_slug(slug) is not None:
            raise errors.Failure("already_exists", f"there is an organization {slug!r} already")
        made = Organization(
            id=ids.tagged("org"),
            number=await rows.meta.next_number("organizations"),
            slug=slug,
            name=name or slug,
            created_at_ms=ctx.clock.now_ms(),
        )
        await rows.organizations.add(made)
        await audit.record(rows, ctx.clock, who, "organizations.create", made.slug, org_id=made.id)
    return made


async def audit_page(
    ctx: Context, who: Principal, *, org_slug: str | None, before: str, limit: int
) -> list[AuditRow]:
    """Return the newest audit rows that this principal may see, before an id."""
    who.require("orgs:read")
    async with ctx.store.read() as rows:
        org_ids = who.org_ids
        if org_slug is not None:
            org_ids = frozenset({(await require(rows, who, "orgs:read", org_slug)).id})
        return await rows.audit.page(org_ids, before=before, limit=limit)
