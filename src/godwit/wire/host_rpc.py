"""Control to host: the requests an agent answers, and its bid for a new machine.

Requests go to `godwit.host.<host_id>.rpc.<verb>`, bids are asked on `godwit.bids.<region>`;
both are JSON envelopes over NATS request/reply. Bodies are limited to 512 KiB by the bus.

    machine.reserve   Offer                         → MachineView (idempotent by machine id)
    machine.get       {machine_id}                  → MachineView
    machine.list      {app_id}                      → {machines: [MachineView]}
    machine.update    Update                        → MachineView
    machine.start     {machine_id}                  → {previous_state}
    machine.stop      {machine_id, signal?, timeout_ms?}    → {}
    machine.restart   {machine_id, signal?, timeout_ms?}    → {}
    machine.signal    {machine_id, signal}          → {}
    machine.destroy   {machine_id, force}           → {}
    machine.cordon, machine.uncordon {machine_id}   → {}
    machine.wait      WaitRequest                   → WaitAnswer
    machine.exec      ExecRequest                   → ExecAnswer
    machine.events    {machine_id, limit}           → {events: [MachineEvent]}
    logs.read         LogsRequest                   → LogsAnswer
    usage.read        {org_id?, after, limit}       → {intervals: [UsageInterval]}
"""

from typing import Any, Literal

from godwit.base import errors, principal
from godwit.wire.record import Record


class Request(Record):
    """The envelope of a request."""

    v: int = 1
    principal: principal.Principal
    body: dict[str, Any] = {}


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


class Resources(Record):
    """What a machine takes from its host."""

    cpu_kind: Literal["shared", "performance"] = "shared"
    cpus: int = 1
    memory_mb: int = 256


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
        pull_token: Bearer token for the platform's registry; `None` for public images.
        skip_launch: Prepare only; ends `stopped`.
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
    pull_token: str | None = None
    skip_launch: bool = False
    cordoned: bool = False


class Update(Record):
    """A new version of a machine: whole config, new `instance_id`.

    Attributes:
        current_version: When given, the update is refused unless it matches.
    """

    v: int = 1
    machine_id: str
    instance_id: str
    image: ImageRef
    resources: Resources
    config: dict[str, Any]
    pull_token: str | None = None
    skip_launch: bool = False
    current_version: str | None = None


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


class MachineView(Record):
    """A machine as its owner sees it; the API adds what only control knows.

    Attributes:
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
    """One command in a machine; output is cut at 128 KiB per stream, and says so."""

    machine_id: str
    command: tuple[str, ...]
    stdin: str = ""
    timeout_s: float = 10.0
    user: str = ""
    tty: bool = False


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


class UsageInterval(Record):
    """What one machine used in one stretch of time; append-only, the base of quotas and bills."""

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
