"""Machines: created, updated, read. Their hosts own them; control keeps where they are.

A read asks the owner and falls back on the last that was heard, marked `unreachable`.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any, Literal

import pydantic

from godwit.base import clock, errors, ids, log, principal
from godwit.base.principal import Principal, Scope
from godwit.control import (
    apps,
    audit,
    guest_sizes,
    machine_config,
    machine_images,
    names,
    network_policies,
    placement,
    secrets,
    shared_ports,
)
from godwit.control import regions as places
from godwit.control.context import Context
from godwit.control.records import App, MachineVersion, Placement
from godwit.control.rows import Rows
from godwit.wire import host_rpc
from godwit.wire.network_policies import AppPolicies

logger = logging.getLogger(__name__)

HostStatus = Literal["ok", "unknown", "unreachable"]

SILENT = ("unavailable", "deadline_exceeded")
_OLD = "replaced"
_ME = principal.component("control")
_MOST_VERSIONS = 50
_LONGEST_NAME = 63


class TooManyMachines(errors.Failure):
    """The organization has as many machines as it may have, or would with so many new ones."""

    def __init__(self, org_slug: str, most: int, new: int = 0) -> None:
        super().__init__(
            "failed_precondition",
            f"organization {org_slug!r} may have {most} machines, not {new} more than it has"
            if new
            else f"organization {org_slug!r} has {most} machines, and may have no more",
            hint="destroy some; whoever runs this platform may raise `limits.org_machines`",
        )


@dataclass(frozen=True)
class NewMachine:
    """What a caller wants; empty means the default.

    Attributes:
        lease_ttl_s: Above 0, the machine begins under the caller's lease.
        min_secrets_version: The oldest secrets of the app that will do.
        machine_id: The id it gets; asked for again, the one that is there is finished and
            returned. Empty mints one.
        avoiding: Hosts that it may not be on.
    """

    config: dict[str, Any]
    name: str = ""
    region: str = ""
    skip_launch: bool = False
    cordoned: bool = False
    lease_ttl_s: int = 0
    min_secrets_version: int | None = None
    machine_id: str = ""
    avoiding: frozenset[str] = frozenset()


class GivenUp(errors.Failure):
    """A machine of that id was begun and given up: whatever there is of it goes."""

    def __init__(self, machine_id: str) -> None:
        super().__init__(
            "unavailable",
            f"machine {machine_id} was given up before it was made: that took too long",
            hint="make it again",
        )


@dataclass(frozen=True)
class NewVersion:
    """A new config for a machine; name and region, when given, must be those it has.

    Attributes:
        nonce: Of the caller's lease.
    """

    config: dict[str, Any]
    name: str = ""
    region: str = ""
    skip_launch: bool = False
    current_version: str | None = None
    lease_ttl_s: int = 0
    min_secrets_version: int | None = None
    nonce: str | None = None


@dataclass(frozen=True)
class Machine:
    """A machine, and whether its host answers."""

    view: host_rpc.MachineView
    host_status: HostStatus
    destroyed: bool = False


async def locate(
    rows: Rows, who: Principal, scope: Scope, app_name: str, machine_id: str
) -> tuple[App, Placement]:
    """Return an app's machine.

    Raises:
        Failure: `not_found`; `permission_denied` when the app is somebody else's.
    """
    app = await apps.require_operable(rows, who, scope, app_name, machine_id=machine_id)
    found = await rows.placements.get(machine_id) if ids.is_machine_id(machine_id) else None
    if found is None or found.app_id != app.id or found.status != "accepted":
        raise errors.not_found(
            f"app {app_name!r} has no machine {machine_id!r}",
            hint="list them with `godwit machine list`",
        )
    log.bind(**found.about)
    return app, found


async def create(ctx: Context, who: Principal, app_name: str, wanted: NewMachine) -> Machine:
    """Make a machine on the host that bids best, and start it unless told otherwise.

    Raises:
        Failure: `invalid_argument`, `manifest_unknown`, `already_exists` (name),
            `insufficient_capacity`, `unavailable`; `GivenUp` for an id that ended so.
    """
    async with ctx.store.read() as rows:
        app = await apps.require_operable(rows, who, "machines:write", app_name)
        present = await rows.hosts.regions()
        begun = await rows.placements.get(wanted.machine_id) if wanted.machine_id else None
    if begun is not None:
        begun = await _take_up(ctx, app, begun)
        if begun.status == "accepted":
            return await _ask(ctx, who, app_name, begun, None)
    config = machine_config.parse(wanted.config)
    guest_sizes.resources(config)
    await secrets.check_machine(ctx, app, config, wanted.min_secrets_version)
    if wanted.name and not _is_name(wanted.name):
        raise errors.invalid(f"name: must be 1 to {_LONGEST_NAME} printable characters")
    regions = places.choose(wanted.region, present, ctx.options.region)
    images = await machine_images.resolve(ctx, app, config)
    row = begun or await _commit(ctx, who, app, wanted, regions[0])
    policies = await network_policies.told(ctx, app)
    offer = _offer(app, who, wanted, row, images, policies=policies)
    if row.host_id is None:
        taken = await _place_or_abandon(ctx, who, offer, regions, wanted.avoiding)
    else:
        taken = await _offer_again(ctx, who, offer, row.host_id)
    settled = await _accept(ctx, app, row, taken, config.standbys)
    if settled.host_id != taken.host_id:
        # Another replica was first; the machine that its host has not is a stray (`strays`).
        return await _ask(ctx, who, app_name, settled, None)
    return Machine(taken.view, "ok")


async def update(
    ctx: Context, who: Principal, app_name: str, machine_id: str, wanted: NewVersion
) -> Machine:
    """Give a machine a new config as a whole.

    Raises:
        Failure: `conflict` when `current_version` is not its version any more, and as `create`.
    """
    async with ctx.store.read() as rows:
        app, row = await locate(rows, who, "machines:write", app_name, machine_id)
    if wanted.name not in ("", row.name):
        raise errors.invalid("name: the name of a machine cannot change")
    if wanted.region not in ("", row.region):
        raise errors.invalid("region: a machine cannot move by an update")
    config = machine_config.parse(wanted.config)
    resources = guest_sizes.resources(config)
    await secrets.check_machine(ctx, app, config, wanted.min_secrets_version)
    sealed = await secrets.for_host(ctx, app.id, host_of(row))
    images = await machine_images.resolve(ctx, app, config)
    request = host_rpc.Update(
        machine_id=machine_id,
        instance_id=ids.ulid(ctx.clock.now_ms()),
        image=images.image,
        resources=resources,
        config=wanted.config,
        container_images=images.containers,
        image_files=images.files,
        pull_token=images.pull_token,
        skip_launch=wanted.skip_launch,
        current_version=wanted.current_version or None,
        lease_ttl_s=wanted.lease_ttl_s,
        lease_owner=who.subject if wanted.lease_ttl_s else "",
        min_secrets_version=wanted.min_secrets_version,
        secrets_version=sealed.version if sealed else 0,
        secrets=sealed,
        policies=await network_policies.told(ctx, app),
        nonce=wanted.nonce,
    )
    await _begin_update(ctx, who, app, request)
    body = await ctx.hosts.call(host_of(row), "machine.update", request, who, ctx.options.act_s)
    view = host_rpc.MachineView.model_validate(body)
    now_ms = ctx.clock.now_ms()
    async with ctx.store.write() as rows:
        await rows.placements.record_view(machine_id, kept(view), now_ms)
        await rows.placements.add_version(_version(app, row.machine_id, view, now_ms))
        await rows.standbys.put(row, config.standbys)
    return Machine(view, "ok")


async def _begin_update(ctx: Context, who: Principal, app: App, request: host_rpc.Update) -> None:
    """Give the app what its new config needs to have, and note who wants it."""
    async with ctx.store.write() as rows:
        claimed = await shared_ports.claim(ctx, rows, app, [request.config])
        await audit.record(
            rows,
            ctx.clock,
            who,
            "machines.update",
            request.machine_id,
            org_id=app.org_id,
            app=app.name,
            version=request.instance_id,
            image=request.image.reference,
        )
    if claimed:
        ctx.facts_wanted.set()


async def get(
    ctx: Context, who: Principal, app_name: str, machine_id: str, *, version: str | None = None
) -> Machine:
    """Return a machine, also one that was destroyed; of an old version, as `replaced`.

    Raises:
        Failure: `not_found`.
    """
    async with ctx.store.read() as rows:
        _, row = await locate(rows, who, "machines:read", app_name, machine_id)
    machine = await _ask(ctx, who, app_name, row, version)
    if not version or version == machine.view.instance_id:
        return machine
    async with ctx.store.read() as rows:
        old = await rows.placements.version(machine_id, version)
    if old is None:
        raise errors.not_found(f"machine {machine_id} has no version {version!r}")
    shown = {"instance_id": version, "state": _OLD, "config": old.config}
    return replace(machine, view=machine.view.model_copy(update=shown))


async def versions(
    ctx: Context, who: Principal, app_name: str, machine_id: str
) -> list[host_rpc.Version]:
    """Return the configs a machine has had, newest first; as control knows them else."""
    async with ctx.store.read() as rows:
        _, row = await locate(rows, who, "machines:read", app_name, machine_id)
        known = await rows.placements.versions(machine_id, _MOST_VERSIONS)
    try:
        return await _versions_of_owner(ctx, who, row)
    except errors.Failure as failure:
        if failure.code not in (*SILENT, "not_found"):
            raise
    return [host_rpc.Version(version=one.version, user_config=one.config) for one in known]


async def _versions_of_owner(
    ctx: Context, who: Principal, row: Placement
) -> list[host_rpc.Version]:
    """Return what the owner tells, answer by answer: all at once need not fit one."""
    found: list[host_rpc.Version] = []
    more = True
    while more:
        asked = {"machine_id": row.machine_id}
        if found:
            asked["before"] = found[-1].version
        body = await ctx.hosts.call(
            host_of(row), "machine.versions", asked, who, ctx.options.ask_s
        )
        told = [host_rpc.Version.model_validate(one) for one in body.get("versions", ())]
        found += told
        more = bool(told) and body.get("more") is True
    return found


def _is_name(name: str) -> bool:
    return len(name) <= _LONGEST_NAME and name.isprintable() and not name.isspace()


def host_of(row: Placement) -> str:
    """Return where a machine lives.

    Raises:
        Failure: `unavailable` when no host has it.
    """
    if row.host_id is None:
        raise errors.Failure("unavailable", f"machine {row.machine_id} has no host")
    return row.host_id


async def _commit(
    ctx: Context, who: Principal, app: App, wanted: NewMachine, region: str
) -> Placement:
    """Mint the machine's id and commit it before anybody is offered anything."""
    now_ms = ctx.clock.now_ms()
    row = Placement(
        machine_id=wanted.machine_id or ids.machine_id(),
        org_id=app.org_id,
        network_id=app.network_id,
        app_id=app.id,
        name=wanted.name or names.make(),
        region=region,
        host_id=None,
        status="offered",
        instance_id=ids.ulid(now_ms),
        state="created",
        epoch=0,
        revision=0,
        view=None,
        destroy_wanted=False,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        changed_at_ms=now_ms,
    )
    async with ctx.store.write() as rows:
        # The app may have been deleted while the image was looked up.
        await apps.require(rows, who, "machines:write", app.name)
        if await rows.placements.alive_by_name(app.id, row.name) is not None:
            if wanted.name:
                raise errors.Failure(
                    "already_exists", f"app {app.name!r} has a machine named {row.name!r} already"
                )
            row = replace(row, name=f"{names.make()}-{row.machine_id[:4]}")
        if wanted.machine_id and await rows.placements.get(wanted.machine_id) is not None:
            raise errors.Failure(
                "conflict", f"machine {wanted.machine_id} is being made by another replica"
            )
        await rows.placements.add(row)
        await _demand_room(ctx, rows, app)
        claimed = await shared_ports.claim(ctx, rows, app, [wanted.config])
        await audit.record(
            rows,
            ctx.clock,
            who,
            "machines.create",
            row.machine_id,
            org_id=app.org_id,
            app=app.name,
            name=row.name,
            image=wanted.config.get("image"),
        )
    if claimed:
        ctx.facts_wanted.set()
    return row


async def _demand_room(ctx: Context, rows: Rows, app: App) -> None:
    """Return if an organization may have the machine that was just added.

    Raises:
        TooManyMachines: It may not.
    """
    most = ctx.options.org_machines
    if most and await rows.placements.has_more(app.org_id, most):
        raise TooManyMachines(app.org_slug, most)


def _offer(
    app: App,
    who: Principal,
    wanted: NewMachine,
    row: Placement,
    images: machine_images.Resolved,
    *,
    policies: AppPolicies | None,
) -> host_rpc.Offer:
    return host_rpc.Offer(
        machine_id=row.machine_id,
        instance_id=row.instance_id,
        name=row.name,
        org_id=app.org_id,
        org_slug=app.org_slug,
        network_id=app.network_id,
        network_number=app.network_number,
        app_id=app.id,
        app=app.name,
        region=row.region,
        image=images.image,
        resources=guest_sizes.resources(machine_config.parse(wanted.config)),
        config=wanted.config,
        container_images=images.containers,
        image_files=images.files,
        pull_token=images.pull_token,
        skip_launch=wanted.skip_launch,
        cordoned=wanted.cordoned,
        lease_ttl_s=wanted.lease_ttl_s,
        lease_owner=who.subject if wanted.lease_ttl_s else "",
        min_secrets_version=wanted.min_secrets_version,
        policies=policies,
    )


async def _take_up(ctx: Context, app: App, begun: Placement) -> Placement:
    """Return a machine that was begun before as it is now; upkeep leaves it alone for a while.

    Raises:
        Failure: `GivenUp`; `conflict` when the id is another app's.
    """
    if begun.app_id != app.id:
        raise errors.Failure("conflict", f"machine {begun.machine_id} is of another app")
    async with ctx.store.write() as rows:
        await rows.placements.renew_offer(begun.machine_id, ctx.clock.now_ms())
        return await _not_given_up(rows, begun.machine_id)


async def _not_given_up(rows: Rows, machine_id: str) -> Placement:
    row = await rows.placements.get(machine_id)
    if row is None or row.status == "abandoned":
        raise GivenUp(machine_id)
    return row


async def _offer_again(
    ctx: Context, who: Principal, offer: host_rpc.Offer, host_id: str
) -> placement.Taken:
    """Offer a machine to the host that may have it already, and to no other.

    Raises:
        Failure: `GivenUp` when that host will not have it; `unavailable` while it is away.
    """
    try:
        return await placement.offer_to(ctx, who, offer, host_id)
    except errors.Failure as failure:
        if failure.code in SILENT:
            raise
        async with ctx.store.write() as rows:
            await rows.placements.abandon(offer.machine_id)
        ctx.upkeep_wanted.set()
        raise GivenUp(offer.machine_id) from failure


async def _place_or_abandon(
    ctx: Context,
    who: Principal,
    offer: host_rpc.Offer,
    regions: list[str],
    avoiding: frozenset[str],
) -> placement.Taken:
    """Place a machine, or leave nothing of it: upkeep asks the host whether it has it."""
    taken = None
    try:
        taken = await placement.place(ctx, who, offer, regions, avoiding)
    finally:
        if taken is None:
            async with ctx.store.write() as rows:
                await rows.placements.abandon(offer.machine_id)
            ctx.upkeep_wanted.set()
    return taken


async def _accept(
    ctx: Context, app: App, row: Placement, taken: placement.Taken, watched: list[str]
) -> Placement:
    """Note that a host has the machine; return where it is, if another replica noted that first.

    Raises:
        Failure: `GivenUp` when it was given up meanwhile: upkeep ends it.
    """
    now_ms, view = ctx.clock.now_ms(), taken.view
    async with ctx.store.write() as rows:
        if not await rows.placements.accept(row.machine_id, taken.host_id, view.region, now_ms):
            return await _not_given_up(rows, row.machine_id)
        row = replace(row, host_id=taken.host_id)
        await rows.placements.record_view(row.machine_id, kept(view), now_ms)
        await rows.placements.add_version(_version(app, row.machine_id, view, now_ms))
        await rows.standbys.put(row, watched)
        await apps.mark_deployed(rows, app)
    return row


def kept(view: host_rpc.MachineView) -> dict[str, Any]:
    """Return what is kept of an owner's view: all but the lease, whose nonce is its holder's."""
    return view.model_copy(update={"lease": None}).model_dump(mode="json")


def _version(app: App, machine_id: str, view: host_rpc.MachineView, now_ms: int) -> MachineVersion:
    return MachineVersion(
        machine_id=machine_id,
        org_id=app.org_id,
        app_id=app.id,
        version=view.instance_id,
        config=view.config,
        created_at_ms=now_ms,
    )


async def _ask(
    ctx: Context, who: Principal, app_name: str, row: Placement, version: str | None
) -> Machine:
    """Return a machine by its owner's word, else by the last that was heard."""
    if row.host_id is None:
        return last_heard(app_name, row, "unknown")
    asked = {"machine_id": row.machine_id}
    try:
        body = await ctx.hosts.call(
            row.host_id,
            "machine.get",
            {**asked, "version": version} if version else asked,
            who,
            ctx.options.ask_s,
        )
        view = host_rpc.MachineView.model_validate(body)
    except errors.Failure as failure:
        if failure.code == "not_found":
            return last_heard(app_name, row, "ok" if row.destroyed_at_ms else "unknown")
        if failure.code not in SILENT:
            raise
        return last_heard(app_name, row, "unreachable")
    if view.state != _OLD:
        await keep_view(ctx, row, view)
    return Machine(doomed(row, view), "ok", destroyed=view.state == "destroyed")


async def refresh(ctx: Context, machine_id: str) -> None:
    """Keep what a machine's owner says of it now; one that is away says nothing."""
    async with ctx.store.read() as rows:
        row = await rows.placements.get(machine_id)
    if row is None or row.host_id is None or row.status != "accepted":
        return
    asked = {"machine_id": machine_id}
    try:
        body = await ctx.hosts.call(row.host_id, "machine.get", asked, _ME, ctx.options.ask_s)
    except errors.Failure as failure:
        with log.bound(**row.about):
            logger.info("the view of machine %s stays as it is: %s", machine_id, failure.message)
        return
    await keep_view(ctx, row, host_rpc.MachineView.model_validate(body))


async def keep_view(ctx: Context, row: Placement, view: host_rpc.MachineView) -> None:
    """Keep an owner's view if it is newer than the one that is kept."""
    known = row.view or {}
    if (view.epoch, view.revision) > (known.get("epoch", 0), known.get("revision", 0)):
        async with ctx.store.write() as rows:
            await rows.placements.record_view(row.machine_id, kept(view), ctx.clock.now_ms())


def last_heard(app_name: str, row: Placement, status: HostStatus) -> Machine:
    """Return a machine as facts and earlier answers tell it."""
    try:
        view = host_rpc.MachineView.model_validate(row.view)
    except pydantic.ValidationError:
        view = _outline(app_name, row)
    if (row.epoch, row.revision) >= (view.epoch, view.revision) or row.destroyed_at_ms:
        state = "destroyed" if row.destroyed_at_ms else row.state
        view = view.model_copy(update={"state": state, "instance_id": row.instance_id})
    return Machine(doomed(row, view), status, destroyed=row.destroyed_at_ms is not None)


def doomed(row: Placement, view: host_rpc.MachineView) -> host_rpc.MachineView:
    """Return a view of a machine that is to be gone as `destroying`: it counts no more."""
    if not row.destroy_wanted or view.state == "destroyed":
        return view
    return view.model_copy(update={"state": "destroying"})


def _outline(app_name: str, row: Placement) -> host_rpc.MachineView:
    """Return what is known of a machine of which only facts were heard."""
    at = clock.rfc3339(row.created_at_ms)
    return host_rpc.MachineView(
        machine_id=row.machine_id,
        instance_id=row.instance_id,
        name=row.name,
        org_id=row.org_id,
        network_id=row.network_id,
        app_id=row.app_id,
        app=app_name,
        host_id=row.host_id or "",
        region=row.region,
        state=row.state,
        private_ip="",
        image=host_rpc.ImageRef(reference="", registry="", repository="", digest=""),
        config={},
        created_at=at,
        updated_at=clock.rfc3339(row.updated_at_ms),
        epoch=row.epoch,
        revision=row.revision,
    )
