"""Deploys, as the API asks for them: begun, planned, looked at, cancelled, rolled back.

Beginning one decides everything and writes it down, with its release, in one transaction: the
plan, the ids of the machines it makes, the versions that the others have now, and on whose behalf
it acts. `worker` does the rest.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from godwit.appconfig import raw
from godwit.appconfig.machine import ReleaseMark
from godwit.appconfig.model import Config
from godwit.base import clock, errors, ids
from godwit.base.principal import Principal
from godwit.control import (
    apps,
    audit,
    listing,
    machine_config,
    machine_images,
    registry,
    shared_ports,
)
from godwit.control import regions as places
from godwit.control.context import Context
from godwit.control.deploys import configs, definitions, operations, order, plan, refusals, unmade
from godwit.control.deploys.journal import TURNED, past_return
from godwit.control.deploys.order import Kind, Order, Plan, Settings
from godwit.control.records import App, MachineVersion, Release, RunEntry, RunRow
from godwit.control.rows import Rows
from godwit.wire.deploys import Options
from godwit.wire.host_rpc import MachineView

_TRIES = 3
_MOST_ENTRIES = 1_000
_MOST_RELEASES = 500
_ALL_ENTRIES = 100_000
_SEED = "seed_command"
_POLL_S = 0.25


@dataclass(frozen=True)
class NewDeploy:
    """What a caller wants.

    Attributes:
        definition: fly.toml as JSON, local files put in.
        image: What to run; empty takes `build.image`.
    """

    definition: dict[str, Any] = field(default_factory=dict)
    image: str = ""
    options: Options = field(default_factory=Options)
    kind: Kind = "deploy"


@dataclass(frozen=True)
class Deploy:
    """A run with what was written down about it since the caller last looked.

    Attributes:
        done: Names of the steps, and of their parts, that are done.
        last: The newest that was written down.
    """

    row: RunRow
    order: Order
    release: Release
    entries: list[RunEntry]
    done: frozenset[str] = frozenset()
    last: list[RunEntry] = field(default_factory=list)


@dataclass(frozen=True)
class _Decided:
    """All that a deploy begins with."""

    app: App
    wanted: NewDeploy
    image: str
    region: str
    settings: Settings
    plan: Plan
    machines: list[MachineView]
    last_version: int
    configs: list[dict[str, Any]]


async def begin(ctx: Context, who: Principal, app_name: str, wanted: NewDeploy) -> Deploy:
    """Begin a deploy, which control then carries through by itself.

    Raises:
        Failure: `conflict` while another one of the app is under way, or for a machine under
            somebody's lease; `invalid_argument`, `failed_precondition`, `insufficient_capacity`,
            `manifest_unknown` for what cannot be; nothing was touched then.
    """
    for _ in range(_TRIES):
        run_id = ids.tagged("dep")
        decided = await _decide(ctx, who, app_name, wanted, run_id)
        begun = await _write_down(ctx, who, decided, run_id)
        if begun is not None:
            ctx.deploys_wanted.set()
            return begun
    raise errors.Failure("conflict", f"app {app_name!r} is being deployed by somebody else")


async def show_plan(ctx: Context, who: Principal, app_name: str, wanted: NewDeploy) -> Plan:
    """Return what a deploy would do now, and begin none.

    Raises:
        Failure: As `begin`.
    """
    return (await _decide(ctx, who, app_name, wanted, ids.tagged("dep"))).plan


async def roll_back(
    ctx: Context, who: Principal, app_name: str, version: int | None, options: Options
) -> Deploy:
    """Begin a deploy of an earlier release's image and definition, under a new number.

    Args:
        ctx: Control.
        who: Who asks.
        app_name: Whose.
        version: Which; `None` for the last complete one before the present.
        options: As for any deploy; the release command is not run.

    Raises:
        Failure: `not_found`, and as `begin`.
    """
    async with ctx.store.read() as rows:
        app = await apps.require_operable(rows, who, "apps:write", app_name)
        former = await _former(rows, app, version)
    if not former.config:
        raise errors.Failure(
            "failed_precondition", f"release v{former.version} was kept without its definition"
        )
    told = options.description or f"rollback to v{former.version}"
    options = options.model_copy(update={"skip_release_command": True, "description": told})
    wanted = NewDeploy(former.config, former.image_ref, options, "rollback")
    return await begin(ctx, who, app_name, wanted)


async def newest(ctx: Context, who: Principal, app_name: str, limit: int) -> list[Deploy]:
    """Return an app's deploys, the newest first, without their events."""
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "apps:read", app_name)
        found = await rows.runs.newest(app.id, limit)
        return [await _deploy(rows, row, after=None) for row in found]


async def get(
    ctx: Context, who: Principal, app_name: str, run_id: str, *, after: int = 0, wait_s: float = 0
) -> Deploy:
    """Return a deploy with its events after a number; waits for one that is newer.

    Raises:
        Failure: `not_found`.
    """
    ends = ctx.clock.monotonic() + wait_s
    while True:
        async with ctx.store.read() as rows:
            app = await apps.require(rows, who, "apps:read", app_name)
            row = await _find(rows, app, run_id)
            found = await _deploy(rows, row, after=after)
        over = found.row.ended_at_ms is not None or ctx.clock.monotonic() >= ends
        if over or any("message" in one.body for one in found.entries):
            return found
        await ctx.clock.sleep(_POLL_S)


async def cancel(ctx: Context, who: Principal, app_name: str, run_id: str) -> Deploy:
    """Have a deploy stop and go back; one that is over stays as it is.

    Raises:
        Failure: `not_found`; `failed_precondition` past its point of no return.
    """
    async with ctx.store.write() as rows:
        app = await apps.require(rows, who, "apps:write", app_name)
        row = await _find(rows, app, run_id)
        wanted = await rows.runs.want_cancel(row.id)
        found = await _deploy(rows, row, after=None)
        over = past_return(row.steps, found.done) and TURNED not in found.done
        if wanted and over:
            raise errors.Failure(
                "failed_precondition",
                f"deploy {run_id} is past its point of no return: the new machines are well, and"
                " the old ones go",
                hint="wait for its end, then use `godwit rollback`",
            )
        await audit.record(
            rows,
            ctx.clock,
            who,
            "deploys.cancel",
            run_id,
            org_id=app.org_id,
            app=app.name,
            under_way=wanted,
        )
    ctx.deploys_wanted.set()
    return found


async def _decide(
    ctx: Context, who: Principal, app_name: str, wanted: NewDeploy, run_id: str
) -> _Decided:
    async with ctx.store.read() as rows:
        app = await apps.require_operable(rows, who, "apps:write", app_name)
        who.require("machines:write", app.org_id, app_id=app.id)
        await _refuse_second(rows, app)
        last = await rows.releases.last_version(app.id)
        present = await rows.hosts.regions()
        lacking = await unmade.groups(rows, app.id)
        wanted = await _completed(rows, app, wanted)
    config = definitions.understand(wanted.definition)
    seed = await _seed_command(ctx, app, config, wanted)
    settings = refusals.settings(wanted.options, config)
    refusals.check_config(config, settings, wanted.kind)
    image = await _image(ctx, app, config, wanted)
    machines = await _machines(ctx, order.acting(who.subject, app.org_id), app)
    region = places.choose(config.primary_region or "", present, ctx.options.region)[0]
    town = plan.Town(
        config=config,
        region=region,
        machines=machines,
        settings=settings,
        options=wanted.options,
        unmade=lacking,
        release_command=_release_command(config, wanted),
        seed_command=seed,
        kind=wanted.kind,
    )
    found = plan.make(town, lambda key: order.machine_id(run_id, key))
    mark = ReleaseMark("rel_0", last + 1)
    touched = (
        {}
        if wanted.kind == "secrets"
        else {
            group: configs.of_group(config, group, image, mark)
            for group in refusals.groups_of(config, found)
        }
    )
    refusals.check_machines(found, machines, touched)
    await refusals.check_room(ctx, app, found, touched)
    async with ctx.store.read() as rows:
        await shared_ports.missing(rows, app, touched.values())
    made = list(touched.values())
    return _Decided(app, wanted, image, region, settings, found, machines, last, made)


async def _completed(rows: Rows, app: App, wanted: NewDeploy) -> NewDeploy:
    """Return what is wanted; for `secrets`, with image and definition of the last release.

    Raises:
        Failure: `failed_precondition` when there is no release to go by.
    """
    if wanted.kind != "secrets":
        return replace(wanted, definition=definitions.canonical(wanted.definition))
    found = await rows.releases.newest(app.id, 100)
    last = next((one for one in found if one.status == "complete"), next(iter(found), None))
    if last is None:
        raise errors.Failure(
            "failed_precondition", f"app {app.name!r} was never deployed: there is nothing to do"
        )
    return replace(wanted, definition=last.config, image=last.image_ref)


async def _image(ctx: Context, app: App, config: Config, wanted: NewDeploy) -> str:
    image = wanted.image or (config.build.image if config.build else None) or ""
    if not image:
        raise errors.invalid(
            "image: is required", hint="name one, or build.image in the definition"
        )
    if wanted.kind != "secrets":
        machine_config.parse({"image": image})
        token = await registry.pull_token(ctx, app, image)
        if await machine_images.known(ctx, app, image) is None:
            await ctx.images.resolve(image, token)
    return image


async def _machines(ctx: Context, who: Principal, app: App) -> list[MachineView]:
    found: list[MachineView] = []
    after = listing.BEGINNING
    while True:
        page = await listing.of_app(ctx, who, app.name, listing.Filter(), after=after)
        found += [one.view for one in page.machines]
        if page.next is None:
            return found
        after = page.next


def _release_command(config: Config, wanted: NewDeploy) -> str:
    if wanted.options.skip_release_command or wanted.kind != "deploy" or config.deploy is None:
        return ""
    return config.deploy.release_command or ""


async def _seed_command(ctx: Context, app: App, config: Config, wanted: NewDeploy) -> str:
    """Return the seed command, unless the app was deployed before, or has been seeded."""
    command = (config.deploy.seed_command if config.deploy else None) or ""
    if not command or wanted.options.skip_release_command or wanted.kind != "deploy":
        return ""
    async with ctx.store.read() as rows:
        releases = await rows.releases.newest(app.id, _MOST_RELEASES)
        if any(one.status == "complete" for one in releases):
            return ""
        for run in await rows.runs.newest(app.id, _MOST_RELEASES):
            entries = await rows.runs.entries(run.id, 0, _ALL_ENTRIES)
            if any(one.kind == "done" and one.step == _SEED for one in entries):
                return ""
    return command


async def _write_down(
    ctx: Context, who: Principal, decided: _Decided, run_id: str
) -> Deploy | None:
    """Write a deploy down; `None` when the app was deployed since it was decided."""
    now_ms, app = ctx.clock.now_ms(), decided.app
    async with ctx.store.write() as rows:
        await apps.require_operable(rows, who, "apps:write", app.name)
        await _refuse_second(rows, app)
        if await rows.releases.last_version(app.id) != decided.last_version:
            return None
        release = _release(decided, who, now_ms)
        await rows.releases.add(release)
        await apps.mark_deployed(rows, app)
        claimed = await shared_ports.claim(ctx, rows, app, decided.configs)
        found = _order(decided, release, who)
        row = RunRow(
            id=run_id,
            org_id=app.org_id,
            app_id=app.id,
            release_id=release.id,
            kind=found.kind,
            steps=operations.forward(found.plan),
            input=found.model_dump(mode="json"),
            begun_at_ms=now_ms,
        )
        await rows.runs.add(row)
        await _keep_versions(rows, decided, now_ms)
        await audit.record(
            rows,
            ctx.clock,
            who,
            "deploys.begin",
            run_id,
            org_id=app.org_id,
            app=app.name,
            kind=found.kind,
            version=release.version,
            image_ref=release.image_ref,
            strategy=release.strategy,
        )
    if claimed:
        ctx.facts_wanted.set()
    return Deploy(row, found, release, [])


def _release(decided: _Decided, who: Principal, now_ms: int) -> Release:
    options, wanted = decided.wanted.options, decided.wanted
    told = {"deploy": f"deploy of {decided.image}", "secrets": "new secrets"}
    return Release(
        id=ids.tagged("rel"),
        org_id=decided.app.org_id,
        app_id=decided.app.id,
        version=decided.last_version + 1,
        image_ref=decided.image,
        further_images=machine_images.further(raw.of_document(wanted.definition)),
        config=wanted.definition,
        status="running",
        strategy=decided.settings.strategy,
        description=options.description or told.get(wanted.kind, wanted.kind),
        error="",
        user=who.subject,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )


def _order(decided: _Decided, release: Release, who: Principal) -> Order:
    return Order(
        kind=decided.wanted.kind,
        subject=who.subject,
        org_id=decided.app.org_id,
        app_id=decided.app.id,
        app=decided.app.name,
        release_id=release.id,
        version=release.version,
        image=decided.image,
        region=decided.region,
        settings=decided.settings,
        plan=decided.plan,
    )


async def _keep_versions(rows: Rows, decided: _Decided, now_ms: int) -> None:
    """See that what the machines have now can be given back to them."""
    views = {one.machine_id: one for one in decided.machines}
    for one in decided.plan.update:
        if await rows.placements.version(one.machine_id, one.version) is None:
            await rows.placements.add_version(
                MachineVersion(
                    machine_id=one.machine_id,
                    org_id=decided.app.org_id,
                    app_id=decided.app.id,
                    version=one.version,
                    config=views[one.machine_id].config,
                    created_at_ms=now_ms,
                )
            )


async def _refuse_second(rows: Rows, app: App) -> None:
    """Refuse a deploy while another one of the app is under way.

    Raises:
        Failure: `conflict`, saying whose it is.
    """
    row = await rows.runs.unfinished_of(app.id)
    if row is None:
        return
    other = Order.model_validate(row.input)
    raise errors.Failure(
        "conflict",
        f"app {app.name!r} is being deployed: release v{other.version} by {other.subject}, since"
        f" {clock.rfc3339(row.begun_at_ms)} ({row.id})",
        hint="wait for its end, or cancel it with `godwit deploy --cancel`",
    )


async def _former(rows: Rows, app: App, version: int | None) -> Release:
    """Return the release to go back to.

    Raises:
        Failure: `not_found`, `failed_precondition`.
    """
    if version is not None:
        named = await rows.releases.find(app.id, str(version))
        if named is None:
            raise errors.not_found(f"app {app.name!r} has no release v{version}")
        return named
    found = await rows.releases.newest(app.id, _MOST_RELEASES)
    complete = [one for one in found[1:] if one.status == "complete"]
    if not complete:
        raise errors.Failure(
            "failed_precondition",
            f"app {app.name!r} has no complete release before the present one",
        )
    return complete[0]


async def _find(rows: Rows, app: App, run_id: str) -> RunRow:
    row = await rows.runs.get(run_id)
    if row is None or row.app_id != app.id:
        raise errors.not_found(
            f"app {app.name!r} has no deploy {run_id!r}", hint="see `godwit releases`"
        )
    return row


async def _deploy(rows: Rows, row: RunRow, *, after: int | None) -> Deploy:
    release = await rows.releases.find(row.app_id, row.release_id)
    if release is None:
        raise AssertionError(f"the release of {row.id} is gone")
    everything = await rows.runs.entries(row.id, 0, _ALL_ENTRIES)
    done = frozenset(one.step for one in everything if one.kind == "done")
    told = [one for one in everything if "message" in one.body]
    shown = [] if after is None else [one for one in told if one.number > after]
    return Deploy(
        row,
        Order.model_validate(row.input),
        release,
        shown[:_MOST_ENTRIES],
        done,
        told[-20:],
    )
