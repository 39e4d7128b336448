"""Which machines a deploy creates, updates and destroys: pure (spec/config-cli.md §3.1, §3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

from godwit.appconfig import groups
from godwit.appconfig.model import Config
from godwit.client.records import Machine

_OFF = frozenset({"stopped", "suspended"})
_GONE = frozenset({"destroyed", "destroying"})
_INTERNAL = frozenset(
    {"fly_app_release_command", "fly_app_test_machine_command", "fly_app_console"}
)


@dataclass(frozen=True)
class Update:
    """A machine that gets the new release.

    Attributes:
        launch: Whether it is started by that; one that rests goes on resting.
    """

    machine: Machine
    group: str
    launch: bool


@dataclass(frozen=True)
class Plan:
    """What a deploy does to machines, in this order.

    Attributes:
        destroy: Machines of groups the file does not have any more.
        create: Groups that have no machine yet, and get one.
        update: Every other machine, by group and id.
    """

    destroy: tuple[Machine, ...]
    create: tuple[str, ...]
    update: tuple[Update, ...]


def managed(machines: Sequence[Machine]) -> list[Machine]:
    """Return the machines that deploys manage and that are still there."""
    return [
        one
        for one in machines
        if one.managed() and one.state not in _GONE and one.group() not in _INTERNAL
    ]


def make(config: Config, machines: Sequence[Machine]) -> Plan:
    """Return what to do so that every group runs the new release."""
    mine = managed(machines)
    wanted = groups.names(config)
    have = {one.group() for one in mine}
    ordered = sorted(mine, key=lambda one: (one.group(), one.id))
    return Plan(
        destroy=tuple(one for one in ordered if one.group() not in wanted),
        create=tuple(group for group in wanted if group not in have),
        update=tuple(
            Update(machine=one, group=one.group(), launch=one.state not in _OFF)
            for one in ordered
            if one.group() in wanted
        ),
    )
