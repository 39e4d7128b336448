"""What a deploy may not begin with: told with its reason before anything is touched."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from godwit.appconfig import check, groups
from godwit.appconfig.model import Config
from godwit.base import clock, errors
from godwit.control import guest_sizes, machine_config
from godwit.control.context import Context
from godwit.control.deploys.order import Kind, Plan, Settings, Strategy
from godwit.control.machines import TooManyMachines
from godwit.control.records import App
from godwit.wire import health, host_rpc
from godwit.wire.deploys import Options
from godwit.wire.host_rpc import MachineView

_DEFAULT = Settings()


def settings(options: Options, config: Config) -> Settings:
    """Return how a deploy goes: the options, else the config, else the defaults.

    Raises:
        Failure: `invalid_argument`.
    """
    deploy = config.deploy
    most = _first(options.max_unavailable, deploy and deploy.max_unavailable)
    if most is not None and not most > 0:
        raise errors.invalid(f"max_unavailable: must be more than 0, not {most:g}")
    limit = _first(
        options.release_command_timeout_s,
        _seconds(deploy.release_command_timeout if deploy else None),
    )
    limit = _DEFAULT.release_command_timeout_s if limit is None else limit
    return Settings(
        strategy=_strategy(options.strategy or (deploy and deploy.strategy) or "rolling"),
        max_unavailable=_DEFAULT.max_unavailable if most is None else most,
        max_concurrent=options.max_concurrent or _DEFAULT.max_concurrent,
        wait_timeout_s=_first(
            options.wait_timeout_s, _seconds(deploy.wait_timeout if deploy else None)
        )
        or _DEFAULT.wait_timeout_s,
        release_command_timeout_s=limit or None,
        smoke_checks=options.smoke_checks,
        auto_rollback=_auto_rollback(options, config),
        signal=options.signal,
        drain_timeout_s=_first(
            options.drain_timeout_s, _drain_timeout(config), _DEFAULT.drain_timeout_s
        ),
    )


def _drain_timeout(config: Config) -> float | None:
    said = config.deploy.drain_timeout if config.deploy else None
    return None if said is None else said / 1e9


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _seconds(nanoseconds: int | None) -> float | None:
    return nanoseconds / 1e9 if nanoseconds else None


def _strategy(name: str) -> Strategy:
    for known in check.STRATEGIES:
        if name.lower() == known:
            return known  # type: ignore[return-value]
    raise errors.invalid(f"strategy: must be one of {', '.join(check.STRATEGIES)}, not {name!r}")


def _auto_rollback(options: Options, config: Config) -> bool:
    """Return whether a failed deploy goes back: the option, `[deploy]`, `[experimental]`, yes."""
    said = [getattr(one, "auto_rollback", None) for one in (config.deploy, config.experimental)]
    found = _first(options.auto_rollback, *said)
    return True if found is None else bool(found)


def check_config(config: Config, settings: Settings, kind: Kind) -> None:
    """Refuse a config that this platform, or this strategy, cannot do.

    Raises:
        Failure: `invalid_argument`, `failed_precondition`.
    """
    if kind == "secrets":
        return
    if config.mounts and settings.strategy in ("canary", "bluegreen"):
        raise errors.invalid(
            f"strategy: {settings.strategy} makes machines beside those that are there, and a"
            " volume is in one machine only",
            hint="use rolling for apps with mounts",
        )
    if config.mounts:
        names = ", ".join(dict.fromkeys(one.source for one in config.mounts))
        raise errors.Failure(
            "failed_precondition",
            f"mounts: the app has no volume named {names}: this platform has no volumes yet",
            hint="take [mounts] out of the config",
        )


def check_machines(
    plan: Plan, machines: Collection[MachineView], made: dict[str, dict[str, Any]]
) -> None:
    """Refuse machines that cannot be deployed to.

    Args:
        plan: What would be done.
        machines: Every machine of the app.
        made: Each group's config.

    Raises:
        Failure: `conflict` under somebody's lease; `failed_precondition`; `invalid_argument` for
            a config no host takes.
    """
    for config in made.values():
        guest_sizes.resources(machine_config.parse(config))
    touched = plan.touched
    for view in machines:
        if view.machine_id in touched and view.lease is not None:
            raise leased(view.machine_id, view.lease)
    if plan.strategy == "bluegreen" and plan.greens:
        _check_bluegreen(plan, machines, made)


def leased(machine_id: str, lease: host_rpc.Lease) -> errors.Failure:
    """Return the failure for a machine that somebody else has the lease of."""
    what = f" ({lease.description})" if lease.description else ""
    until = clock.rfc3339(lease.expires_at * 1000)
    return errors.Failure(
        "conflict",
        f"machine {machine_id} is leased by {lease.owner or 'somebody'}{what} until {until}",
        hint="wait for its end; `godwit machine leases clear` ends one that was left behind",
    )


def _check_bluegreen(
    plan: Plan, machines: Collection[MachineView], made: dict[str, dict[str, Any]]
) -> None:
    replaced = {one.machine_id for one in plan.update}
    images = {one.image.digest for one in machines if one.machine_id in replaced}
    if len(images) > 1:
        raise errors.Failure(
            "failed_precondition",
            f"the machines run {len(images)} different images: a deploy before did not end",
            hint="deploy with the strategy rolling first",
        )
    if not any(health.configured_checks(config) for config in made.values()):
        raise errors.Failure(
            "failed_precondition",
            "bluegreen needs a check: nothing would tell whether the new machines are well",
            hint="add [[http_service.checks]] or [checks], or use rolling",
        )


def groups_of(config: Config, plan: Plan) -> Iterator[str]:
    """Yield the groups of a config that a plan touches."""
    touched = {*(one.group for one in plan.slots), *(one.group for one in plan.update)}
    yield from (group for group in groups.names(config) if group in touched)


async def bids(
    ctx: Context, org_id: str, app_id: str, region: str, config: dict[str, Any]
) -> list[host_rpc.Bid]:
    """Return what the hosts of a region say to a machine of an app with this config.

    Raises:
        Failure: `unavailable`.
    """
    request = host_rpc.BidRequest(
        org_id=org_id,
        app_id=app_id,
        resources=guest_sizes.resources(machine_config.parse(config)),
        image_digest="",
    )
    async with ctx.store.read() as rows:
        count = max(1, await rows.hosts.count(region))
    return await ctx.hosts.bids(region, request, ctx.options.bid_s, hosts=count)


async def check_room(ctx: Context, app: App, plan: Plan, made: dict[str, dict[str, Any]]) -> None:
    """Refuse new machines that the organization may not have, or no host has room for now.

    Raises:
        Failure: `insufficient_capacity` with every host's reason; `TooManyMachines`.
    """
    await _check_organization(ctx, app, len(plan.slots))
    asked = Counter((slot.region, slot.group) for slot in plan.slots)
    for (region, group), count in sorted(asked.items()):
        resources = guest_sizes.resources(machine_config.parse(made[group]))
        try:
            found = await bids(ctx, app.org_id, app.id, region, made[group])
        except errors.Failure:
            # Nobody knows now; whoever makes the machine asks again, for longer.
            return
        if found and not any(bid.fits for bid in found):
            reasons = "; ".join(dict.fromkeys(why for bid in found for why in bid.reasons))
            raise errors.Failure(
                "insufficient_capacity",
                f"no host in {region} has room for a machine of {group}"
                f" ({resources.cpus} {resources.cpu_kind} CPUs, {resources.memory_mb} MB):"
                f" {reasons}",
                hint="ask for less, destroy machines, or choose another region",
            )
        room = sum(bid.free_memory_mb // resources.memory_mb for bid in found if bid.fits)
        if room < count and await _all_answered(ctx, region, found):
            raise errors.Failure(
                "insufficient_capacity",
                f"the hosts in {region} have room for {room} of {count} new machines of {group}"
                f" ({resources.memory_mb} MB each)",
                hint="ask for less, destroy machines, choose another region, or use rolling",
            )


async def _check_organization(ctx: Context, app: App, new: int) -> None:
    most = ctx.options.org_machines
    if not most or not new:
        return
    async with ctx.store.read() as rows:
        if await rows.placements.has_more(app.org_id, most - new):
            raise TooManyMachines(app.org_slug, most, new)


async def _all_answered(ctx: Context, region: str, bids: Collection[host_rpc.Bid]) -> bool:
    """Tell whether no other host of a region could have room."""
    async with ctx.store.read() as rows:
        return await rows.hosts.count(region) <= len(bids)
