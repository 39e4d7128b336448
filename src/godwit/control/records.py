"""What control owns, as immutable records: organizations, networks, apps, releases, placements.

Machines themselves are owned by their host; a `Placement` is control's note of where one lives
and the last it heard of it. Times are Unix milliseconds.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from godwit.control.sealing import Sealed
from godwit.wire.facts import MemberState
from godwit.wire.kms import KeyType

AppStatus = Literal["pending", "deployed", "suspended"]
ReleaseStatus = Literal["running", "complete", "failed", "interrupted"]
PlacementStatus = Literal["offered", "accepted", "abandoned"]
RunOutcome = Literal["complete", "failed", "cancelled"]


@dataclass(frozen=True)
class Organization:
    """A tenant: what tokens, apps and networks belong to.

    Attributes:
        replays_across_networks: Its apps may replay requests into any of its networks.
    """

    id: str
    number: int
    slug: str
    name: str
    created_at_ms: int
    replays_across_networks: bool = False


@dataclass(frozen=True)
class Network:
    """A private network of an organization; its number is part of 6PN addresses for ever.

    Attributes:
        addresses_given: To apps, those that were taken back included.
    """

    id: str
    number: int
    org_id: str
    name: str
    created_at_ms: int
    addresses_given: int = 0


@dataclass(frozen=True)
class User:
    """A person."""

    id: str
    email: str
    name: str
    created_at_ms: int


@dataclass(frozen=True)
class Token:
    """An API token; only the SHA-256 of its secret is kept.

    Attributes:
        org_ids: Organizations it may act in; `None` means every one (the operator).
        app_ids: The apps that it may act on; `None` means all of these organizations.
    """

    id: str
    name: str
    hash: str
    user_id: str | None
    org_ids: tuple[str, ...] | None
    scopes: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    app_ids: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Host:
    """A server of the cluster; a removed one stays.

    Attributes:
        number: The 32 host bits of 6PN addresses, never another's.
        public_key: Its agent's nkey on the bus.
        keys: The nkey of each of its components, the agent's (`host`) among them.
        sealing_key: The X25519 key, base64, that apps' keys are sealed to for it.
        mesh_key: Its WireGuard public key, base64.
        mesh_next_key: What that key will be; empty unless it is about to change.
        endpoints: Where its WireGuard takes packets, `address:port`.
        services: Where other hosts reach what runs there, `address:port` by role.
        revision: Of its member fact.
        release: Which release of Godwit it last said it runs; empty when it never did.
    """

    id: str
    number: int
    public_key: str
    region: str
    zone: str
    created_at_ms: int
    seen_at_ms: int = 0
    sealing_key: str = ""
    roles: list[str] = field(default_factory=lambda: ["agent", "edge", "dns"])
    keys: dict[str, str] = field(default_factory=dict)
    mesh_key: str = ""
    mesh_next_key: str = ""
    endpoints: list[str] = field(default_factory=list)
    services: dict[str, str] = field(default_factory=dict)
    state: MemberState = "active"
    revision: int = 0
    release: str = ""


@dataclass(frozen=True)
class JoinToken:
    """Lets one server join the cluster, once; only the SHA-256 of its secret is kept.

    Attributes:
        region: The only one it is good for; `None` leaves that to who joins.
        used_by: The nkey of the server that joined with it.
        host_id: What became of that server.
    """

    id: str
    hash: str
    region: str | None
    created_by: str
    created_at_ms: int
    expires_at_ms: int
    used_by: str | None = None
    host_id: str | None = None
    used_at_ms: int | None = None
    revoked_at_ms: int | None = None


@dataclass(frozen=True)
class AppSecretKey:
    """An app's keys, wrapped by the keyring, and the version of its secrets.

    Attributes:
        version: Grows with every change of any secret.
        key_id: Which key seals the app's values.
        root_id: Which of the keyring's keys wraps it.
    """

    app_id: str
    org_id: str
    version: int
    key_id: str
    root_id: str
    data: str
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True)
class AppSecret:
    """One secret of an app, sealed with the app's key.

    Attributes:
        version: Of the app's secrets when this value was set.
        digest: What users see of the value.
    """

    app_id: str
    name: str
    org_id: str
    version: int
    key_id: str
    data: str
    digest: str
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True)
class KmsKey:
    """A secret key of an app, which only the keyring can use.

    Attributes:
        data: Sealed, base64.
        public_key: What may be known of it, base64; empty for a symmetric key.
    """

    app_id: str
    name: str
    org_id: str
    type: KeyType
    data: str = field(repr=False)
    public_key: str
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True)
class AppNetworkPolicies:
    """All network policies of an app, as JSON; the row stays when the last one is removed.

    Attributes:
        version: Grows with every change.
    """

    app_id: str
    org_id: str
    version: int
    policies: list[dict[str, Any]]


@dataclass(frozen=True)
class PoliciesOnHost:
    """A host that an app's network policies concern, and their version."""

    host_id: str
    app_id: str
    version: int


@dataclass(frozen=True)
class App:
    """An app with what its organization and network say of it.

    Attributes:
        revision: Of its last fact; a deleted app keeps a tombstone's.
    """

    id: str
    number: int
    org_id: str
    org_slug: str
    org_name: str
    org_number: int
    network_id: str
    network_name: str
    network_number: int
    name: str
    status: AppStatus
    role: str
    idempotency_key: str | None
    revision: int
    created_at_ms: int
    deleted_at_ms: int | None = None
    replays_across_networks: bool = False


PRIVATE = "private_v6"
"""The type of an address that the machines of one network reach, and nobody else."""


@dataclass(frozen=True)
class Reached:
    """Where an app is reached beside its machines' own addresses.

    Attributes:
        own: Addresses that are its alone, private ones among them.
        inside_alone: Not by its name from outside either.
        shared_udp: UDP ports that are its alone at addresses that apps share, `ip:port`.
    """

    own: tuple[str, ...] = ()
    inside_alone: bool = False
    shared_udp: tuple[str, ...] = ()


@dataclass(frozen=True)
class UdpClaim:
    """A UDP port at an address that apps share: it is one app's.

    Attributes:
        wanted_at_ms: When the app was last seen to have a service there.
    """

    ip: str
    port: int
    org_id: str
    app_id: str
    wanted_at_ms: int


@dataclass(frozen=True)
class AddressAssignment:
    """An address of an app.

    Attributes:
        type: `v4` and `v6` are the app's alone; `shared_v4` is not; `private_v6` is its alone
            in the network that has the address.
        network_id: Of a private one: whose machines reach it; `network_org` is that
            organization's slug.
        sole: It was the first address of an app that was not deployed yet: as long as it has
            no public one, the app is not reached from outside.
    """

    id: str
    org_id: str
    app_id: str
    ip: str
    type: str
    service_name: str
    created_at_ms: int
    network_id: str | None = None
    sole: bool = False
    network_name: str | None = None
    network_org: str | None = None


@dataclass(frozen=True)
class Release:
    """One deploy of an app: numbered from 1 within it.

    Attributes:
        further_images: Those that its containers run and its files are made of.
    """

    id: str
    org_id: str
    app_id: str
    version: int
    image_ref: str
    further_images: list[str]
    config: dict[str, Any]
    status: ReleaseStatus
    strategy: str
    description: str
    error: str
    user: str
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True)
class Placement:
    """Where a machine lives and the last that was heard of it.

    Attributes:
        status: `offered` until a host took it; `abandoned` when nobody may have.
        epoch: With `revision`, of the newest thing heard (fact or view).
        view: The last `MachineView`, as JSON; facts may have told newer things since.
        destroy_wanted: Its host is asked until it is gone.
        changed_at_ms: When something new was heard of it.
    """

    machine_id: str
    org_id: str
    network_id: str
    app_id: str
    name: str
    region: str
    host_id: str | None
    status: PlacementStatus
    instance_id: str
    state: str
    epoch: int
    revision: int
    view: dict[str, Any] | None
    destroy_wanted: bool
    created_at_ms: int
    updated_at_ms: int
    destroyed_at_ms: int | None = None
    view_epoch: int = 0
    view_revision: int = 0
    changed_at_ms: int = 0

    @property
    def about(self) -> dict[str, str]:
        """Return what log lines about the machine carry."""
        return {
            "org_id": self.org_id,
            "network_id": self.network_id,
            "machine_id": self.machine_id,
        }


@dataclass(frozen=True)
class RegistryCredential:
    """What an organization shows to one external registry.

    Attributes:
        registry: `host[:port]` in lower case; `docker.io` for Docker Hub.
        sealed: The password.
    """

    org_id: str
    registry: str
    username: str
    sealed: Sealed
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True)
class MachineVersion:
    """A config a machine has had."""

    machine_id: str
    org_id: str
    app_id: str
    version: str
    config: dict[str, Any]
    created_at_ms: int


@dataclass(frozen=True)
class Standby:
    """A machine that is started when the host of another one is gone.

    Attributes:
        machine_id: Which one is started.
        watched_id: Whose host it is about.
        called_at_ms: When that host was found gone.
        started_at_ms: When the standby's own host had been told.
    """

    machine_id: str
    watched_id: str
    org_id: str
    app_id: str
    called_at_ms: int | None = None
    started_at_ms: int | None = None


RelocationState = Literal["wanted", "leaving", "moved", "cancelled"]


@dataclass(frozen=True)
class RelocationRow:
    """A machine that somebody wants elsewhere, or that went there.

    Attributes:
        region: Where it is wanted.
        state: `wanted`; `leaving` once the new one is well, and there is no way back.
        problem: Why it is still where it was, in words.
        moved_to: The machine that took its place.
    """

    machine_id: str
    org_id: str
    app_id: str
    region: str
    asked_by: str
    asked_at_ms: int
    state: RelocationState = "wanted"
    problem: str = ""
    moved_to: str | None = None


@dataclass(frozen=True)
class CalledStandby:
    """A standby that was called, and where it and what it stands by for are."""

    row: Standby
    host_id: str | None
    watched_host_id: str | None


@dataclass(frozen=True)
class RunRow:
    """A deploy under way or over: which steps, of what, and who carries it now.

    Attributes:
        steps: Names, in order; the way back is appended when it turns.
        input: What was decided when it began (`deploys.order.Order`).
        outcome: `complete`, `failed` or `cancelled`, once it has ended.
        message: Why it failed.
        fence: Grows with every holder: who writes with an older one writes nothing.
        holder: The control process that carries it.
        held_until_ms: Past it, anybody may take it over.
    """

    id: str
    org_id: str
    app_id: str
    release_id: str
    kind: str
    steps: list[str]
    input: dict[str, Any]
    begun_at_ms: int
    ended_at_ms: int | None = None
    outcome: RunOutcome | None = None
    message: str = ""
    cancel_wanted: bool = False
    fence: int = 0
    holder: str | None = None
    held_until_ms: int = 0


RunEntryKind = Literal["done", "trouble", "event"]


@dataclass(frozen=True)
class RunEntry:
    """One thing written down about a run: a step that is done, trouble, or what happened."""

    run_id: str
    number: int
    org_id: str
    step: str
    kind: RunEntryKind
    at_ms: int
    body: dict[str, Any]


@dataclass(frozen=True)
class AuditRow:
    """One mutation: who did what to which thing."""

    id: str
    at_ms: int
    principal: str
    org_id: str | None
    action: str
    target: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OutboxRow:
    """A fact of control's on its way to the bus."""

    id: int
    fact: dict[str, Any]


@dataclass(frozen=True)
class Publication:
    """How far a region was told of what control owns.

    Attributes:
        holder: The replica of control that tells it, until `until_ms`.
        position: The outbox's row up to which it was told; `None` while it needs everything.
    """

    region: str
    holder: str
    until_ms: int
    position: int | None


@dataclass(frozen=True)
class MachineChange:
    """What a host's fact says of a machine, as far as control's view goes."""

    machine_id: str
    host_id: str
    instance_id: str
    state: str
    epoch: int
    revision: int
    destroyed: bool


@dataclass(frozen=True)
class Meta:
    """What the database says of itself: its epoch and the newest revision it gave out."""

    epoch: int
    revision: int
