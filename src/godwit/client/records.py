"""What the API answers, typed: spec/machines.md §1.2 and Godwit's own under `/x/v1`.

Unknown fields are ignored and most have defaults, so that an API one release newer or
older is understood.
"""

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator


class Answer(BaseModel):
    """A record from the API."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class OrgRef(Answer):
    """The organization as an app names it."""

    name: str = ""
    slug: str = ""


class App(Answer):
    """An app."""

    id: str = ""
    name: str
    status: str = ""
    machine_count: int = 0
    network: str = ""
    organization: OrgRef = OrgRef()
    created_at: int | str | None = None


class Org(Answer):
    """An organization."""

    id: str = ""
    slug: str
    name: str = ""
    created_at: str | int | None = None
    cross_network_replays: bool = False


class OrgDisk(Answer):
    """What an organization takes of disks."""

    registry_bytes: int = 0
    registry_limit_bytes: int = 0
    image_bytes: int = 0
    machine_bytes: int = 0
    silent_hosts: list[str] = []


class OrgShown(Org):
    """An organization and what it takes."""

    disk: OrgDisk = OrgDisk()


class ImageRef(Answer):
    """The image of a machine."""

    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    labels: dict[str, str] = {}

    def short(self) -> str:
        """Return `repository:tag`, or with the digest where there is no tag."""
        if self.tag:
            return f"{self.repository}:{self.tag}"
        return f"{self.repository}@{self.digest[:19]}" if self.digest else self.repository


class Event(Answer):
    """One entry of a machine's history; `timestamp` in milliseconds."""

    id: str = ""
    type: str = ""
    status: str = ""
    source: str = ""
    timestamp: int = 0
    request: dict[str, Any] | None = None

    def exit(self) -> dict[str, Any]:
        """Return the exit event inside, empty when there is none."""
        request = self.request or {}
        monitor = request.get("MonitorEvent") or {}
        return monitor.get("exit_event") or request.get("exit_event") or {}


class CheckStatus(Answer):
    """The last result of a check."""

    name: str = ""
    status: str = ""
    output: str = ""
    updated_at: str = ""


class Lease(Answer):
    """Who alone may change a machine, until `expires_at` (Unix seconds)."""

    owner: str = ""
    description: str = ""
    expires_at: int = 0
    version: str = ""


class Move(Answer):
    """A machine's way to another place; `problem` says why it is still where it was."""

    machine_id: str
    region: str
    state: str
    problem: str = ""
    moved_to: str | None = None


class Version(Answer):
    """A config a machine has had."""

    version: str
    user_config: dict[str, Any] = {}


class ListenSocket(Answer):
    """Where a process listens."""

    proto: str = ""
    address: str = ""


class Process(Answer):
    """A process in a machine: `rss` in bytes, `cpu` in percent, `rtime` in seconds."""

    pid: int
    command: str = ""
    directory: str = ""
    cpu: float = 0
    rss: int = 0
    rtime: int = 0
    stime: int = 0
    listen_sockets: list[ListenSocket] = []


class Memory(Answer):
    """A running machine's memory."""

    available_mb: int = 0
    limit_mb: int = 0


class Cpu(Answer):
    """A running machine's CPU: in CPUs, and in hundredths of a second; `None` where it is free."""

    baseline: float | None = None
    balance: int | None = None
    throttle: int | None = None


class Container(Answer):
    """A container of a machine that runs, and what it does."""

    name: str = ""
    state: str = ""


class Machine(Answer):
    """A machine. `events` holds the latest few, newest first."""

    id: str
    name: str = ""
    state: str = ""
    region: str = ""
    image_ref: ImageRef = ImageRef()
    version: str = Field("", validation_alias=AliasChoices("version", "instance_id"))
    private_ip: str = ""
    created_at: str = ""
    updated_at: str = ""
    config: dict[str, Any] = {}
    events: list[Event] = []
    checks: list[CheckStatus] = []
    containers: list[Container] = []
    host_status: str = "ok"
    cordoned: bool = False
    lease: Lease | None = None

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the config."""
        return self.config.get("metadata") or {}

    def group(self) -> str:
        """Return the process group, empty for a machine that no deploy manages."""
        return self.metadata().get("fly_process_group", "")

    def managed(self) -> bool:
        """Tell whether deploys manage it."""
        return self.metadata().get("fly_platform_version") == "v2"


class Waited(Answer):
    """The state that was reached."""

    ok: bool = True
    state: str = ""
    version: str = ""
    event_id: str = ""


class Ran(Answer):
    """How a command in a machine ended."""

    exit_code: int = 0
    exit_signal: int | None = None
    stdout: str = ""
    stderr: str = ""


class Release(Answer):
    """One release of an app; `config` is the definition it was made of."""

    id: str = ""
    version: int
    status: str = ""
    strategy: str = ""
    description: str = ""
    user: str = ""
    image: str = Field("", validation_alias=AliasChoices("image_ref", "image"))
    error: str | None = None
    config: dict[str, Any] | None = None
    created_at: str = ""


class DeployEvent(Answer):
    """What happened in a deploy; `level` is `step`, `state`, `warning` or `error`."""

    number: int
    at: str = ""
    level: str = "state"
    group: str = ""
    machine_id: str = ""
    message: str = ""


class PlannedMachine(Answer):
    """A machine that a deploy makes."""

    region: str = ""
    standby: bool = False


class PlannedUpdate(Answer):
    """A machine that gets the new release; `start` unless it goes on resting."""

    machine_id: str
    region: str = ""
    start: bool = True


class PlannedGroup(Answer):
    """What a deploy does to the machines of a process group."""

    group: str
    create: list[PlannedMachine] = []
    update: list[PlannedUpdate] = []
    destroy: list[str] = []


class DeployPlan(Answer):
    """What a deploy does to machines; `sentences` say it for people."""

    strategy: str = ""
    release_command: str = ""
    groups: list[PlannedGroup] = []
    unchanged: list[str] = []
    sentences: list[str] = []

    @field_validator("release_command", mode="before")
    @classmethod
    def _none_is_empty(cls, value: str | None) -> str:
        return value or ""


class DeployedRelease(Answer):
    """The release that a deploy makes."""

    id: str = ""
    version: int = 0
    image: str = ""


class Deploy(Answer):
    """A deploy, with some of its events; `status` is `running` until it has ended."""

    id: str
    app: str = ""
    kind: str = ""
    status: str = ""
    release: DeployedRelease = DeployedRelease()
    strategy: str = ""
    user: str = ""
    begun_at: str = ""
    ended_at: str | None = None
    step: str | None = None
    sentence: str | None = None
    error: str | None = None
    plan: DeployPlan | None = None
    events: list[DeployEvent] = []


class LogLine(Answer):
    """One line of log."""

    timestamp: str = ""
    message: str = ""
    level: str = "info"
    instance: str = ""
    region: str = ""
    stream: str = ""


class LogPage(Answer):
    """Lines in order of time, and where to go on."""

    lines: list[LogLine]
    next_token: str = ""


class Token(Answer):
    """A token as it is listed: never the secret itself."""

    id: str
    name: str = ""
    org_slug: str | None = None
    apps: list[str] = []
    scopes: list[str] = []
    created_at: str | int | None = None
    expires_at: str | int | None = None
    revoked_at: str | int | None = None


class NewToken(Token):
    """A token just made; `token` is shown this once."""

    token: str


class Host(Answer):
    """A server of the cluster."""

    host_id: str = ""
    host_number: int = 0
    region: str = ""
    zone: str = ""
    state: str = "active"
    status: str = ""
    roles: list[str] = []
    machines: int | None = None
    free_memory_mb: int | None = None
    release: str = ""
    mesh_address: str = ""
    endpoints: list[str] = []
    services: dict[str, str] = {}
    created_at: str = ""
    seen_at: str | None = None


class MeshPeer(Answer):
    """Another host as a host reaches it."""

    host_id: str
    region: str = ""
    endpoint: str = ""
    handshake_at: str | None = None
    received_bytes: int = 0
    sent_bytes: int = 0
    silent: bool = True
    rtt_ms: float | None = None


class LostMachine(Answer):
    """A machine that was on a host when it was removed."""

    id: str
    name: str = ""
    app_id: str = ""
    org_id: str = ""


class JoinToken(Answer):
    """A token that a server may join with; `token` is there only when it was just made."""

    id: str = ""
    region: str | None = None
    created_by: str = ""
    created_at: str = ""
    expires_at: str = ""
    token: str = ""


class HostImage(Answer):
    """One image at rest on a host."""

    digest: str
    reference: str = ""
    size_bytes: int = 0
    used_at: str = ""
    machines: int = 0
    held: str = ""


class HostImages(Answer):
    """The images of a host, the longest unused first."""

    images: list[HostImage] = []
    total_bytes: int = 0
    free_bytes: int = 0
    pins_known: bool = True


class RemovedImage(Answer):
    """An image that went, and why."""

    digest: str
    size_bytes: int = 0
    reason: str = ""
    sentence: str = ""


class Region(Answer):
    """A region of the platform."""

    code: str
    name: str = ""
    geo_region: str = ""
    latitude: float = 0.0
    longitude: float = 0.0
    gateway_available: bool = False


class Regions(Answer):
    """The regions, and the one nearest to who asks."""

    regions: list[Region] = []
    nearest: str = ""


class Placement(Answer):
    """How many machines a region would get; `concurrency` of them could start at once."""

    region: str
    count: int = 0
    concurrency: int = 0


class BuildEvent(Answer):
    """One line of a build's answer: `log`, `notice`, `image` or `error`."""

    type: str
    line: str = ""
    code: str = ""
    message: str = ""
    hint: str = ""
    reference: str = ""
    digest: str = ""
