"""Organizations: the tenants. Made and deleted by the operator."""

from godwit.base import errors, ids, log
from godwit.base.principal import Principal, Scope
from godwit.control import audit
from godwit.control.context import Context
from godwit.control.records import AuditRow, Organization
from godwit.control.rows import Rows

_NAMED = 5


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
    _require_operator(who)
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


async def delete(ctx: Context, who: Principal, slug: str) -> None:
    """Delete an organization that has no apps: its tokens and logins at registries end with it.

    The names of its former apps, and the numbers of its networks, stay its own for ever.

    Raises:
        Failure: `permission_denied` (not the operator), `not_found`, `failed_precondition` while
            it has apps.
    """
    _require_operator(who)
    async with ctx.store.write() as rows:
        org = await require(rows, who, "orgs:write", slug)
        present = await rows.apps.page(org.id, role=None, after="", limit=_NAMED)
        if present:
            count = await rows.apps.count(org.id, role=None)
            names = ", ".join(one.name for one in present)
            raise errors.Failure(
                "failed_precondition",
                f"organization {slug!r} has {count} apps: {names}",
                hint="destroy them first, with `godwit apps destroy`",
            )
        for token in await rows.tokens.visible({org.id}):
            await rows.tokens.revoke(token.id, ctx.clock.now_ms())
        for login in await rows.registry_credentials.of_org(org.id):
            await rows.registry_credentials.remove(org.id, login.registry)
        await rows.organizations.bury(org.id)
        await audit.record(rows, ctx.clock, who, "organizations.delete", slug, org_id=org.id)


def _require_operator(who: Principal) -> None:
    who.require("orgs:write")
    if who.org_ids is not None:
        raise errors.Failure(
            "permission_denied",
            "only the operator makes and deletes organizations",
            hint="use the operator's token",
        )


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
