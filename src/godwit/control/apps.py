"""Apps: made, looked up, deleted. Every change publishes the app's fact through the outbox."""

from dataclasses import dataclass, replace

from godwit.base import errors, ids, log
from godwit.base.principal import Principal, Scope
from godwit.control import audit, names, organizations
from godwit.control.context import Context
from godwit.control.records import App, Network, Organization, Reached
from godwit.control.rows import Rows
from godwit.wire import facts


class NameTaken(errors.Failure):
    """The app's name is in use, by whoever it may be."""

    def __init__(self, name: str) -> None:
        super().__init__("already_exists", f"the name {name!r} has already been taken")


@dataclass(frozen=True)
class NewApp:
    """What a caller wants. An empty name has one made up."""

    org_slug: str
    name: str = ""
    network: str = ""
    role: str = ""
    idempotency_key: str | None = None


@dataclass(frozen=True)
class AppWithCount:
    """An app and how many living machines it has."""

    app: App
    machines: int


@dataclass(frozen=True)
class AppPage:
    """Some of an organization's apps; `next_name` continues after them."""

    apps: list[AppWithCount]
    total: int
    next_name: str | None


async def require(
    rows: Rows, who: Principal, scope: Scope, name: str, *, machine_id: str | None = None
) -> App:
    """Return a living app this principal may act on; or on one machine of it.

    Raises:
        Failure: `not_found`; `permission_denied` when it is somebody else's.
    """
    who.require(scope, machine_id=machine_id)
    app = await rows.apps.by_name(name) if ids.is_app_name(name) else None
    if app is None:
        raise errors.not_found(
            f"app {name!r} not found", hint="list yours with `godwit apps list`"
        )
    if not who.may_see(app.org_id, app.id):
        raise errors.Failure("permission_denied", f"app {name!r} belongs to somebody else")
    log.bind(org_id=app.org_id, network_id=app.network_id, app=app.name)
    return app


async def require_operable(
    rows: Rows, who: Principal, scope: Scope, name: str, *, machine_id: str | None = None
) -> App:
    """Return a living app whose machines are asked for.

    Raises:
        Failure: As `require`; `invalid_argument` when it is one of theirs that was deleted.
    """
    try:
        return await require(rows, who, scope, name, machine_id=machine_id)
    except errors.Failure as failure:
        if failure.code != "not_found" or not ids.is_app_name(name):
            raise
        former = await rows.apps.deleted_by_name(name)
        if former is None or not who.may_see(former.org_id, former.id):
            raise
        raise errors.invalid(f"could not find app {name!r}: it was deleted") from failure


def hostname(app: App, domain: str) -> str:
    """Return the name under which an app answers."""
    return f"{app.name}.{domain}".lower()


async def get(ctx: Context, who: Principal, name: str) -> AppWithCount:
    """Return an app.

    Raises:
        Failure: `not_found`; `permission_denied` when it is somebody else's.
    """
    async with ctx.store.read() as rows:
        app = await require(rows, who, "apps:read", name)
        counts = await rows.placements.counts([app.id])
    return AppWithCount(app, counts.get(app.id, 0))


async def page(
    ctx: Context, who: Principal, org_slug: str, *, role: str | None, after: str, limit: int
) -> AppPage:
    """Return an organization's apps by name, after a name."""
    async with ctx.store.read() as rows:
        org = await organizations.require(rows, who, "apps:read", org_slug)
        found = await rows.apps.page(org.id, role=role, after=after, limit=limit + 1)
        total = await rows.apps.count(org.id, role=role)
        counts = await rows.placements.counts([app.id for app in found])
    shown = [AppWithCount(app, counts.get(app.id, 0)) for app in found[:limit]]
    return AppPage(shown, total, found[limit - 1].name if len(found) > limit else None)


async def create(ctx: Context, who: Principal, wanted: NewApp) -> App:
    """Make an app, or return the one made earlier with the same idempotency key.

    Raises:
        Failure: `invalid_argument`, `not_found` (organization), `NameTaken`.
    """
    if wanted.name and not ids.is_app_name(wanted.name):
        raise errors.invalid(
            f"name: {wanted.name!r} is no app name: lower-case letters, digits and dashes, at"
            " most 63, neither first nor last a dash"
        )
    if wanted.network and not ids.is_slug(wanted.network):
        raise errors.invalid(f"network: {wanted.network!r} is not the name of a network")
    async with ctx.store.write() as rows:
        org = await organizations.require(rows, who, "apps:write", wanted.org_slug)
        earlier = await _earlier(rows, org, wanted)
        if earlier is not None:
            return earlier
        name = wanted.name or await _free_name(rows)
        await _require_free(rows, org, name)
        app = await _add(ctx, rows, org, replace(wanted, name=name))
        await audit.record(rows, ctx.clock, who, "apps.create", app.name, org_id=org.id)
    ctx.facts_wanted.set()
    return app


async def delete(ctx: Context, who: Principal, name: str) -> None:
    """Delete an app; its machines are destroyed by their hosts, now or when they are back.

    `removal.delete_app` asks first whether machines run.
    """
    async with ctx.store.write() as rows:
        app = await require(rows, who, "apps:write", name)
        revision = await rows.meta.next_revision()
        await rows.apps.mark_deleted(app.id, ctx.clock.now_ms(), revision)
        await rows.app_secrets.forget(app.id)
        await rows.kms_keys.forget(app.id)
        await rows.network_policies.forget(app.id)
        await rows.udp_claims.forget(app.id)
        await rows.addresses.forget(app.id)
        # Updated to time 0: upkeep takes them up at once.
        await rows.placements.want_destroyed(app.id, 0)
        await publish(ctx, rows, app, revision, deleted=True)
        await audit.record(rows, ctx.clock, who, "apps.delete", app.name, org_id=app.org_id)
    ctx.facts_wanted.set()
    ctx.upkeep_wanted.set()


async def mark_deployed(rows: Rows, app: App) -> None:
    """Flip a new app to `deployed`: it has its first machine or release."""
    if app.status == "pending":
        await rows.apps.set_status(app.id, "deployed")


def fact(
    ctx: Context, app: App, reached: Reached, *, epoch: int, revision: int, deleted: bool
) -> facts.AppFact:
    """Return what edges and DNS are told of an app."""
    hidden = deleted or reached.inside_alone
    return facts.AppFact(
        epoch=epoch,
        revision=revision,
        deleted=deleted,
        org_id=app.org_id,
        org_slug=app.org_slug,
        network_id=app.network_id,
        network_number=app.network_number,
        app_id=app.id,
        app=app.name,
        hostnames=() if hidden else (hostname(app, ctx.options.apps_domain),),
        addresses=() if deleted else reached.own,
        shared_udp=() if deleted else reached.shared_udp,
        replays_across_networks=app.replays_across_networks,
    )


async def publish(ctx: Context, rows: Rows, app: App, revision: int, *, deleted: bool) -> None:
    """Put an app's fact into the outbox."""
    epoch = (await rows.meta.get()).epoch
    reached = (await rows.addresses.reached([app.id])).get(app.id, Reached())
    told = fact(ctx, app, reached, epoch=epoch, revision=revision, deleted=deleted)
    await rows.outbox.add(told.model_dump(mode="json"))


async def tell(ctx: Context, rows: Rows, app: App) -> None:
    """Put an app's fact, as it is now, into the outbox: something that edges know has changed."""
    revision = await rows.meta.next_revision()
    await rows.apps.touch(app.id, revision)
    await publish(ctx, rows, app, revision, deleted=False)


async def _earlier(rows: Rows, org: Organization, wanted: NewApp) -> App | None:
    if not wanted.idempotency_key:
        return None
    earlier = await rows.apps.by_idempotency_key(org.id, wanted.idempotency_key)
    if earlier is not None and wanted.name not in ("", earlier.name):
        raise errors.invalid(f"idempotency_key: it was used for the app {earlier.name!r} already")
    return earlier


async def _free_name(rows: Rows) -> str:
    for _ in range(20):
        name = names.make()
        if await rows.apps.by_name(name) is None:
            return name
    raise errors.Failure("unavailable", "no free name was found; give one")


async def _require_free(rows: Rows, org: Organization, name: str) -> None:
    """Refuse a name in use, and one whose images in the registry are another organization's."""
    if await rows.apps.by_name(name) is not None:
        raise NameTaken(name)
    former = await rows.apps.deleted_by_name(name)
    if former is not None and former.org_id != org.id:
        raise NameTaken(name)


async def network_named(ctx: Context, rows: Rows, org: Organization, name: str) -> Network:
    """Return a network of an organization, made the first time that it is named."""
    network = await rows.networks.by_name(org.id, name)
    if network is None:
        network = Network(
            id=ids.tagged("net"),
            number=await rows.meta.next_number("networks"),
            org_id=org.id,
            name=name,
            created_at_ms=ctx.clock.now_ms(),
        )
        await rows.networks.add(network)
    return network


async def _add(ctx: Context, rows: Rows, org: Organization, wanted: NewApp) -> App:
    network = await network_named(ctx, rows, org, wanted.network or "default")
    app = App(
        id=ids.tagged("app"),
        number=await rows.meta.next_number("apps"),
        org_id=org.id,
        org_slug=org.slug,
        org_name=org.name,
        org_number=org.number,
        network_id=network.id,
        network_name=network.name,
        network_number=network.number,
        name=wanted.name,
        status="pending",
        role=wanted.role,
        idempotency_key=wanted.idempotency_key or None,
        revision=await rows.meta.next_revision(),
        created_at_ms=ctx.clock.now_ms(),
    )
    await rows.apps.add(app)
    await publish(ctx, rows, app, app.revision, deleted=False)
    return app
