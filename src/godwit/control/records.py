"""What control owns, as immutable records: organizations, networks, apps, releases, placements.

Machines themselves are owned by their host; a `Placement` is control's note of where one lives
and the last it heard of it. Times are Unix milliseconds.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

AppStatus = Literal["pending", "deployed", "suspended"]
ReleaseStatus = Literal["running", "complete", "failed", "interrupted"]
PlacementStatus = Literal["offered", "accepted", "abandoned"]


@dataclass(frozen=True)
class Organization:
    """A tenant: what tokens, apps and networks belong to."""

    id: str
    number: int
    slug: str
    name: str
    created_at_ms: int


@dataclass(frozen=True)
class Network:
    """A private network of an organization; its number is part of 6PN addresses for ever."""

    id: str
    number: int
    org_id: str
    name: str
    created_at_ms: int


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


@dataclass(frozen=True)
class Host:
    """A server that runs machines.

    Attributes:
        number: The 32 host bits of 6PN addresses.
        public_key: Its nkey on the bus.
    """

    id: str
    number: int
    public_key: str
    region: str
    zone: str
    created_at_ms: int
    seen_at_ms: int = 0


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


@dataclass(frozen=True)
class Release:
    """One deploy of an app: numbered from 1 within it."""

    id: str
    org_id: str
    app_id: str
    version: int
    image_ref: str
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
