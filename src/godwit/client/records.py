"""What the API answers, typed: spec/machines.md §1.2 and Godwit's own under `/x/v1`.

Unknown fields are ignored and most have defaults, so that an API one release newer or
older is understood.
"""

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field


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


class ImageRef(Answer):
    """The image of a machine."""

    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""

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
    host_status: str = "ok"
    cordoned: bool = False

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
    scopes: list[str] = []
    created_at: str | int | None = None
    expires_at: str | int | None = None
    revoked_at: str | int | None = None


class NewToken(Token):
    """A token just made; `token` is shown this once."""

    token: str


class Host(Answer):
    """A host that runs machines."""

    host_id: str = ""
    region: str = ""
    zone: str = ""
    status: str = ""
    free_memory_mb: int | None = None
    machines: int | None = None


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


class BuildEvent(Answer):
    """One line of a build's answer: `log`, `notice`, `image` or `error`."""

    type: str
    line: str = ""
    message: str = ""
    hint: str = ""
    reference: str = ""
    digest: str = ""
