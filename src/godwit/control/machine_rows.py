"""The rows about machines in one transaction; part of `control.rows`, which tells more."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from godwit.control.records import (
    CalledStandby,
    MachineChange,
    MachineVersion,
    Placement,
    RelocationRow,
    RelocationState,
    Standby,
)


class PlacementRows(Protocol):
    """Where machines live."""

    async def add(self, row: Placement) -> None:
        """Add one."""

    async def get(self, machine_id: str) -> Placement | None:
        """Return one."""

    async def alive_by_name(self, app_id: str, name: str) -> Placement | None:
        """Return the app's living machine of that name."""

    async def of_app(
        self, app_id: str, *, destroyed: bool, after: tuple[int, str], limit: int
    ) -> list[Placement]:
        """Return an app's accepted machines by age after one, destroyed ones too when asked."""

    async def of_org(
        self, org_id: str, *, destroyed: bool, after: tuple[int, str], limit: int
    ) -> list[tuple[Placement, str]]:
        """Return an organization's accepted machines by last change after one, with their app."""

    async def counts(self, app_ids: Collection[str]) -> dict[str, int]:
        """Return how many living machines each of these apps has."""

    async def has_more(self, org_id: str, than: int) -> bool:
        """Tell whether an organization has more living machines, those being made included."""

    async def hosts_of(self, app_id: str, since_ms: int) -> list[str]:
        """Return the hosts that have machines of an app, or had after a time."""

    async def hosts_of_org(self, org_id: str) -> list[str]:
        """Return the hosts that have or had machines of an organization."""

    async def on_host(self, host_id: str, after: str, limit: int) -> list[Placement]:
        """Return a host's living machines by id, after an id; those offered to it too."""

    async def counts_on_hosts(self) -> dict[str, int]:
        """Return how many living machines each host has."""

    async def zones_of(self, app_id: str, region: str) -> dict[str, int]:
        """Return how many living machines of an app each zone of a region has."""

    async def apps_on(self, host_id: str) -> list[str]:
        """Return the apps that have living machines on a host."""

    async def alive(self, after: str, limit: int) -> list[Placement]:
        """Return living machines by id, after an id."""

    async def forget_destroyed(self, before_ms: int, limit: int) -> int:
        """Remove machines destroyed before a time, with their versions; return how many."""

    async def renew_offer(self, machine_id: str, at_ms: int) -> bool:
        """Begin an offer's time anew; tell whether it was still one."""

    async def assign(self, machine_id: str, host_id: str, region: str, at_ms: int) -> bool:
        """Note which host it is offered to; tell whether it was still offered."""

    async def accept(self, machine_id: str, host_id: str, region: str, at_ms: int) -> bool:
        """Note that a host has it; tell whether it was still offered."""

    async def abandon(self, machine_id: str) -> bool:
        """Give it up, due to be destroyed at once; tell whether it was still offered."""

    async def record_view(self, machine_id: str, view: dict[str, Any], at_ms: int) -> None:
        """Keep an owner's view, unless something newer was heard."""

    async def apply(self, changes: Sequence[MachineChange], at_ms: int) -> None:
        """Keep what facts say, unless something newer was heard."""

    async def mark_destroyed(self, machine_id: str, at_ms: int) -> None:
        """Note that its host has it no more."""

    async def want_destroyed(self, app_id: str, at_ms: int) -> None:
        """Have every living machine of an app destroyed."""

    async def want_gone(self, machine_id: str) -> None:
        """Have a machine destroyed, as soon as its host answers."""

    async def stale_offers(self, before_ms: int, limit: int) -> list[Placement]:
        """Return offers nobody took before a time."""

    async def unwanted(self, before_ms: int, limit: int) -> list[Placement]:
        """Return what is abandoned or to be destroyed, least recently tried first."""

    async def touch(self, machine_id: str, at_ms: int) -> None:
        """Note that it was tried now."""

    async def remove(self, machine_id: str) -> None:
        """Forget one that never was."""

    async def add_version(self, row: MachineVersion) -> None:
        """Keep a config a machine has had."""

    async def version(self, machine_id: str, version: str) -> MachineVersion | None:
        """Return one config a machine has had."""

    async def versions(self, machine_id: str, limit: int) -> list[MachineVersion]:
        """Return a machine's configs, newest first."""


class StandbyRows(Protocol):
    """Which machine stands by for which."""

    async def put(self, machine: Placement, watched: Collection[str]) -> None:
        """Have a machine stand by for exactly these; those it did already keep their marks."""

    async def watching(self, watched_id: str) -> list[str]:
        """Return the ids of living machines that stand by for one."""

    async def due(self, host_id: str, resting: Collection[str], limit: int) -> list[Standby]:
        """Return the standbys not called yet of living machines on a host, but for the resting."""

    async def called(self, after: tuple[str, str], limit: int) -> list[CalledStandby]:
        """Return those that were called, in order of their keys, after one."""

    async def call(self, row: Standby, at_ms: int) -> bool:
        """Mark one as called; tell whether nobody had."""

    async def started(self, row: Standby, at_ms: int) -> None:
        """Mark one as started."""

    async def release(self, row: Standby) -> None:
        """Take the marks away: what it stands by for is back."""


class RelocationRows(Protocol):
    """Machines that are wanted elsewhere."""

    async def put(self, row: RelocationRow) -> None:
        """Keep one in the place of what there was of that machine."""

    async def get(self, machine_id: str) -> RelocationRow | None:
        """Return one."""

    async def unfinished(self, limit: int) -> list[RelocationRow]:
        """Return those that are to be carried out, the oldest first."""

    async def turn(self, row: RelocationRow, state: RelocationState, **changed: str) -> bool:
        """Change one if its state is still what it was; tell whether it was."""
