"""The machines that scaling is about: those that deploys manage, by process group. Pure."""

from collections.abc import Sequence

from godwit.client.records import Machine

_GONE = frozenset({"destroyed", "destroying"})
_PASSING = frozenset(
    {"fly_app_release_command", "fly_app_test_machine_command", "fly_app_console"}
)
"""Groups of machines that are there for a while only."""
_CANARY = "fly_canary"


def managed(machines: Sequence[Machine]) -> list[Machine]:
    """Return the machines of process groups that are there to stay, the oldest first."""
    found = [
        one
        for one in alive(machines)
        if one.managed() and one.group() not in _PASSING and _CANARY not in one.metadata()
    ]
    return sorted(found, key=lambda one: (one.created_at, one.id))


def alive(machines: Sequence[Machine]) -> list[Machine]:
    """Return the machines that are not on their way out."""
    return [one for one in machines if one.state not in _GONE]


def of(group: str, machines: Sequence[Machine]) -> list[Machine]:
    """Return a group's machines."""
    return [one for one in machines if one.group() == group]


def watched(machine: Machine) -> list[str]:
    """Return the machines that one stands by for; none for one that is no standby."""
    return machine.config.get("standbys") or []


def counted(machines: Sequence[Machine]) -> list[Machine]:
    """Return the machines that count: standbys are beside them."""
    return [one for one in machines if not watched(one)]
