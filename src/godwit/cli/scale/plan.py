"""Which machines of a group are created and destroyed to have so many of them. Pure.

What goes first of a region: machines that rest before those that run, those nobody stands by
for before the others, the newest before the oldest. Standbys do not count; one goes when every
machine it stands by for goes, since nothing would ever start it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from godwit.cli.scale import fleet
from godwit.cli.scale import spread as spreading
from godwit.cli.scale.counts import Count
from godwit.client.records import Machine


@dataclass(frozen=True)
class Wish:
    """What is wanted of a group.

    Attributes:
        regions: Where its machines shall be; `count` is over these.
        most: Machines a region may have at most.
    """

    group: str
    count: Count
    regions: tuple[str, ...]
    most: int | None = None


@dataclass(frozen=True)
class Plan:
    """What is done to a group.

    Attributes:
        create: The region of each new machine.
        destroy: Machines that go.
        standbys: Standbys that go with them.
    """

    group: str
    create: tuple[str, ...]
    destroy: tuple[Machine, ...]
    standbys: tuple[Machine, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.create or self.destroy)

    def leaving(self) -> tuple[Machine, ...]:
        """Return every machine that goes."""
        return (*self.destroy, *self.standbys)

    def deltas(self) -> dict[str, int]:
        """Return how many more or fewer machines each region gets, standbys aside."""
        more, fewer = Counter(self.create), Counter(one.region for one in self.destroy)
        return {region: more[region] - fewer[region] for region in (more | fewer)}


def make(wish: Wish, machines: Sequence[Machine]) -> Plan:
    """Return what to do so that a group has as many machines as are wanted.

    Args:
        wish: What is wanted.
        machines: All of the app.

    Raises:
        Failure: It cannot be.
    """
    mine = fleet.of(wish.group, fleet.managed(machines))
    there = [one for one in fleet.counted(mine) if one.region in wish.regions]
    now = Counter(one.region for one in there)
    total = wish.count.target(len(there), wish.group)
    wanted = spreading.spread(now, wish.regions, total, wish.most)
    missed = {found for one in mine for found in fleet.watched(one)}
    newest_first = reversed(there)
    leaving = sorted(newest_first, key=lambda one: (one.state == "started", one.id in missed))
    destroy: list[Machine] = []
    for region in wish.regions:
        here = [one for one in leaving if one.region == region]
        destroy += here[: max(0, now[region] - wanted[region])]
    gone = {one.id for one in destroy}
    left = {one.id for one in fleet.alive(machines)} - gone
    return Plan(
        group=wish.group,
        create=tuple(
            region for region in wish.regions for _ in range(max(0, wanted[region] - now[region]))
        ),
        destroy=tuple(destroy),
        standbys=tuple(one for one in mine if _useless({*fleet.watched(one)}, gone, left)),
    )


def _useless(watched: set[str], gone: set[str], left: set[str]) -> bool:
    """Tell whether a standby loses every machine it stands by for."""
    return bool(watched & gone) and not watched & left
