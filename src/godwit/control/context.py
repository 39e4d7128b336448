"""What every service function receives: control's ports and settings, built once in `cmd`."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from godwit.base.clock import Clock
from godwit.control import machine_signer, ports, registry_tokens, residence, sealing
from godwit.control.address_pools import Pools
from godwit.control.edge_authority import Authority
from godwit.control.liveness import Liveness

BUILDS_AT_ONCE = 2


@dataclass(frozen=True)
class Options:
    """Control's settings, each with its reason.

    Attributes:
        region: The region this control runs in: the default for new machines.
        apps_domain: Apps answer at `<app>.<apps_domain>`.
        api_name: Under which edges serve the API; `None` where they do not.
        registry: `host:port` of the platform's registry.
        ask_s: How long a host may take for a read; past it the last view is shown.
        act_s: How long a host may take to record a change.
        bid_s: How long bids are awaited when no host answers; answers end it early.
        silence_s: How long a region where nobody bids is asked again: a host's agent that is
            being restarted answers within seconds.
        offer_tries: How often an unanswered offer is repeated before it is given up.
        upload_bytes: Largest build context.
        host_gone_s: How long a host is silent before standbys start in its machines' place: an
            agent's restart is over within seconds.
        rate_limits: Whether requests that come too often are refused.
        uploads: Where contexts lie while they are built.
        org_machines: How many living machines an organization may have; 0 for any number.
        org_disk_bytes: What an organization may keep in the registry.
        kept_releases: Releases of an app whose images stay.
        pushed_ms: How long a pushed image stays that nothing names.
        audit_ms: How long audit rows stay.
        machines_ms: How long destroyed machines can be looked up.
        join_address: Where new servers reach the joining endpoint, `host:port`; empty while there
            is none.
        join_fingerprint: SHA-256 of the certificate they know it by.
        join_root: From which the secrets between bus servers are derived.
        addresses: From which apps get public addresses.
        database: The URL of the platform's database, or `sqlite`.
        keys: Where the files are that a further control host gets (`control.replicas`).
        registry_secret: What control shares with the platform's registry; empty refuses its
            notifications.
    """

    region: str
    apps_domain: str
    registry: str
    uploads: Path
    ask_s: float = 5.0
    act_s: float = 15.0
    bid_s: float = 2.0
    silence_s: float = 8.0
    offer_tries: int = 3
    upload_bytes: int = 2 * 1024**3
    org_machines: int = 0
    org_disk_bytes: int = 50 * 1024**3
    kept_releases: int = 10
    pushed_ms: int = 24 * 3_600_000
    audit_ms: int = 365 * 86_400_000
    machines_ms: int = 90 * 86_400_000
    registry_secret: str = field(default="", repr=False)
    database: str = field(default=residence.SQLITE, repr=False)
    keys: Path = Path()
    host_gone_s: float = 60.0
    api_name: str | None = None
    rate_limits: bool = True
    join_address: str = ""
    join_fingerprint: str = ""
    join_root: bytes = field(default=b"", repr=False)
    addresses: Pools = field(default_factory=Pools)


@dataclass(frozen=True)
class Context:
    """Ports and settings.

    Attributes:
        sealer: For the platform's own secrets in the database, such as registries' passwords.
        keyring: For apps' secrets.
        facts_wanted: Set when the outbox has something to publish.
        upkeep_wanted: Set when a machine is to be destroyed.
        policies_wanted: Set when an app's network policies have changed.
        deploys_wanted: Set when a deploy was begun or is to be cancelled.
        build_slots: Bounds the builds that run at once.
        liveness: Which hosts answer.
        authority: Vouches for edges; `None` where hosts make do without TLS.
    """

    store: ports.Store
    hosts: ports.Hosts
    images: ports.Images
    builder: ports.Builder
    warehouse: ports.Warehouse
    clock: Clock
    signer: registry_tokens.Signer
    machine_signer: machine_signer.Signer
    sealer: sealing.Sealer
    keyring: ports.Keyring
    options: Options
    facts_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    upkeep_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    policies_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    deploys_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    build_slots: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(BUILDS_AT_ONCE)
    )
    liveness: Liveness = field(default_factory=Liveness)
    authority: Authority | None = None
