"""Machines: created, updated, read. Their hosts own them; control keeps where they are.

A read asks the owner and falls back on the last that was heard, marked `unreachable`.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Literal

import pydantic

from godwit.base import clock, errors, ids
from godwit.base.principal import Principal, Scope
from godwit.control import apps, audit, guest_sizes, machine_config, names, placement, registry
from godwit.control import regions as places
from godwit.control.context import Context
from godwit.control.records import App, MachineVersion, Placement
from godwit.control.rows import Rows
from godwit.wire import host_rpc

HostStatus = Literal["ok", "unknown", "unreachable"]

SILENT = ("unavailable", "deadline_exceeded")
_MOST_LISTED = 1_000
_LONGEST_NAME = 63


@dataclass(frozen=True)
class NewMachine:
    """What a caller wants; empty means the default."""

    config: dict[str, Any]
    name: str = ""
    region: str = ""
    skip_launch: bool = False
    cordoned: bool = False


@dataclass(frozen=True)
class NewVersion:
    """A new config for a machine; name and region, when given, must be those it has."""

    config: dict[str, Any]
    name: str = ""
    region: str = ""
    skip_launch: bool = False
    current_version: str | None = None


@dataclass(frozen=True)
class Machine:
    """A machine, and whether its host answers."""

    view: host_rpc.MachineView
    host_status: HostStatus
    destroyed: bool = False


@dataclass(frozen=True)
class Filter:
    """Which machines are listed."""

    include_deleted: bool = False
    region: str | None = None
    states: frozenset[str] = frozenset()
    metadata: tuple[tuple[str, str], ...] = ()

    def wants(self, machine: Machine) -> bool:
        """Tell whether a machine is listed."""
        view = machine.view
        if self.region and view.region != self.region:
            return False
        if self.states and view.state not in self.states:
            return False
        metadata = view.config.get("metadata") or {}
        return all(metadata.get(key) == value for key, value in self.metadata)


async def locate(
    rows: Rows, who: Principal, scope: Scope, app_name: str, machine_id: str
) -> tuple[App, Placement]:
    """Return an app's machine.

    Raises:
        Failure: `not_found`; `permission_denied` when the app is somebody else's.
    """
    app = await apps.require(rows, who, scope, app_name)
    found = await rows.placements.get(machine_id) if ids.is_machine_id(machine_id) else None
    if found is None or found.app_id != app.id or found.status != "accepted":
        raise errors.not_found(
            f"app {app_name!r} has no machine {machine_id!r}",
            hint="list them with `godwit machine list`",
        )
    return app, found


async def create(ctx: Context, who: Principal, app_name: str, wanted: NewMachine) -> Machine:
    """Make a machine on the host that bids best, and start it unless told otherwise.

    Raises:
        Failure: `invalid_argument`, `manifest_unknown`, `already_exists` (name),
            `insufficient_capacity`, `unavailable`.
    """
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "machines:write", app_name)
        present = await rows.hosts.regions()
    config = machine_config.parse(wanted.config)
    resources = guest_sizes.resources(config)
    if wanted.name and not _is_name(wanted.name):
        raise errors.invalid(f"name: must be 1 to {_LONGEST_NAME} printable characters")
    regions = places.choose(wanted.region, present, ctx.options.region)
    pull_token = await registry.pull_token(ctx, app, config.image)
    image = await ctx.images.resolve(config.image, pull_token)
    row = await _commit(ctx, who, app, wanted, regions[0])
    offer = host_rpc.Offer(
        machine_id=row.machine_id,
        instance_id=row.instance_id,
        name=row.name,
        org_id=app.org_id,
        org_slug=app.org_slug,
        network_id=app.network_id,
        network_number=app.network_number,
        app_id=app.id,
        app=app.name,
        region=regions[0],
        image=image,
        resources=resources,
        config=wanted.config,
        pull_token=pull_token,
        skip_launch=wanted.skip_launch,
        cordoned=wanted.cordoned,
    )
    taken = await _place_or_abandon(ctx, who, offer, regions)
    await _accept(ctx, app, taken)
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
    pull_token = await registry.pull_token(ctx, app, config.image)
    image = await ctx.images.resolve(config.image, pull_token)
    request = host_rpc.Update(
        machine_id=machine_id,
        instance_id=ids.ulid(ctx.clock.now_ms()),
        image=image,
        resources=resources,
        config=wanted.config,
        pull_token=pull_token,
        skip_launch=wanted.skip_launch,
        current_version=wanted.current_version or None,
    )
    body = await ctx.hosts.call(_host(row), "machine.update", request, who, ctx.options.act_s)
    view = host_rpc.MachineView.model_validate(body)
    now_ms = ctx.clock.now_ms()
    async with ctx.store.write() as rows:
        await rows.placements.record_view(machine_id, view.model_dump(mode="json"), now_ms)
        await rows.placements.add_version(_version(app, row.machine_id, view, now_ms))
        await audit.record(
            rows,
            ctx.clock,
            who,
            "machines.update",
            machine_id,
            org_id=app.org_id,
            app=app.name,
            version=view.instance_id,
            image=image.reference,
        )
    return Machine(view, "ok")


async def get(
    ctx: Context, who: Principal, app_name: str, machine_id: str, *, version: str | None = None
) -> Machine:
    """Return a machine, also one that was destroyed; of an old version, as `replaced`.

    Raises:
        Failure: `not_found`.
    """
    async with ctx.store.read() as rows:
        app, row = await locate(rows, who, "machines:read", app_name, machine_id)
        old = await rows.placements.versions(machine_id, _MOST_LISTED) if version else []
    machine = await _ask(ctx, who, app, row)
    if version and version != machine.view.instance_id:
        for known in old:
            if known.version == version:
                shown = {"instance_id": version, "state": "replaced", "config": known.config}
                return replace(machine, view=machine.view.model_copy(update=shown))
        raise errors.not_found(f"machine {machine_id} has no version {version!r}")
    return machine


async def listed(ctx: Context, who: Principal, app_name: str, only: Filter) -> list[Machine]:
    """Return an app's machines, oldest first; each host is asked once."""
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "machines:read", app_name)
        found = await rows.placements.of_app(
            app.id, destroyed=only.include_deleted, limit=_MOST_LISTED
        )
    host_ids = sorted({row.host_id for row in found if row.host_id and not row.destroyed_at_ms})
    answers = await asyncio.gather(*(_ask_host(ctx, who, app, host_id) for host_id in host_ids))
    views = {view.machine_id: view for answer in answers for view in answer or ()}
    silent = {host for host, answer in zip(host_ids, answers, strict=True) if answer is None}
    machines = []
    for row in found:
        view = views.get(row.machine_id)
        status: HostStatus = "unreachable" if row.host_id in silent else "ok"
        machine = Machine(view, "ok") if view else _last_heard(app, row, status)
        gone = machine.view.state == "destroyed"
        if (only.include_deleted or not gone) and only.wants(machine):
            machines.append(machine)
    return machines


async def versions(
    ctx: Context, who: Principal, app_name: str, machine_id: str
) -> list[MachineVersion]:
    """Return the configs a machine has had, newest first."""
    async with ctx.store.read() as rows:
        await locate(rows, who, "machines:read", app_name, machine_id)
        return await rows.placements.versions(machine_id, 100)


def _is_name(name: str) -> bool:
    return len(name) <= _LONGEST_NAME and name.isprintable() and not name.isspace()


def _host(row: Placement) -> str:
    if row.host_id is None:
        raise errors.Failure("unavailable", f"machine {row.machine_id} has no host")
    return row.host_id


async def _commit(
    ctx: Context, who: Principal, app: App, wanted: NewMachine, region: str
) -> Placement:
    """Mint the machine's id and commit it before anybody is offered anything."""
    now_ms = ctx.clock.now_ms()
    row = Placement(
        machine_id=ids.machine_id(),
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
        await rows.placements.add(row)
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
    return row


async def _place_or_abandon(
    ctx: Context, who: Principal, offer: host_rpc.Offer, regions: list[str]
) -> placement.Taken:
    """Place a machine, or leave nothing of it: upkeep asks the host whether it has it."""
    taken = None
    try:
        taken = await placement.place(ctx, who, offer, regions)
    finally:
        if taken is None:
            async with ctx.store.write() as rows:
                await rows.placements.set_status(offer.machine_id, "abandoned", 0)
            ctx.upkeep_wanted.set()
    return taken


async def _accept(ctx: Context, app: App, taken: placement.Taken) -> None:
    now_ms = ctx.clock.now_ms()
    machine_id = taken.view.machine_id
    async with ctx.store.write() as rows:
        await rows.placements.set_status(machine_id, "accepted", now_ms)
        await rows.placements.record_view(machine_id, taken.view.model_dump(mode="json"), now_ms)
        await rows.placements.add_version(_version(app, machine_id, taken.view, now_ms))
        await apps.mark_deployed(rows, app)


def _version(app: App, machine_id: str, view: host_rpc.MachineView, now_ms: int) -> MachineVersion:
    return MachineVersion(
        machine_id=machine_id,
        org_id=app.org_id,
        app_id=app.id,
        version=view.instance_id,
        config=view.config,
        created_at_ms=now_ms,
    )


async def _ask(ctx: Context, who: Principal, app: App, row: Placement) -> Machine:
    """Return a machine by its owner's word, else by the last that was heard."""
    if row.host_id is None:
        return _last_heard(app, row, "unknown")
    try:
        body = await ctx.hosts.call(
            row.host_id, "machine.get", {"machine_id": row.machine_id}, who, ctx.options.ask_s
        )
        view = host_rpc.MachineView.model_validate(body)
    except errors.Failure as failure:
        if failure.code == "not_found":
            return _last_heard(app, row, "ok" if row.destroyed_at_ms else "unknown")
        if failure.code not in SILENT:
            raise
        return _last_heard(app, row, "unreachable")
    await keep_view(ctx, row, view)
    return Machine(view, "ok", destroyed=view.state == "destroyed")


async def keep_view(ctx: Context, row: Placement, view: host_rpc.MachineView) -> None:
    """Keep an owner's view if it is newer than the one that is kept."""
    kept = row.view or {}
    if (view.epoch, view.revision) > (kept.get("epoch", 0), kept.get("revision", 0)):
        async with ctx.store.write() as rows:
            await rows.placements.record_view(
                row.machine_id, view.model_dump(mode="json"), ctx.clock.now_ms()
            )


async def _ask_host(
    ctx: Context, who: Principal, app: App, host_id: str
) -> list[host_rpc.MachineView] | None:
    try:
        body = await ctx.hosts.call(
            host_id, "machine.list", {"app_id": app.id}, who, ctx.options.ask_s
        )
    except errors.Failure as failure:
        if failure.code in SILENT:
            return None
        raise
    return [host_rpc.MachineView.model_validate(one) for one in body.get("machines", ())]


def _last_heard(app: App, row: Placement, status: HostStatus) -> Machine:
    """Return a machine as facts and earlier answers tell it."""
    try:
        view = host_rpc.MachineView.model_validate(row.view)
    except pydantic.ValidationError:
        view = _outline(app, row)
    if (row.epoch, row.revision) >= (view.epoch, view.revision) or row.destroyed_at_ms:
        state = "destroyed" if row.destroyed_at_ms else row.state
        view = view.model_copy(update={"state": state, "instance_id": row.instance_id})
    return Machine(view, status, destroyed=row.destroyed_at_ms is not None)


def _outline(app: App, row: Placement) -> host_rpc.MachineView:
    """Return what is known of a machine of which only facts were heard."""
    at = clock.rfc3339(row.created_at_ms)
    return host_rpc.MachineView(
        machine_id=row.machine_id,
        instance_id=row.instance_id,
        name=row.name,
        org_id=row.org_id,
        network_id=row.network_id,
        app_id=row.app_id,
        app=app.name,
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
