"""Which machines a deploy makes, updates, replaces and destroys: pure.

From the config, the machines as they are and the options to a plan that can be shown before it
is carried out (spec/config-cli.md §1.3, §3.1, §3.2, §3.5). Where the original looks for empty
groups among the machines that pass the filters, and then makes new ones in the primary region,
this looks at all of them and says what is out of scope.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from godwit.appconfig import groups
from godwit.appconfig.model import Config
from godwit.base import errors
from godwit.control.deploys import configs
from godwit.control.deploys.order import Kind, Plan, Removal, Settings, Slot, Update
from godwit.wire import health
from godwit.wire.deploys import Options
from godwit.wire.host_rpc import MachineView

Mint = Callable[[str], str]
"""Returns the machine id of a slot, by its key."""


@dataclass(frozen=True)
class Town:
    """What a plan is made of.

    Attributes:
        region: Where machines of groups that have none go.
        machines: Every machine of the app.
        unmade: Groups whose second machine an earlier deploy was to make, and did not.
        release_command: Empty when none is to be run.
        seed_command: The same.
    """

    config: Config
    region: str
    machines: Sequence[MachineView]
    settings: Settings
    options: Options
    unmade: frozenset[str] = frozenset()
    release_command: str = ""
    seed_command: str = ""
    kind: Kind = "deploy"


def make(town: Town, mint: Mint) -> Plan:
    """Return what to do so that every group in scope runs the new release.

    Raises:
        Failure: `invalid_argument` for a filter that names what is not there.
    """
    mine = sorted(
        (one for one in town.machines if configs.managed(one)),
        key=lambda one: (configs.group_of(one), one.machine_id),
    )
    _check_filters(town, mine)
    scope = [one for one in mine if _in_scope(town.options, one)]
    wanted = groups.names(town.config)
    keeps = town.kind == "secrets"
    update = tuple(_update(one) for one in scope if keeps or configs.group_of(one) in wanted)
    create, left_out = ((), ()) if keeps else _create(town, mine, mint)
    destroy = tuple(
        Removal(machine_id=one.machine_id, group=configs.group_of(one), region=one.region)
        for one in scope
        if not keeps and configs.group_of(one) not in wanted
    ) + tuple(
        Removal(machine_id=one.machine_id, group=configs.group_of(one), region=one.region)
        for one in sorted(town.machines, key=lambda one: one.machine_id)
        if configs.left_canary(one)
    )
    found = Plan(
        strategy=town.settings.strategy,
        release_command=town.release_command if not keeps else "",
        seed_command=town.seed_command if not keeps else "",
        create=create,
        canaries=_canaries(update, mint) if town.settings.strategy == "canary" else (),
        greens=_greens(town, update, mint) if town.settings.strategy == "bluegreen" else (),
        update=update,
        destroy=destroy,
        unchanged=tuple(one.machine_id for one in mine if one not in scope),
        at_once=_at_once(update, town.settings.max_unavailable),
    )
    told = (*_nobodys(town, mine), *_sentences(found), *left_out, *_untested(town, found))
    return found.model_copy(update={"sentences": told})


def at_once(max_unavailable: float, running: int) -> int:
    """Return how many of a group's running machines may be away at a time (spec §1.3)."""
    if max_unavailable >= 1:
        return int(max_unavailable)
    return max(1, math.ceil(running * max_unavailable))


def _check_filters(town: Town, mine: Sequence[MachineView]) -> None:
    known = {one.machine_id for one in mine}
    options = town.options
    for name, given in (
        ("only_machines", options.only_machines),
        ("exclude_machines", options.exclude_machines),
    ):
        for machine_id in given:
            if machine_id not in known:
                raise errors.invalid(f"{name}: deploys look after no machine {machine_id!r}")
    there = {*groups.names(town.config), *(configs.group_of(one) for one in mine)}
    for group in options.process_groups:
        if group not in there:
            raise errors.invalid(
                f"process_groups: there is no group {group!r}; groups are"
                f" {', '.join(sorted(there))}"
            )


def _in_scope(options: Options, one: MachineView) -> bool:
    return (
        (not options.regions or one.region in options.regions)
        and one.region not in options.exclude_regions
        and (not options.only_machines or one.machine_id in options.only_machines)
        and one.machine_id not in options.exclude_machines
        and (not options.process_groups or configs.group_of(one) in options.process_groups)
    )


def _update(one: MachineView) -> Update:
    standby = bool(one.config.get("standbys"))
    resting = one.state in health.RESTING or (standby and one.state != "started")
    return Update(
        machine_id=one.machine_id,
        group=configs.group_of(one),
        region=one.region,
        start=not resting,
        version=one.instance_id,
        metadata=one.config.get("metadata") or {},
        cordoned=one.cordoned,
    )


def _create(
    town: Town, mine: Sequence[MachineView], mint: Mint
) -> tuple[tuple[Slot, ...], tuple[str, ...]]:
    """Return the machines that groups lack, and which groups go without any."""
    have: dict[str, list[MachineView]] = {}
    for one in mine:
        have.setdefault(configs.group_of(one), []).append(one)
    made: list[Slot] = []
    without: list[str] = []
    for group in groups.names(town.config):
        there, why = have.get(group, []), _left_out(town, group)
        if there:
            made += [] if why else _unmade(town, group, there, mint)
        elif why:
            without.append(f"Group {group} has no machine and gets none: {why}")
        else:
            made += _slots(town, group, mint)
    return tuple(made), tuple(without)


def _left_out(town: Town, group: str) -> str:
    options = town.options
    if options.update_only:
        return "only machines that are there are updated"
    if options.process_groups and group not in options.process_groups:
        return "it is out of scope"
    if options.only_machines:
        return "only the machines that were named are updated"
    if (options.regions and town.region not in options.regions) or (
        town.region in options.exclude_regions
    ):
        return f"region {town.region} is out of scope"
    return ""


def _slots(town: Town, group: str, mint: Mint) -> list[Slot]:
    """Return a new group's machines (spec §3.5)."""
    key = f"{group}/0"
    first = Slot(key=key, machine_id=mint(key), group=group, region=town.region)
    return [first, *_second(town, group, mint, first=key, region=town.region)]


def _unmade(town: Town, group: str, there: Sequence[MachineView], mint: Mint) -> list[Slot]:
    """Return the second machine that an earlier deploy was to give to a group, and did not.

    With bluegreen the one that it would stand by for goes: the next deploy by another strategy
    makes it.
    """
    if group not in town.unmade or len(there) != 1 or town.settings.strategy == "bluegreen":
        return []
    (first,) = there
    return _second(town, group, mint, first=first.machine_id, region=first.region)


def _second(town: Town, group: str, mint: Mint, *, first: str, region: str) -> list[Slot]:
    """Return a group's second machine: one that serves too, a standby, or none."""
    if not town.options.ha or groups.of(town.config, town.config.mounts, group):
        return []
    serves = groups.of(town.config, town.config.services, group) or (
        town.config.http_service is not None
        and groups.applies(town.config, town.config.http_service, group)
    )
    key, watched = f"{group}/1", () if serves else (first,)
    return [
        Slot(
            key=key,
            machine_id=mint(key),
            group=group,
            region=region,
            standby_for=watched,
            start=not watched,
        )
    ]


def _canaries(update: Sequence[Update], mint: Mint) -> tuple[Slot, ...]:
    """Return one machine for each group that has some already."""
    first: dict[str, Update] = {}
    for one in update:
        present = first.setdefault(one.group, one)
        if one.start and not present.start:
            first[one.group] = one
    return tuple(
        Slot(
            key=f"canary/{group}",
            machine_id=mint(f"canary/{group}"),
            group=group,
            region=one.region,
        )
        for group, one in first.items()
    )


def _greens(town: Town, update: Sequence[Update], mint: Mint) -> tuple[Slot, ...]:
    """Return one machine for every one that is replaced.

    One that rests is replaced by one that rests; but a group with checks gets at least one that
    is started, or nothing would be known of the new release.
    """
    views = {one.machine_id: one for one in town.machines}
    starting = {one.group for one in update if one.start}
    slots: list[Slot] = []
    for one in update:
        start = one.start
        watched = tuple(views[one.machine_id].config.get("standbys") or ())
        if one.group not in starting and not watched:
            start = True
        if start:
            starting.add(one.group)
        key = f"green/{one.machine_id}"
        slots.append(
            Slot(
                key=key,
                machine_id=mint(key),
                group=one.group,
                region=one.region,
                standby_for=watched,
                start=start,
                replaces=one.machine_id,
            )
        )
    return tuple(slots)


def _at_once(update: Sequence[Update], max_unavailable: float) -> dict[str, int]:
    running: dict[str, int] = {}
    for one in update:
        running[one.group] = running.get(one.group, 0) + one.start
    return {group: at_once(max_unavailable, count) for group, count in running.items()}


def _nobodys(town: Town, mine: Sequence[MachineView]) -> list[str]:
    """Return what is said where an app has machines, and deploys look after none (spec §3.1)."""
    others = sorted(one.machine_id for one in town.machines if configs.beside_deploys(one))
    if mine or not others:
        return []
    return [f"Made by no deploy, left as they are: {', '.join(others)}"]


def _untested(town: Town, plan: Plan) -> list[str]:
    """Tell of tests that the strategy does not run (spec §1.8)."""
    touched = {one.group for one in plan.update} | {one.group for one in plan.slots}
    has_tests = any(configs.machine_checks(town.config, group) for group in touched)
    if town.kind == "secrets" or plan.strategy not in ("bluegreen", "immediate") or not has_tests:
        return []
    return [f"machine_checks are not run: {plan.strategy} has none; rolling and canary do"]


def _sentences(plan: Plan) -> list[str]:
    told = []
    if plan.release_command:
        told.append(f'"{plan.release_command}" runs first, in a machine of its own')
    if plan.seed_command:
        told.append(f'"{plan.seed_command}" runs once, in a machine of its own: nothing did yet')
    for slot in plan.create:
        if slot.standby_for:
            told.append(
                f"A machine of {slot.group} is made in {slot.region} that stands by for the first"
            )
        else:
            told.append(f"A machine of {slot.group} is made in {slot.region}")
    told += [
        f"A canary of {slot.group} is made in {slot.region}, watched and destroyed"
        for slot in plan.canaries
    ]
    told += _about_updates(plan)
    for one in plan.destroy:
        still = one.group in {each.group for each in plan.update}
        why = "an earlier deploy left it" if still else f"the config has no group {one.group}"
        told.append(f"Machine {one.machine_id} is destroyed: {why}")
    if plan.unchanged:
        told.append(f"Out of scope, left as they are: {', '.join(plan.unchanged)}")
    return told


def _about_updates(plan: Plan) -> list[str]:
    told = []
    for group in dict.fromkeys(one.group for one in plan.update):
        mine = [one for one in plan.update if one.group == group]
        running = sum(one.start for one in mine)
        resting = len(mine) - running
        rest = f", {resting} of them at rest" if resting else ""
        if plan.strategy == "bluegreen":
            told.append(
                f"{_machines(len(mine))} of {group}{rest}: replaced by new ones, once all of"
                " those are well"
            )
        elif plan.strategy == "immediate":
            told.append(f"{_machines(len(mine))} of {group}{rest}: updated without waiting")
        else:
            pace = f", {plan.at_once[group]} at a time" if running > 1 else ""
            told.append(f"{_machines(len(mine))} of {group}{rest}: updated in place{pace}")
    return told


def _machines(count: int) -> str:
    return "1 machine" if count == 1 else f"{count} machines"
