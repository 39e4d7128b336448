"""The rows of one transaction, table by table: what `godwit.store` implements with SQL.

Every method is one statement, indexed; none reads all machines.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from godwit.control.records import (
    App,
    AppStatus,
    AuditRow,
    Host,
    MachineChange,
    MachineVersion,
    Meta,
    Network,
    Organization,
    OutboxRow,
    Placement,
    PlacementStatus,
    Release,
    ReleaseStatus,
    Token,
    User,
)


class MetaRows(Protocol):
    """The database's own row and its counters."""

    async def get(self) -> Meta:
        """Return epoch and revision."""

    async def next_revision(self) -> int:
        """Return a revision greater than every one before."""

    async def start_epoch(self, epoch: int) -> None:
        """Start a new epoch: this database was restored from a copy."""

    async def next_number(self, counter: str) -> int:
        """Return the next number of a counter, from 1, never given out before."""


class OrganizationRows(Protocol):
    """Organizations."""

    async def add(self, row: Organization) -> None:
        """Add one."""

    async def by_slug(self, slug: str) -> Organization | None:
        """Return one by its slug."""

    async def by_ids(self, ids: Collection[str] | None) -> list[Organization]:
        """Return these, or all for `None`, by slug."""

    async def count(self) -> int:
        """Return how many there are."""


class NetworkRows(Protocol):
    """Networks; never removed, so numbers are never used again."""

    async def add(self, row: Network) -> None:
        """Add one."""

    async def by_name(self, org_id: str, name: str) -> Network | None:
        """Return an organization's network."""


class UserRows(Protocol):
    """People."""

    async def add(self, row: User) -> None:
        """Add one."""

    async def by_email(self, email: str) -> User | None:
        """Return one by address."""


class TokenRows(Protocol):
    """API tokens."""

    async def add(self, row: Token) -> None:
        """Add one."""

    async def by_hash(self, digest: str) -> Token | None:
        """Return the token whose secret has this SHA-256."""

    async def by_id(self, token_id: str) -> Token | None:
        """Return one."""

    async def visible(self, org_ids: Collection[str] | None) -> list[Token]:
        """Return the tokens that act only in these organizations; all for `None`."""

    async def revoke(self, token_id: str, at_ms: int) -> None:
        """Mark one as of no more use."""


class HostRows(Protocol):
    """Hosts."""

    async def put(self, row: Host) -> None:
        """Add one, or renew what it says of itself."""

    async def all(self) -> list[Host]:
        """Return every host."""

    async def regions(self) -> list[str]:
        """Return the regions that have hosts, sorted."""

    async def seen(self, host_id: str, at_ms: int) -> None:
        """Note that a host was heard of."""


class AppRows(Protocol):
    """Apps; deleted ones stay as tombstones."""

    async def add(self, row: App) -> None:
        """Add one (what comes from organization and network is not stored again)."""

    async def by_name(self, name: str) -> App | None:
        """Return the living app of that name."""

    async def deleted_by_name(self, name: str) -> App | None:
        """Return the last deleted app of that name."""

    async def by_id(self, app_id: str) -> App | None:
        """Return one, deleted or not."""

    async def by_idempotency_key(self, org_id: str, key: str) -> App | None:
        """Return the living app an organization made with that key."""

    async def page(self, org_id: str, *, role: str | None, after: str, limit: int) -> list[App]:
        """Return living apps of an organization by name, after a name."""

    async def count(self, org_id: str, *, role: str | None) -> int:
        """Return how many living apps an organization has."""

    async def newest_facts(self, after: str, limit: int) -> list[App]:
        """Return apps by id, after an id: the newest of every name, deleted or not."""

    async def set_status(self, app_id: str, status: AppStatus) -> None:
        """Change its status."""

    async def touch(self, app_id: str, revision: int) -> None:
        """Note the revision of its newest fact."""

    async def mark_deleted(self, app_id: str, at_ms: int, revision: int) -> None:
        """Turn it into a tombstone."""


class ReleaseRows(Protocol):
    """Releases."""

    async def add(self, row: Release) -> None:
        """Add one."""

    async def last_version(self, app_id: str) -> int:
        """Return the highest version, 0 when there is none."""

    async def newest(self, app_id: str, limit: int) -> list[Release]:
        """Return the newest first."""

    async def find(self, app_id: str, id_or_version: str) -> Release | None:
        """Return one of an app, by its id or its number."""

    async def set_status(
        self, release_id: str, status: ReleaseStatus, error: str, at_ms: int
    ) -> None:
        """Change its status."""


class PlacementRows(Protocol):
    """Where machines live."""

    async def add(self, row: Placement) -> None:
        """Add one."""

    async def get(self, machine_id: str) -> Placement | None:
        """Return one."""

    async def alive_by_name(self, app_id: str, name: str) -> Placement | None:
        """Return the app's living machine of that name."""

    async def of_app(self, app_id: str, *, destroyed: bool, limit: int) -> list[Placement]:
        """Return an app's accepted machines by age, destroyed ones too when asked."""

    async def counts(self, app_ids: Collection[str]) -> dict[str, int]:
        """Return how many living machines each of these apps has."""

    async def hosts_of(self, app_id: str, since_ms: int) -> list[str]:
        """Return the hosts that have machines of an app, or had after a time."""

    async def hosts_of_org(self, org_id: str) -> list[str]:
        """Return the hosts that have or had machines of an organization."""

    async def assign(self, machine_id: str, host_id: str, region: str, at_ms: int) -> None:
        """Note which host it is offered to."""

    async def set_status(self, machine_id: str, status: PlacementStatus, at_ms: int) -> None:
        """Change how far the offer is."""

    async def record_view(self, machine_id: str, view: dict[str, Any], at_ms: int) -> None:
        """Keep an owner's view, unless something newer was heard."""

    async def apply(self, changes: Sequence[MachineChange], at_ms: int) -> None:
        """Keep what facts say, unless something newer was heard."""

    async def mark_destroyed(self, machine_id: str, at_ms: int) -> None:
        """Note that its host has it no more."""

    async def want_destroyed(self, app_id: str, at_ms: int) -> None:
        """Have every living machine of an app destroyed."""

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

    async def versions(self, machine_id: str, limit: int) -> list[MachineVersion]:
        """Return a machine's configs, newest first."""


class AuditRows(Protocol):
    """What was changed, by whom; only ever added to."""

    async def add(self, row: AuditRow) -> None:
        """Add one."""

    async def page(
        self, org_ids: Collection[str] | None, *, before: str, limit: int
    ) -> list[AuditRow]:
        """Return the newest first, before an id; of all organizations for `None`."""


class OutboxRows(Protocol):
    """Facts on their way to the bus."""

    async def add(self, fact: dict[str, Any]) -> None:
        """Have a fact published after this transaction."""

    async def pending(self, limit: int) -> list[OutboxRow]:
        """Return the oldest."""

    async def done(self, ids: Collection[int]) -> None:
        """Forget those that were published."""


class Rows(Protocol):
    """Every table, within one transaction."""

    @property
    def meta(self) -> MetaRows:
        """The database's own row."""

    @property
    def organizations(self) -> OrganizationRows:
        """Organizations."""

    @property
    def networks(self) -> NetworkRows:
        """Networks."""

    @property
    def users(self) -> UserRows:
        """People."""

    @property
    def tokens(self) -> TokenRows:
        """API tokens."""

    @property
    def hosts(self) -> HostRows:
        """Hosts."""

    @property
    def apps(self) -> AppRows:
        """Apps."""

    @property
    def releases(self) -> ReleaseRows:
        """Releases."""

    @property
    def placements(self) -> PlacementRows:
        """Where machines live."""

    @property
    def audit(self) -> AuditRows:
        """What was changed."""

    @property
    def outbox(self) -> OutboxRows:
        """Facts on their way out."""
