"""Who may pull and push which repository of the platform's registry."""

from collections.abc import Mapping, Sequence

from godwit.base import errors
from godwit.base.principal import Principal
from godwit.control import audit, disk, registry_credentials
from godwit.control.context import Context
from godwit.control.records import App
from godwit.control.registry_tokens import Access, Signer, parse_scopes
from godwit.images import auth
from godwit.images import reference as references

_PULL_S = 24 * 3600
_PUSH_S = 2 * 3600
LIFETIME_S = 900


async def grant(ctx: Context, who: Principal, scopes: Sequence[str]) -> str:
    """Return a registry token for what this principal may do of what it asks.

    What it may not do is left out, as the protocol wants; the registry then refuses.

    Raises:
        Failure: `permission_denied` when it asks to push and its organization, or the registry,
            has no room.
    """
    granted: list[Access] = []
    owners: dict[str, App] = {}
    async with ctx.store.read() as rows:
        for wanted in parse_scopes(scopes):
            app = await rows.apps.by_name(wanted.app)
            if app is not None and who.may_see(app.org_id, app.id):
                granted.append(Access(wanted.repository, wanted.actions & _allowed(who)))
                owners[app.name] = app
    for org_id in {owners[one.app].org_id for one in granted if "push" in one.actions}:
        await _check_room(ctx, org_id)
    await _note_pushes(ctx, who, granted, owners)
    return ctx.signer.sign(who.subject, granted, now_ms=ctx.clock.now_ms(), lifetime_s=LIFETIME_S)


async def pull_token(ctx: Context, app: App, reference: str) -> str | None:
    """Return what opens an image's registry for an app, `None` when nothing is needed.

    For the platform's registry it is a short-lived token, for another one what the app's
    organization, and nobody else, has given for it.

    Raises:
        Failure: `permission_denied` when the image belongs to another organization's app.
    """
    repository = own_repository(ctx, reference)
    if repository is None:
        asked = references.parse(reference).registry
        own = await registry_credentials.of_registry(ctx, app.org_id, asked)
        return own.pull_token() if own else None
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


def offered(token: str | None) -> str | None:
    """Return what of a pull token goes along with an offer, to be kept by the host.

    A user name and password does not: the host asks for it when it pulls, and keeps it nowhere.
    """
    return None if auth.is_login(token) else token


def push_token(ctx: Context, app: App) -> str:
    """Return a token to push an app's images."""
    access = Access(app.name, frozenset({"pull", "push"}))
    return ctx.signer.sign(
        f"app:{app.name}", [access], now_ms=ctx.clock.now_ms(), lifetime_s=_PUSH_S
    )


def delete_token(signer: Signer, repository: str, now_ms: int) -> str:
    """Return a token to delete images of a repository: for the platform's own collections."""
    access = Access(repository, frozenset({"delete"}))
    return signer.sign("component:control", [access], now_ms=now_ms)


def own_repository(ctx: Context, reference: str) -> str | None:
    """Return the repository of a reference into the platform's registry, else `None`.

    Raises:
        Failure: `invalid_argument` when it is no reference.
    """
    parsed = references.parse(reference)
    return parsed.repository if parsed.registry == ctx.options.registry else None


async def _note_pushes(
    ctx: Context, who: Principal, granted: Sequence[Access], owners: Mapping[str, App]
) -> None:
    """Leave a row for each repository that somebody may push to now."""
    pushes = [one for one in granted if "push" in one.actions]
    if not pushes:
        return
    async with ctx.store.write() as rows:
        for one in pushes:
            app = owners[one.app]
            await audit.record(
                rows, ctx.clock, who, "images.push_token", one.repository, org_id=app.org_id
            )


async def _check_room(ctx: Context, org_id: str) -> None:
    try:
        await disk.room_to_push(ctx, org_id)
    except errors.Failure as failure:
        # Registry clients repeat what failed for want of capacity, and show what was denied.
        raise errors.Failure("permission_denied", failure.message, hint=failure.hint) from failure


def _allowed(who: Principal) -> frozenset[str]:
    allowed = set()
    if "images:pull" in who.scopes:
        allowed.add("pull")
    if "images:push" in who.scopes:
        allowed.add("push")
    return frozenset(allowed)
