"""`scale vm|memory|show`: how large the machines of a group are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from godwit.base import errors
from godwit.cli import guest, revise
from godwit.cli.held import Held
from godwit.cli.rollout import progress
from godwit.cli.rollout.overrides import Size
from godwit.cli.scale import fleet
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.records import Machine

Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """Machines of a group that have the same size."""

    group: str
    guest: Json
    regions: dict[str, int]
    standbys: int

    @property
    def count(self) -> int:
        """How many there are, standbys aside."""
        return sum(self.regions.values())


@dataclass(frozen=True)
class Resized:
    """What was done."""

    group: str
    guest: Json
    machines: tuple[str, ...]


def rows(machines: Sequence[Machine]) -> list[Row]:
    """Return an app's machines by group and size."""
    found: dict[tuple[str, str], list[Machine]] = {}
    for one in fleet.managed(machines):
        size = guest.told(guest.shown(one.config))
        found.setdefault((one.group(), size), []).append(one)
    return [
        Row(
            group,
            guest.shown(mine[0].config),
            dict(sorted(Counter(one.region for one in fleet.counted(mine)).items())),
            len(mine) - len(fleet.counted(mine)),
        )
        for (group, _), mine in sorted(found.items())
    ]


async def resize(here: Session, api: Api, app: str, group: str | None, size: Size) -> Resized:
    """Give the machines of a group another size, one after another.

    Raises:
        Failure: It is not clear which group, or a machine did not come up with the new size;
            the ones after it are as they were.
    """
    await api.apps.get(app)
    mine = _chosen(app, group, fleet.managed(await api.machines.list(app)))
    named = mine[0].group()
    wanted = {one.id: guest.changed(one.config, size) for one in mine}
    todo = [one for one in mine if guest.shown(one.config) != wanted[one.id]]
    held = Held(api, app, here.clock, description="godwit scale")
    async with held:
        await held.take([one.id for one in todo])
        with progress.of(here.out) as shown:
            for one in todo:
                shown.step(f"{one.id} gets {guest.told(wanted[one.id])}")
                config = {**one.config, "guest": wanted[one.id]}
                config.pop("size", None)
                change = revise.Change(one, config, launch=one.state == "started")
                await revise.carry_out(here, api, app, change, held=held, told=shown.state)
    return Resized(named, wanted[mine[0].id], tuple(one.id for one in todo))


def _chosen(app: str, group: str | None, managed: Sequence[Machine]) -> list[Machine]:
    names = sorted({one.group() for one in managed})
    if not names:
        raise errors.Failure(
            "failed_precondition",
            f"{app} has no machines",
            hint=f"deploy it first, with `godwit deploy --app {app}`",
        )
    if group is None and len(names) > 1:
        raise errors.invalid(
            f"which process group? {app} has {', '.join(names)}", hint="pass --process-group"
        )
    chosen = group or names[0]
    if chosen not in names:
        raise errors.invalid(
            f'no machine of {app} is of the process group "{chosen}"',
            hint=f"groups with machines are {', '.join(names)}",
        )
    return fleet.of(chosen, managed)
