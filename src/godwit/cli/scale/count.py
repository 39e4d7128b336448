"""`scale count`: from what was typed to machines that are there, or gone.

look → plan → (somebody agrees) → leases → look again: the same? → create → destroy
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from godwit.appconfig import groups
from godwit.base import errors
from godwit.cli import guest, together
from godwit.cli.held import Held
from godwit.cli.scale import counts, fleet, plan, template
from godwit.cli.scale.plan import Plan
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.records import Machine

Json = dict[str, Any]

_LOOKED_AT = 100
"""Releases among which the last complete one is looked for."""


@dataclass(frozen=True)
class Request:
    """What was asked.

    Attributes:
        words: `3`, `web=2`, `+1`.
        group: What a number alone is for; `None` for the default group.
        regions: Empty for those where the app has machines.
        most: Machines a region may have at most.
    """

    app: str
    words: tuple[str, ...]
    group: str | None
    regions: tuple[str, ...]
    most: int | None
    changes: template.Changes


@dataclass(frozen=True)
class Drawn:
    """What will be done, and the config of the machines that are made for it."""

    plans: tuple[Plan, ...]
    configs: Mapping[str, Json]

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return any(one.changes for one in self.plans)

    def same(self, other: "Drawn") -> bool:
        """Tell whether another drawing means the same machines."""
        mine, theirs = (
            [(one.group, one.create, [away.id for away in one.leaving()]) for one in drawn.plans]
            for drawn in (self, other)
        )
        return mine == theirs and self.configs == other.configs

    def lines(self) -> list[str]:
        """Return it for people, a line for each group and region."""
        told = []
        for one in self.plans:
            size = guest.told(guest.shown(self.configs.get(one.group, {})))
            for region, delta in one.deltas().items():
                wanted = f" ({size})" if delta > 0 else ""
                plural = "" if abs(delta) == 1 else "s"
                told.append(f"{delta:+d} machine{plural} of {one.group} in {region}{wanted}")
            told += [f"-1 standby of {one.group}: {away.id}" for away in one.standbys]
        return told


@dataclass(frozen=True)
class Done:
    """What was done."""

    created: tuple[Machine, ...]
    destroyed: tuple[Machine, ...]


async def draw(api: Api, request: Request) -> Drawn:
    """Return what to do.

    Raises:
        Failure: It cannot be, or the app was never deployed.
    """
    await api.apps.get(request.app)
    source = template.source(request.app, await api.releases.list(request.app, limit=_LOOKED_AT))
    everything = await api.machines.list(request.app)
    managed = fleet.managed(everything)
    known = {*groups.names(source.config), *(one.group() for one in managed)}
    wishes = counts.parse(request.words, request.group or groups.default(source.config))
    for group in wishes:
        if group not in known:
            raise errors.invalid(
                f'{request.app} has no process group "{group}"',
                hint=f"groups are {', '.join(sorted(known))}",
            )
    regions = request.regions or await _regions(api, managed, source.config.primary_region)
    plans = [
        plan.make(plan.Wish(group, count, regions, request.most), everything)
        for group, count in wishes.items()
    ]
    configs = {}
    for one in plans:
        mine = fleet.of(one.group, managed)
        if one.create:
            copied = fleet.counted(mine) or mine
            configs[one.group] = template.config_of(one.group, copied, source, request.changes)
    return Drawn(tuple(plans), configs)


async def _regions(api: Api, managed: Sequence[Machine], primary: str | None) -> tuple[str, ...]:
    """Return where the app's machines are, the primary region first; without any, that alone."""
    found = sorted({one.region for one in managed})
    if not found:
        return (primary or (await api.platform.regions()).nearest,)
    return tuple(sorted(found, key=lambda region: region != primary))


async def carry_out(here: Session, api: Api, request: Request, drawn: Drawn) -> Done:
    """Do what was agreed to: new machines first, then those that go.

    Raises:
        Failure: `conflict` when the app is not as it was; else what did not work, when as much
            as could be done is done. Asking again does the rest.
    """
    managed = fleet.managed(await api.machines.list(request.app))
    touched = {one.group for one in drawn.plans if one.changes}
    held = Held(api, request.app, here.clock, description="godwit scale count")
    async with held:
        await held.take([one.id for one in managed if one.group() in touched])
        if not drawn.same(await draw(api, request)):
            raise errors.Failure(
                "conflict",
                f"{request.app} was changed meanwhile; nothing was scaled",
                hint="look at `godwit scale show`, then scale again",
            )
        created = await together.each(
            [(one.group, region) for one in drawn.plans for region in one.create],
            _creating(here, api, request.app, drawn.configs),
        )
        leaving = [machine for one in drawn.plans for machine in one.leaving()]
        await together.each(leaving, _destroying(here, api, request.app, held))
    return Done(tuple(created), tuple(leaving))


def _creating(
    here: Session, api: Api, app: str, configs: Mapping[str, Json]
) -> Callable[[tuple[str, str]], Any]:
    async def create(wanted: tuple[str, str]) -> Machine:
        group, region = wanted
        made = await api.machines.create(app, configs[group], region=region)
        here.out.say(f"created {made.id} of {group} in {made.region}")
        return made

    return create


def _destroying(here: Session, api: Api, app: str, held: Held) -> Callable[[Machine], Any]:
    async def destroy(machine: Machine) -> None:
        nonce = await held.nonce(machine.id)
        await api.machines.destroy(app, machine.id, force=True, nonce=nonce)
        held.forget(machine.id)
        here.out.say(f"destroyed {machine.id} of {machine.group()} in {machine.region}")

    return destroy
