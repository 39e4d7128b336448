"""Who may pull and push which repository of the platform's registry."""

from collections.abc import Sequence

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control.context import Context
from godwit.control.records import App
from godwit.control.registry_tokens import Access, parse_scopes
from godwit.images import reference as references

_PULL_S = 24 * 3600
_PUSH_S = 2 * 3600
LIFETIME_S = 900


async def grant(ctx: Context, who: Principal, scopes: Sequence[str]) -> str:
    """Return a registry token for what this principal may do of what it asks.

    What it may not do is left out, as the protocol wants; the registry then refuses.
    """
    granted = []
    async with ctx.store.read() as rows:
        for wanted in parse_scopes(scopes):
            app = await rows.apps.by_name(wanted.app)
            if app is not None and who.may_see(app.org_id):
                granted.append(Access(wanted.repository, wanted.actions & _allowed(who)))
    return ctx.signer.sign(who.subject, granted, now_ms=ctx.clock.now_ms(), lifetime_s=LIFETIME_S)


async def pull_token(ctx: Context, app: App, reference: str) -> str | None:
    """Return a token to pull an image for an app; `None` for other registries.

    Raises:
        Failure: `permission_denied` when the image belongs to another organization's app.
    """
    repository = own_repository(ctx, reference)
    if repository is None:
        return None
    owner_name = repository.partition("/")[0]
    async with ctx.store.read() as rows:
        owner = app if owner_name == app.name else await rows.apps.by_name(owner_name)
    if owner is None or owner.org_id != app.org_id:
        raise errors.Failure(
            "permission_denied",
            f"the image {reference} is not of an app of organization {app.org_slug}",
        )
    access = Access(repository, frozenset({"pull"}))
    return ctx.signer.sign(
        f"app:{app.name}", [access], now_ms=ctx.clock.now_ms(), lifetime_s=_PULL_S
    )


def push_token(ctx: Context, app: App) -> str:
    """Return a token to push an app's images."""
    access = Access(app.name, frozenset({"pull", "push"}))
    return ctx.signer.sign(
        f"app:{app.name}", [access], now_ms=ctx.clock.now_ms(), lifetime_s=_PUSH_S
    )


def own_repository(ctx: Context, reference: str) -> str | None:
    """Return the repository of a reference into the platform's registry, else `None`.

    Raises:
        Failure: `invalid_argument` when it is no reference.
    """
    parsed = references.parse(reference)
    return parsed.repository if parsed.registry == ctx.options.registry else None


def _allowed(who: Principal) -> frozenset[str]:
    allowed = set()
    if "images:pull" in who.scopes:
        allowed.add("pull")
    if "images:push" in who.scopes:
        allowed.add("push")
    return frozenset(allowed)
