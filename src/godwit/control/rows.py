"""The rows of one transaction, table by table: what `godwit.store` implements with SQL.

Every method is one statement, indexed; none reads all machines.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from godwit.control.machine_rows import PlacementRows, RelocationRows, StandbyRows
from godwit.control.records import (
    AddressAssignment,
    App,
    AppNetworkPolicies,
    AppSecret,
    AppSecretKey,
    AppStatus,
    AuditRow,
    Host,
    JoinToken,
    KmsKey,
    Meta,
    Network,
    Organization,
    OutboxRow,
    PoliciesOnHost,
    Publication,
    Reached,
    RegistryCredential,
    Release,
    ReleaseStatus,
    RunEntry,
    RunEntryKind,
    RunOutcome,
    RunRow,
    Token,
    UdpClaim,
    User,
)
from godwit.wire.facts import MemberState


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
        """Return a living one by its slug."""

    async def by_ids(self, ids: Collection[str] | None) -> list[Organization]:
        """Return the living among these, or all for `None`, by slug."""

    async def count(self) -> int:
        """Return how many live."""

    async def set_replays_across_networks(self, org_id: str, allowed: bool) -> None:
        """Say whether its apps may replay requests into any of its networks."""

    async def bury(self, org_id: str) -> None:
        """Let one's slug go, and with it the organization."""


class NetworkRows(Protocol):
    """Networks; never removed, so numbers are never used again."""

    async def add(self, row: Network) -> None:
        """Add one."""

    async def by_name(self, org_id: str, name: str) -> Network | None:
        """Return an organization's network."""

    async def next_address(self, network_id: str) -> int:
        """Return the count of a new private address, from 1, never given out before."""


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

    async def set_scopes(self, token_id: str, scopes: Sequence[str]) -> None:
        """Change what one may do."""

    async def revoke(self, token_id: str, at_ms: int) -> None:
        """Mark one as of no more use."""


class RegistryCredentialRows(Protocol):
    """Credentials for external registries, sealed; each of one organization."""

    async def put(self, row: RegistryCredential) -> None:
        """Add one, or replace the organization's for that registry."""

    async def get(self, org_id: str, registry: str) -> RegistryCredential | None:
        """Return an organization's for a registry."""

    async def of_org(self, org_id: str) -> list[RegistryCredential]:
        """Return an organization's, by registry."""

    async def remove(self, org_id: str, registry: str) -> bool:
        """Forget one; tell whether there was one."""


class AppSecretRows(Protocol):
    """Apps' secrets and the wrapped keys that seal them."""

    async def key(self, app_id: str) -> AppSecretKey | None:
        """Return an app's keys; `None` when it never had a secret."""

    async def add_key(self, row: AppSecretKey) -> bool:
        """Add an app's first keys; tell whether it had none."""

    async def replace_key(self, was: AppSecretKey, row: AppSecretKey) -> bool:
        """Replace keys and version; tell whether they still were what they were."""

    async def of_app(self, app_id: str) -> list[AppSecret]:
        """Return an app's secrets, by name."""

    async def names(self, app_id: str) -> frozenset[str]:
        """Return the names of an app's secrets."""

    async def put(self, row: AppSecret) -> None:
        """Add one, or replace the app's of that name; when it was made stays."""

    async def remove(self, app_id: str, name: str) -> None:
        """Forget one."""

    async def forget(self, app_id: str) -> None:
        """Forget all of an app, its keys included."""

    async def wrapped_otherwise(self, root_id: str, limit: int) -> list[AppSecretKey]:
        """Return keys that another root key than this one wraps."""

    async def roots(self) -> frozenset[str]:
        """Return the root keys that wrap something."""


class KmsKeyRows(Protocol):
    """Apps' secret keys."""

    async def of_app(self, app_id: str) -> list[KmsKey]:
        """Return an app's keys, by name."""

    async def get(self, app_id: str, name: str) -> KmsKey | None:
        """Return one."""

    async def put(self, row: KmsKey) -> None:
        """Add one, or replace the app's of that name; when it was made stays."""

    async def remove(self, app_id: str, name: str) -> None:
        """Forget one."""

    async def forget(self, app_id: str) -> None:
        """Forget all of an app."""


class NetworkPolicyRows(Protocol):
    """Network policies, all of an app in one row."""

    async def of_app(self, app_id: str) -> AppNetworkPolicies | None:
        """Return an app's policies; `None` while it has never had any."""

    async def put(self, row: AppNetworkPolicies) -> None:
        """Replace an app's policies."""

    async def forget(self, app_id: str) -> None:
        """Forget an app's."""

    async def on_hosts(self) -> list[PoliciesOnHost]:
        """Return which hosts have living machines of apps that have, or had, policies."""


class HostRows(Protocol):
    """Hosts; removed ones stay, so numbers are never used again."""

    async def get(self, host_id: str) -> Host | None:
        """Return one, removed or not."""

    async def by_key(self, public_key: str) -> Host | None:
        """Return the one whose agent has this nkey, removed or not."""

    async def put(self, row: Host) -> None:
        """Add one, or renew what it says of itself."""

    async def all(self) -> list[Host]:
        """Return every host that was not removed."""

    async def page(self, after: int, limit: int) -> list[Host]:
        """Return hosts by number after one, the removed too."""

    async def regions(self) -> list[str]:
        """Return the regions that have hosts, sorted."""

    async def active(self, region: str) -> list[str]:
        """Return the hosts of a region that take machines."""

    async def count(self, region: str) -> int:
        """Return how many hosts of a region take machines."""

    async def seen(self, host_id: str, at_ms: int) -> None:
        """Note that a host was heard of."""

    async def set_release(self, host_id: str, release: str) -> None:
        """Note which release of Godwit one runs."""

    async def removed(self, ids: Collection[str]) -> frozenset[str]:
        """Return which of these hosts were removed."""

    async def set_state(self, host_id: str, state: MemberState, revision: int) -> None:
        """Change what may be done with one."""


class JoinTokenRows(Protocol):
    """Tokens that let a server join."""

    async def add(self, row: JoinToken) -> None:
        """Add one."""

    async def by_hash(self, digest: str) -> JoinToken | None:
        """Return the one whose secret has this SHA-256."""

    async def by_id(self, token_id: str) -> JoinToken | None:
        """Return one."""

    async def open(self, now_ms: int) -> list[JoinToken]:
        """Return those that a server may still join with, by age."""

    async def use(self, token_id: str, public_key: str, host_id: str, at_ms: int) -> bool:
        """Note who joined with one; tell whether nobody had."""

    async def revoke(self, token_id: str, at_ms: int) -> bool:
        """Make one worthless; tell whether somebody could still join with it."""


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


class AddressRows(Protocol):
    """Addresses of apps; one that is an app's own is nobody else's."""

    async def add(self, row: AddressAssignment) -> None:
        """Add one."""

    async def of_app(self, app_id: str) -> list[AddressAssignment]:
        """Return an app's, the oldest first."""

    async def reached(self, app_ids: Collection[str]) -> dict[str, Reached]:
        """Return how these apps are reached, by app; of one without addresses nothing."""

    async def taken(self, kind: str) -> list[str]:
        """Return all of a type that apps have."""

    async def is_taken(self, ip: str) -> bool:
        """Tell whether it is an app's own."""

    async def remove(self, address_id: str) -> None:
        """Take one away."""

    async def forget(self, app_id: str) -> None:
        """Take all of an app away."""


class UdpClaimRows(Protocol):
    """UDP ports at addresses that apps share, each of one app."""

    async def at(self, ip: str, ports: Collection[int]) -> list[UdpClaim]:
        """Return those of an address at these ports, whosever they are."""

    async def of_app(self, app_id: str) -> list[UdpClaim]:
        """Return an app's, by address and port."""

    async def add(self, row: UdpClaim) -> None:
        """Add one."""

    async def renew(self, app_id: str, ports: Collection[int], at_ms: int) -> None:
        """Note that an app has services at these of its ports."""

    async def remove(self, app_id: str, ports: Collection[int]) -> None:
        """Take these from an app."""

    async def forget(self, app_id: str) -> None:
        """Take all of an app away."""

    async def due(self, before_ms: int, limit: int) -> list[str]:
        """Return the apps that have claims last seen to be wanted before a time, oldest first."""


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

    async def images(self, app_ids: Collection[str], newest: int) -> list[str]:
        """Return the references of all images of the newest releases of each of these apps."""

    async def set_status(
        self, release_id: str, status: ReleaseStatus, error: str, at_ms: int
    ) -> None:
        """Change its status."""


class RunRows(Protocol):
    """Deploys as durable runs; at most one of an app is unfinished."""

    async def add(self, row: RunRow) -> None:
        """Add one."""

    async def get(self, run_id: str) -> RunRow | None:
        """Return one."""

    async def unfinished_of(self, app_id: str) -> RunRow | None:
        """Return the one of an app that has not ended."""

    async def newest(self, app_id: str, limit: int) -> list[RunRow]:
        """Return an app's, the newest first."""

    async def free(self, now_ms: int, limit: int) -> list[RunRow]:
        """Return unfinished runs that nobody carries now, the oldest first."""

    async def claim(self, row: RunRow, holder: str, now_ms: int, until_ms: int) -> bool:
        """Take one over under the next fence; tell whether nobody else did."""

    async def hold(self, run_id: str, fence: int, until_ms: int) -> bool:
        """Go on holding one; tell whether it is still held under this fence and unfinished."""

    async def let_go(self, run_id: str, fence: int) -> None:
        """Leave one to whoever comes next."""

    async def want_cancel(self, run_id: str) -> bool:
        """Have one cancelled; tell whether it was unfinished."""

    async def cancel_wanted(self, run_id: str) -> bool:
        """Tell whether one is to be cancelled."""

    async def turn(self, run_id: str, steps: Sequence[str]) -> None:
        """Change what is still to be done."""

    async def end(self, run_id: str, outcome: RunOutcome, message: str, at_ms: int) -> None:
        """Mark one as over."""

    async def add_entry(
        self, row: RunRow, step: str, kind: RunEntryKind, body: dict[str, Any], at_ms: int
    ) -> int:
        """Write something down about one; return its number."""

    async def entries(self, run_id: str, after: int, limit: int) -> list[RunEntry]:
        """Return what was written down after a number, in order."""

    async def forget(self, app_id: str, keep: int) -> None:
        """Remove the oldest ended ones of an app."""


class AuditRows(Protocol):
    """What was changed, by whom; added to, and forgotten by age alone."""

    async def add(self, row: AuditRow) -> None:
        """Add one."""

    async def has(self, row_id: str) -> bool:
        """Tell whether there is a row of that id."""

    async def page(
        self, org_ids: Collection[str] | None, *, before: str, limit: int
    ) -> list[AuditRow]:
        """Return the newest first, before an id; of all organizations for `None`."""

    async def forget(self, before: str, limit: int) -> int:
        """Remove the oldest before an id; return how many."""


class OutboxRows(Protocol):
    """Facts on their way to the buses of all regions, numbered in the order of commits."""

    async def add(self, fact: dict[str, Any]) -> None:
        """Have a fact published after this transaction."""

    async def after(self, position: int, limit: int) -> list[OutboxRow]:
        """Return the oldest that came later than a position, in their order."""

    async def newest(self) -> int:
        """Return the position of the newest, 0 without any."""

    async def forget(self, now_ms: int) -> None:
        """Forget what every region was told of that follows the outbox now."""


class PublicationRows(Protocol):
    """How far each region was told of what control owns."""

    async def all(self) -> list[Publication]:
        """Return every region's."""

    async def get(self, region: str) -> Publication | None:
        """Return a region's."""

    async def put(self, row: Publication) -> None:
        """Put one in the place of what was there."""

    async def move(self, region: str, holder: str, position: int | None) -> None:
        """Note how far a region was told, unless another holds it now."""

    async def remove(self, region: str) -> None:
        """Remove a region's."""


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
    def registry_credentials(self) -> RegistryCredentialRows:
        """Credentials for external registries."""

    @property
    def app_secrets(self) -> AppSecretRows:
        """Apps' secrets."""

    @property
    def kms_keys(self) -> KmsKeyRows:
        """Apps' secret keys."""

    @property
    def network_policies(self) -> NetworkPolicyRows:
        """Network policies of apps."""

    @property
    def hosts(self) -> HostRows:
        """Hosts."""

    @property
    def join_tokens(self) -> JoinTokenRows:
        """Tokens that let a server join."""

    @property
    def apps(self) -> AppRows:
        """Apps."""

    @property
    def addresses(self) -> AddressRows:
        """Public addresses of apps."""

    @property
    def udp_claims(self) -> UdpClaimRows:
        """UDP ports at addresses that apps share."""

    @property
    def releases(self) -> ReleaseRows:
        """Releases."""

    @property
    def placements(self) -> PlacementRows:
        """Where machines live."""

    @property
    def standbys(self) -> StandbyRows:
        """Which machine stands by for which."""

    @property
    def relocations(self) -> RelocationRows:
        """Machines that are wanted elsewhere."""

    @property
    def runs(self) -> RunRows:
        """Deploys."""

    @property
    def audit(self) -> AuditRows:
        """What was changed."""

    @property
    def outbox(self) -> OutboxRows:
        """Facts on their way out."""

    @property
    def publications(self) -> PublicationRows:
        """How far each region was told of them."""
