"""Control to host: the requests an agent answers, and its bid for a new machine.

Requests go to `godwit.host.<host_id>.rpc.<verb>`, bids are asked on `godwit.bids.<region>`;
both are JSON envelopes over NATS request/reply. Bodies are limited to 512 KiB by the bus.

    machine.reserve   Offer                         → MachineView (idempotent by machine id)
    machine.get       {machine_id, version?}        → MachineView (an old version: `replaced`)
    machine.list      {app_id, machine_ids?}        → {machines: [MachineView]}
    machine.versions  {machine_id, before?}         → {versions: [Version], more}, newest first
    machine.update    Update                        → MachineView
    machine.start     {machine_id}                  → {previous_state}
    machine.stop      {machine_id, signal?, timeout_ms?}    → {}
    machine.restart   {machine_id, signal?, timeout_ms?}    → {}
    machine.suspend   {machine_id, or_stop?}        → {}
    machine.signal    {machine_id, signal}          → {}
    machine.destroy   {machine_id, force}           → {}
    machine.cordon, machine.uncordon {machine_id}   → {}
    machine.drain     {machine_id, timeout_s?}      → Drained, within that time and 300 s
    machine.undrain   {machine_id}                  → {}
    machine.wait      WaitRequest                   → WaitAnswer
    machine.exec      ExecRequest                   → ExecAnswer
    machine.ps        {machine_id}                  → {processes: [GuestProcess]}
    machine.events    {machine_id, limit, before?}  → {events: [MachineEvent]}
    machine.lease.get      {machine_id}             → {lease: Lease | null}
    machine.lease.acquire  LeaseRequest             → {lease: Lease}
    machine.lease.release  {machine_id}             → {} (the nonce is required, but of components)
    machine.metadata.get   {machine_id}             → Metadata
    machine.metadata.patch MetadataPatch            → {}
    machine.memory.get     {machine_id}             → Memory
    machine.memory.set     {machine_id, limit_mb}   → Memory
    machine.memory.reclaim {machine_id, amount_mb}  → {actual_mb}
    machine.cpu       {machine_id}                  → {cpu: CpuShare | null} (null: not held to it)
    logs.read         LogsRequest                   → LogsAnswer
    usage.read        {org_id?, after, limit}       → {intervals: [UsageInterval]}

A body that changes a machine may hold `nonce`, its caller's proof of holding the machine's lease.
While somebody else holds it, update, start, stop, restart, suspend, destroy, cordon, uncordon,
drain, undrain, exec and memory are refused with `conflict`. The platform's own components need
none.

Hosts ask control, on `godwit.control.rpc.<host_id>.<verb>`, in the same envelopes:

    pull_token        {machine_id, reference}       → {token: str | null}
    release           {release}                     → {}, once when the agent starts
    secrets           {machine_id}                  → {secrets: HostSecrets | null}, the newest
"""

from typing import Any, Literal

from godwit.base import errors, principal
from godwit.wire.guest_containers import Standing
from godwit.wire.network_policies import AppPolicies
from godwit.wire.record import Record
from godwit.wire.secrets import HostSecrets


class Request(Record):
    """The envelope of a request.

    Attributes:
        timeout_s: How long the caller waits; `None` does not say.
    """

    v: int = 1
    principal: principal.Principal
    body: dict[str, Any] = {}
    timeout_s: float | None = None


class Problem(Record):
    """A `Failure` on its way across the bus."""

    code: errors.Code
    message: str
    hint: str = ""


class Reply(Record):
    """The envelope of an answer: `body` or `error`."""

    v: int = 1
    body: dict[str, Any] | None = None
    error: Problem | None = None


class Drained(Record):
    """How a drain ended: what the machine still has at its host's edges.

    Attributes:
        in_flight: Requests; 0 unless the time was over first.
        tunnels: Connections that became something else (WebSocket), which it did not wait for.
        edges: How many edges told; what one of a former release has is not known.
    """

    in_flight: int
    tunnels: int = 0
    edges: int = 0


class Resources(Record):
    """What a machine takes from its host.

    Attributes:
        memory_mb: What it begins with.
        max_memory_mb: How far its memory may change at run time; 0 for not at all.
    """

    cpu_kind: Literal["shared", "performance"] = "shared"
    cpus: int = 1
    memory_mb: int = 256
    max_memory_mb: int = 0

    @property
    def grown(self) -> "Resources":
        """Return them with as much memory as it may ever have: what its VM is made with."""
        return self.model_copy(update={"memory_mb": max(self.memory_mb, self.max_memory_mb)})


class BidRequest(Record):
    """Asks every host of a region what it would say to a machine."""

    v: int = 1
    org_id: str
    app_id: str
    resources: Resources
    image_digest: str


class Bid(Record):
    """A host's answer: whether the machine fits, and why not.

    Attributes:
        score: Greater is better; comparable between hosts of one region.
    """

    v: int = 1
    host_id: str
    region: str
    zone: str
    fits: bool
    reasons: tuple[str, ...] = ()
    score: float = 0.0
    free_memory_mb: int = 0


class ImageRef(Record):
    """An image, resolved to a digest by control.

    Attributes:
        reference: As the user wrote it; what FLY_IMAGE_REF says.
        registry: `host[:port]` to pull from.
        digest: `sha256:…` of the manifest (or index) to pull.
        labels: Those of the image; without what goes beyond 32 KiB.
        insecure: Plain HTTP (the platform's own registry on loopback).
    """

    reference: str
    registry: str
    repository: str
    tag: str = ""
    digest: str
    labels: dict[str, str] = {}
    insecure: bool = False


class Offer(Record):
    """A machine offered to the host that bid best. Idempotent by `machine_id`.

    Attributes:
        config: The machine config exactly as submitted.
        container_images: Of its containers, by their place in the config; then of its volumes
            that are images.
        image_files: What `files[].image_config` puts into files, in base64, by its reference.
        pull_token: Bearer token for the platform's registry; for others, and for the images of
            containers, the host asks control.
        skip_launch: Prepare only; ends `stopped`.
        lease_ttl_s: Above 0, the machine begins under a lease; the answer holds its nonce.
        lease_owner: Who is said to hold it.
        min_secrets_version: The oldest secrets of its app that will do.
        secrets_version: Of the app's secrets it is to have; 0 while the app has none.
        secrets: Those, sealed for this host.
        policies: Its app's network policies; `None` while the app has never had any.
    """

    v: int = 1
    machine_id: str
    instance_id: str
    name: str
    org_id: str
    org_slug: str
    network_id: str
    network_number: int
    app_id: str
    app: str
    region: str
    image: ImageRef
    resources: Resources
    config: dict[str, Any]
    container_images: tuple[ImageRef, ...] = ()
    image_files: dict[str, str] = {}
    pull_token: str | None = None
    skip_launch: bool = False
    cordoned: bool = False
    lease_ttl_s: int = 0
    lease_owner: str = ""
    min_secrets_version: int | None = None
    secrets_version: int = 0
    secrets: HostSecrets | None = None
    policies: AppPolicies | None = None


class Update(Record):
    """A new version of a machine: whole config, new `instance_id`.

    Attributes:
        current_version: When given, the update is refused unless it matches.
        lease_ttl_s: Above 0, the caller holds the machine's lease afterwards.
        nonce: Of the caller's lease.
        secrets_version: As in `Offer`, as are `secrets`, `container_images`, `image_files` and
            `policies`.
    """

    v: int = 1
    machine_id: str
    instance_id: str
    image: ImageRef
    resources: Resources
    config: dict[str, Any]
    container_images: tuple[ImageRef, ...] = ()
    image_files: dict[str, str] = {}
    pull_token: str | None = None
    skip_launch: bool = False
    current_version: str | None = None
    lease_ttl_s: int = 0
    lease_owner: str = ""
    min_secrets_version: int | None = None
    secrets_version: int = 0
    secrets: HostSecrets | None = None
    policies: AppPolicies | None = None
    nonce: str | None = None


class MachineEvent(Record):
    """One entry of a machine's history (spec/machines.md §3.4)."""

    id: str
    type: str
    status: str
    source: str
    timestamp: int
    request: dict[str, Any] | None = None


class CheckStatus(Record):
    """The last result of one check (spec/machines.md §1.2, `checks[]`)."""

    name: str
    status: Literal["passing", "warning", "critical"]
    output: str
    updated_at: str


class Lease(Record):
    """A time for which one client alone may change a machine (spec/machines.md §3.3).

    Attributes:
        nonce: Its holder's proof; only in the answer to who acquired or refreshed it.
        expires_at: Unix seconds.
        version: Of the machine.
    """

    nonce: str | None = None
    expires_at: int
    owner: str = ""
    description: str = ""
    version: str


class LeaseRequest(Record):
    """Acquire a machine's lease, or, with the nonce of the one that is held, prolong it.

    A nonce that means nothing (any more) acquires like none.
    """

    machine_id: str
    ttl_s: int
    description: str = ""
    owner: str = ""
    nonce: str | None = None


class Version(Record):
    """One version of a machine that is, or once was, in place."""

    version: str
    user_config: dict[str, Any]


class Metadata(Record):
    """A machine's metadata: its config's until the endpoint writes to it.

    Attributes:
        updated_at: Of the last write; what `MetadataPatch.updated_at` is compared with.
        version: Of the machine.
    """

    metadata: dict[str, str]
    updated_at: str
    version: str


class MetadataPatch(Record):
    """Set and remove keys of a machine's metadata; makes no version and needs no lease.

    Attributes:
        metadata: `None` or an empty string removes the key; others stay.
        machine_version: When given, refused unless the machine is at this version.
        updated_at: When given, refused unless the metadata was last written then.
    """

    machine_id: str
    metadata: dict[str, str | None]
    machine_version: str | None = None
    updated_at: str | None = None


class Memory(Record):
    """A running machine's memory, in MB.

    Attributes:
        available_mb: What its kernel could give to programs now.
        limit_mb: What it may use of what it was given.
    """

    available_mb: int
    limit_mb: int


class ListenSocket(Record):
    """A socket of a guest's process that takes connections or datagrams."""

    proto: str
    address: str


class GuestProcess(Record):
    """One process in a machine.

    Attributes:
        cpu: Percent of one CPU, on average since it began.
        rss: Bytes in memory.
        rtime: Seconds since it began.
        stime: When it began, in Unix seconds.
    """

    pid: int
    command: str
    directory: str = ""
    cpu: int = 0
    rss: int = 0
    rtime: int = 0
    stime: int = 0
    listen_sockets: tuple[ListenSocket, ...] = ()


class GuestProcesses(Record):
    """What `godwit-init ps` prints inside a guest; Rust twin in `wire/src/processes.rs`.

    Attributes:
        cut: There are more processes than are told.
    """

    v: int = 1
    processes: tuple[GuestProcess, ...] = ()
    cut: bool = False


class MachineView(Record):
    """A machine as its owner sees it; the API adds what only control knows.

    Attributes:
        config: As submitted; but for `metadata`, once its endpoint has written to it.
        metadata: As it is now; what filters go by.
        lease: The one that is held; without the nonce, except in the answer that minted it.
        secrets_version: Of its app's secrets that it has, or gets with the version on its way.
        state: Public state, transient ones included (spec/machines.md §3.1).
        sentence: What the host is doing with it right now, for people.
        revision: Grows with every change; with `epoch` it orders views.
    """

    v: int = 1
    machine_id: str
    instance_id: str
    name: str
    org_id: str
    network_id: str
    app_id: str
    app: str
    host_id: str
    region: str
    state: str
    sentence: str = ""
    cordoned: bool = False
    private_ip: str
    image: ImageRef
    config: dict[str, Any]
    created_at: str
    updated_at: str
    events: tuple[MachineEvent, ...] = ()
    checks: tuple[CheckStatus, ...] = ()
    containers: tuple[Standing, ...] = ()
    metadata: dict[str, str] = {}
    lease: Lease | None = None
    secrets_version: int = 0
    epoch: int
    revision: int


class WaitRequest(Record):
    """Wait for one of several states (spec/machines.md §3.6)."""

    machine_id: str
    states: tuple[str, ...]
    version: str | None = None
    from_event_id: str | None = None
    timeout_s: float = 60


class WaitAnswer(Record):
    """The state that was reached."""

    state: str
    version: str
    event_id: str


class ExecRequest(Record):
    """One command in a machine; output is cut at 128 KiB per stream, and says so.

    Attributes:
        container: Which of several containers it runs in; empty is the main one.
        machine: It runs beside the containers, in the machine itself.
    """

    machine_id: str
    command: tuple[str, ...]
    stdin: str = ""
    timeout_s: float = 10.0
    user: str = ""
    tty: bool = False
    container: str = ""
    machine: bool = False
    nonce: str | None = None


class ExecAnswer(Record):
    """How the command ended."""

    exit_code: int
    exit_signal: int | None = None
    stdout: str
    stderr: str


class LogsRequest(Record):
    """Lines of an app's machines on this host, newest last.

    Attributes:
        after: Cursor in nanoseconds: only later lines. 0 gives the newest `limit`.
    """

    app_id: str
    machine_id: str | None = None
    after: int = 0
    limit: int = 100


class LogEntry(Record):
    """One line with what tells whose it is."""

    t: int
    org_id: str
    app: str
    machine_id: str
    region: str
    stream: Literal["stdout", "stderr", "console", "system"]
    message: str


class LogsAnswer(Record):
    """Lines in order of time."""

    lines: tuple[LogEntry, ...]


class CpuShare(Record):
    """A running machine's CPU beyond its baseline, for metrics (spec/machines.md §6).

    Attributes:
        baseline: In CPUs.
        balance: Centiseconds of CPU time it has saved.
        throttle: Centiseconds its threads were held back since it was started.
    """

    baseline: float
    balance: int
    throttle: int


class UsageInterval(Record):
    """What one machine used in one stretch of time; append-only, the base of quotas and bills.

    An interval lasts an hour at most. One that has not ended is told with what is counted so far.

    Attributes:
        memory_mb: What it has reserved.
        cpu_us: CPU time of its VMM, the boot's included.
        bytes_in: Traffic towards the guest.
        bytes_out: Traffic from the guest.
        disk_bytes: The most that its disks took up.
    """

    id: int
    org_id: str
    app_id: str
    machine_id: str
    host_id: str
    kind: Literal["running"]
    cpu_kind: str
    cpus: int
    memory_mb: int
    started_at_ms: int
    ended_at_ms: int | None
    cpu_us: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    disk_bytes: int = 0
